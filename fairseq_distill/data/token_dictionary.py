"""The tokens of a recogniser: fairseq's dictionary as a text file (`dict.ltr.txt`) or as a checkpoint holds it."""

from pathlib import Path
from typing import Any, FrozenSet, List, Mapping, NamedTuple

from fairseq.data import Dictionary

from ..errors import UserError

CTC_BLANK = "<ctc_blank>"


class TokenDictionary(NamedTuple):
    """What a recogniser's outputs stand for.

    Attributes:
        symbols: by number; one that a later line overwrites stands twice.
        bos: number of `<s>`, fairseq's blank.
        eos: number of `</s>`, which fairseq leaves out of texts.
    """

    symbols: List[str]
    bos: int
    eos: int

    @property
    def blanks(self) -> FrozenSet[int]:
        """Numbers that stand for no token: `<s>`, and `<ctc_blank>`, which fairseq's decoders take if it is there."""
        return frozenset([self.bos, *(n for n, symbol in enumerate(self.symbols) if symbol == CTC_BLANK)])


def read_dictionary(path: Path) -> TokenDictionary:
    """`load_dictionary` as plain values."""
    dictionary = load_dictionary(path)
    return TokenDictionary(dictionary.symbols, dictionary.bos(), dictionary.eos())


def load_dictionary(path: Path) -> Dictionary:
    """Fairseq's dictionary of lines TOKEN COUNT, behind its own four; with or without a byte order mark.

    Raises:
        UserError: it cannot be read, or fairseq refuses a line (of another form, or a token a second time without the
            flag #fairseq:overwrite).
    """
    dictionary = Dictionary()
    try:
        # not fairseq's own opening: it takes a byte order mark for a part of the first token
        with open(path, encoding="utf-8-sig") as lines:
            dictionary.add_from_file(lines)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (RuntimeError, ValueError) as error:  # a token twice, a line without a count, text that is not UTF-8
        raise UserError(f"{path}: not fairseq's dictionary, lines of UNIT COUNT: {error}") from error
    return dictionary


def restore_dictionary(fields: Mapping[str, Any], source: Any) -> TokenDictionary:
    """The dictionary whose attributes a checkpoint holds; `source` is the file, for the message.

    Raises:
        UserError: they are not those of a dictionary.
    """
    symbols = fields.get("symbols")
    symbols = symbols if isinstance(symbols, list) else []
    bos, eos = fields.get("bos_index", 0), fields.get("eos_index", 2)
    numbers = range(len(symbols))
    if bos not in numbers or eos not in numbers or not all(isinstance(symbol, str) for symbol in symbols):
        raise UserError(f"the dictionary inside {source} is damaged: give its text file (--dict)")
    return TokenDictionary(symbols, bos, eos)
