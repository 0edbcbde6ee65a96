"""Label files: one label a line, in the order of the manifest beside them; an empty line is a missing label."""

from pathlib import Path
from typing import List

from ..errors import UserError


def read_labels(path: Path, rows: int) -> List[str]:
    """Labels of a manifest's `rows` utterances, "" where a line is empty.

    Raises:
        UserError: the file cannot be read, or its number of lines is not the manifest's number of utterances.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            labels = [line.strip() for line in stream]
    except OSError as error:
        raise UserError(
            f"cannot read the labels {path}: {error.strerror}; it should hold one label a line, in the order of "
            f"{path.stem}.tsv (--label chooses the ending)"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error
    if len(labels) != rows:
        raise UserError(
            f"{path} has {len(labels)} lines, but {path.stem}.tsv has {rows} utterances; one label a line is needed "
            "(an empty line skips an utterance)"
        )
    return labels
