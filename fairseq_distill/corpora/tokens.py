"""Transcripts as tokens of a CTC model: letters or sentencepiece's pieces, in the form of fairseq's labels."""

from collections import Counter
from pathlib import Path
from typing import Any, Dict, Sequence

from ..errors import UserError

_SPECIALS = 3  # the first tokens of a sentencepiece model: <unk>, <s>, </s>; fairseq's dictionary has its own


class Letters:
    """`HI YOU` -> `H I | Y O U |`, as fairseq's `.ltr` files and its post-processing `letter` have it."""

    ending = "ltr"

    def split(self, text: str) -> str:
        """Tokens of a text, spaces between them."""
        return " ".join(text.replace(" ", "|")) + " |"

    def order(self, counts: Dict[str, int]) -> Dict[str, int]:
        """The dictionary of counted tokens: the commonest first."""
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class Pieces:
    """`HELLO YOU` -> `▁HE LLO ▁YOU`, which fairseq's post-processing `sentencepiece` undoes.

    Args:
        texts: transcripts to train a unigram model on, as they stand: no normalisation, so that no word changes.
        size: tokens of the model, <unk>, <s> and </s> among them.
        path: where the model is written.

    Raises:
        UserError: sentencepiece is not installed, or the texts do not allow this size.
    """

    ending = "spm"

    def __init__(self, texts: Sequence[str], size: int, path: Path):
        sentencepiece = load_sentencepiece()
        try:
            with open(path, "wb") as model:
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=iter(texts),
                    model_writer=model,
                    vocab_size=size,
                    model_type="unigram",
                    character_coverage=1.0,
                    normalization_rule_name="identity",
                    minloglevel=2,
                )
        except RuntimeError as error:
            raise UserError(
                f"--pieces {size}: sentencepiece cannot train on {len(texts):,} transcripts: {error}"
            ) from error
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def split(self, text: str) -> str:
        """Tokens of a text, spaces between them."""
        return " ".join(self._processor.encode(text, out_type=str))

    def order(self, counts: Dict[str, int]) -> Dict[str, int]:
        """The dictionary of counted tokens: all of the model, in its order: fairseq's number of a token is its + 1."""
        tokens = map(self._processor.id_to_piece, range(_SPECIALS, self._processor.get_piece_size()))
        return {token: counts.get(token, 0) for token in tokens}


def load_sentencepiece() -> Any:
    """The module sentencepiece; UserError if it is not installed."""
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError("--pieces needs sentencepiece: pip install sentencepiece") from error
    return sentencepiece


def count_tokens(lines: Sequence[str]) -> Dict[str, int]:
    """How often each token is in lines of tokens."""
    return Counter(token for line in lines for token in line.split(" "))
