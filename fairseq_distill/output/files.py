"""Files that appear whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Callable, Optional, Union

from ..errors import UserError

PathLike = Union[str, Path]


def write_whole(path: PathLike, write: Callable[[Path], object]) -> None:
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
            put_in_place(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # torch raises the last where there is no room
        raise UserError(f"{path} cannot be written: {error}") from error


def put_in_place(partial: PathLike, path: PathLike) -> None:
    """Rename a file onto another of its folder; it is on the disk before, and so is the new name when this returns.

    Without that, a power failure can leave the name with an empty file.
    """
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    try:
        folder = os.open(Path(path).parent, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(folder)
    except OSError:  # nor do some network file systems write them
        pass
    finally:
        os.close(folder)


def find_cause(error: BaseException) -> Optional[OSError]:
    """The system's error behind one of torch's, or itself; None if there is none."""
    cause: Optional[BaseException] = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def find_reason(error: BaseException) -> str:
    """What the system said about a file, in words; else what the error itself says."""
    return getattr(find_cause(error), "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


def write_folder(path: PathLike, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new folder beside `path`, and put it in the place of `path`, of which nothing is left.

    Raises:
        UserError: it cannot be written, or `write` raised ValueError or RuntimeError; what was there is there still.
    """
    target = Path(os.path.realpath(path))
    partial, earlier = (target.with_name(f".{target.name}.{os.getpid()}.{what}") for what in ("partial", "earlier"))
    try:
        partial.mkdir(parents=True)
        try:
            write(partial)
            for file in partial.iterdir():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
            _exchange(partial, target, earlier)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error


def _exchange(partial: Path, target: Path, earlier: Path) -> None:
    """Rename a folder to `target`; one that is there goes, once the new one is in its place."""
    if not target.exists():
        os.rename(partial, target)
        return
    os.rename(target, earlier)
    try:
        os.rename(partial, target)
    except BaseException:
        os.rename(earlier, target)
        raise
    shutil.rmtree(earlier)
