"""Out of memory, of the GPU or of the machine: a sentence with the ways out instead of a traceback."""

import contextlib
import errno
import re
from typing import Iterator

import torch

from ..errors import UserError

# Torch has one class for the GPU's memory, and plain RuntimeErrors for all else.
_WORDS = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|_STATUS_ALLOC_FAILED"
    r"|DataLoader worker .*(killed by signal: Killed|insufficient shared memory)",
    re.IGNORECASE | re.DOTALL,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, whichever of Python, NumPy, torch or the system raised it."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None


@contextlib.contextmanager
def explain_memory(ways: str) -> Iterator[None]:
    """Raise UserError where memory runs out inside.

    Args:
        ways: what the user can do about it.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory ({_shorten(error)}): {ways}") from error


def _shorten(error: BaseException) -> str:
    """The first sentences of what is said; torch goes on about its allocator."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = next((line for line in lines if _WORDS.search(line) or "allocate" in line), lines[0])
    told = re.sub(r"^\[enforce fail at .*?\] (.*?\. )?(?=\w+Allocator)", "", told)  # where in torch's source
    return re.split(r"(?<=\.) (?=GPU \d|Of the|If reserved|See )", told)[0].rstrip(". ")
