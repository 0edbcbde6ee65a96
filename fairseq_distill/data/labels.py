"""Label files: one label a line, in the order of the manifest beside them; an empty line is a missing label."""

from pathlib import Path
from typing import List

from ..errors import UserError

_BYTE_ORDER_MARK = "\ufeff"  # at the start, or inside, where files were put one behind the other


def read_lines(path: Path, what: str = "", advice: str = "") -> List[str]:
    """The lines of a text file, without the spaces around them.

    Raises:
        UserError: it cannot be read; `what`, such as "the trials ", and `advice` are parts of the sentence.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            return [line.replace(_BYTE_ORDER_MARK, "").strip() for line in stream]
    except OSError as error:
        raise UserError(f"cannot read {what}{path}: {error.strerror}{advice}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error


def read_labels(path: Path, rows: int, option: str = "--label") -> List[str]:
    """Labels of a manifest's `rows` utterances, "" where a line is empty; `option` of the command chooses the file.

    Raises:
        UserError: the file cannot be read, or its number of lines is not the manifest's number of utterances.
    """
    advice = f"; it should hold one label a line, in the order of {path.stem}.tsv ({option} chooses the ending)"
    labels = read_lines(path, "the labels ", advice)
    if len(labels) != rows:
        raise UserError(
            f"{path} has {len(labels)} lines, but {path.stem}.tsv has {rows} utterances; one label a line is needed "
            "(an empty line skips an utterance)"
        )
    return labels
