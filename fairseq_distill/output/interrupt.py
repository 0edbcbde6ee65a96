"""Ctrl-C in the command line: one sentence and the shell's exit code, also in the seconds in which Python imports."""

import os
import sys
from types import TracebackType
from typing import Optional, Sequence, Type

PROGRAM = "fairseq-distill"
INTERRUPTED = 128 + 2  # 128 and the number of the signal
_stock_hook = sys.excepthook


def end_imports_quietly() -> None:
    """To be called before the slow imports: where they are the command line's own, Ctrl-C ends them without traceback.

    Elsewhere, in fairseq or a notebook, nothing changes.
    """
    program = os.path.basename((getattr(sys, "argv", None) or [""])[0])
    line = list(getattr(sys, "orig_argv", []))  # of Python 3.10 and later
    if program == PROGRAM or ("-m" in line and line[line.index("-m") + 1 :][:1] == ["fairseq_distill"]):
        sys.excepthook = _end


def tell_interrupted(words: Sequence[str]) -> int:
    """Say on stderr that a command was interrupted; returns the exit code."""
    start = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
    print(f"{start}{' '.join([PROGRAM, *words[:1]])}: interrupted; nothing is half written", file=sys.stderr)
    return INTERRUPTED


def _end(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _stock_hook(kind, error, trace)
        return
    tell_interrupted(sys.argv[1:])
    os._exit(INTERRUPTED)  # without it, Python would end itself by the signal
