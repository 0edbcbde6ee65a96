"""Transcripts as tokens: where words begin or end in them, and how far two transcripts are apart."""

import unicodedata
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from fairseq.data.data_utils import post_process

from ..errors import UserError

WORDS = "wrd"  # ending of files whose tokens are words
LETTERS, PIECES, SUBWORDS = "letter", "sentencepiece", "subword_nmt"  # fairseq's names for how words are joined
_WHOLE_WORDS = "none"
_PIECE_MARK = "\u2581"  # begins a word
_SUBWORD_MARK = "@@"  # ends a token that the word goes on behind
_NAMES = {PIECES: "pieces", SUBWORDS: "subwords", _WHOLE_WORDS: "words"}


def find_marks(tokens: Iterable[str], labels: str = "") -> Optional[str]:
    """How words are marked in tokens: fairseq's name of the post-processing that joins them, None = not at all.

    Args:
        tokens: all there are.
        labels: ending of their file; the tokens of .wrd are words.
    """
    found = set(tokens)
    if labels == WORDS:
        return _WHOLE_WORDS
    if any(token.startswith(_PIECE_MARK) for token in found):
        return PIECES
    if "|" in found:
        return LETTERS
    # @@ alone is a phoneme
    return SUBWORDS if any(token.endswith(_SUBWORD_MARK) and token != _SUBWORD_MARK for token in found) else None


def join_words(tokens: Sequence[str], marks: str) -> str:
    """Tokens -> words with one space between them, as fairseq joins them."""
    return " ".join(post_process(" ".join(tokens), marks).split())


class Reference(NamedTuple):
    """What was said in one utterance.

    Attributes:
        units: the tokens to compare; None where the file's are not those of the model.
        text: the words; None where they are not marked.
        is_spelled: the text consists of characters, which can be compared.
        unknown: number of units that the model's dictionary has not.
    """

    units: Optional[List[str]]
    text: Optional[str]
    is_spelled: bool
    unknown: int = 0


class References(NamedTuple):
    """A file of transcripts.

    Attributes:
        rows: by row of the manifest; None where the line is empty.
        unit: what units are: letters, pieces, subwords or words; characters or tokens where words are not marked;
            None where the file has not the model's.
        any_known: some unit is in the model's dictionary, or there are none.
    """

    rows: List[Optional[Reference]]
    unit: Optional[str]
    any_known: bool


def read_references(
    lines: Sequence[List[str]], labels: str, symbols: Sequence[str], marks: Optional[str]
) -> References:
    """Transcripts as what a model's output is compared with.

    Words are compared where both mark them, each in its own way. Units are compared as they stand in the file; words
    of another kind are spelled where the model's units are letters, and have no units otherwise.

    Args:
        lines: tokens of each row, [] where there is no transcript.
        labels: ending of the file.
        symbols: of the model's dictionary.
        marks: of the model, see `find_marks`.
    """
    theirs = find_marks((token for line in lines for token in line), labels)
    rows = [_read_line(line, theirs, marks) for line in lines]
    units = {unit for row in rows if row for unit in row.units or ()}
    known = units.intersection(symbols)
    rows = [row and row._replace(unknown=sum(unit not in known for unit in row.units or ())) for row in rows]
    return References(rows, _name_units(units, theirs if marks is None else marks), bool(known) or not units)


def _read_line(line: List[str], theirs: Optional[str], marks: Optional[str]) -> Optional[Reference]:
    if theirs is None or marks is None:
        return Reference(line, None, False) if line else None
    text = join_words(line, theirs)
    if not text:
        return None
    is_spelled = theirs != LETTERS or all(map(_is_letter, line))
    units: Optional[List[str]] = line
    if theirs != marks:
        units = [*text.replace(" ", "|"), "|"] if marks == LETTERS else None
    return Reference(units, text, is_spelled)


def _name_units(units: Set[str], marks: Optional[str]) -> Optional[str]:
    if not units:
        return None
    if marks in _NAMES:
        return _NAMES[marks]
    return "tokens" if not all(map(_is_letter, units)) else "letters" if "|" in units else "characters"


def _is_letter(token: str) -> bool:
    """Whether a token is one character, with its marks, or a sign such as <unk>."""
    return token.startswith("<") or sum(unicodedata.category(character)[0] != "M" for character in token) <= 1


class Utterance:
    """One utterance, what was said and what was recognised, and the distances between the two.

    Counts and distances are None where the reference does not have what they count.

    Args:
        path: its file.
        reference: what was said.
        units: tokens that were recognised.
        text: their words, or None.
    """

    def __init__(self, path: str, reference: Reference, units: List[str], text: Optional[str]):
        self.path = path
        said, self.hypothesis, self.unknown_units = reference.text, " ".join(units), reference.unknown
        self.units, self.unit_errors = _compare(units, reference.units)
        words = None if said is None else said.split()
        self.words, self.word_errors = _compare((text or "").split(), words)
        self.characters, self.character_errors = _compare(text or "", said if reference.is_spelled else None)
        if said is not None:
            self.reference, self.hypothesis = said, text or ""
        else:
            self.reference = " ".join(reference.units or ())


def _compare(found: Any, wanted: Any) -> Tuple[Optional[int], Optional[int]]:
    """(length of what is wanted, least number of changes that turn one sequence into the other); Nones without one."""
    if wanted is None:
        return None, None
    try:
        import editdistance
    except ImportError as error:
        raise UserError(
            "evaluate ctc counts errors with editdistance, as fairseq does: pip install editdistance"
        ) from error
    return len(wanted), editdistance.eval(found, wanted)
