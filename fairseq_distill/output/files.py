"""Files that appear whole or not at all."""

import os
from pathlib import Path
from typing import Callable, Union

from ..errors import UserError


def write_whole(path: Union[str, Path], write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, of the same ending, and put it in the place of `path`; makes the folder.

    Raises:
        UserError: it cannot be written, or `write` raised ValueError or RuntimeError.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # torch raises the last where there is no room
        raise UserError(f"{path} cannot be written: {error}") from error
