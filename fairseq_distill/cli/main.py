"""`fairseq-distill`: the command line, one module of this folder for each command."""

import argparse
import logging
import os
import shlex
import sys
from typing import List, Optional

from .. import __version__
from ..errors import UserError
from ..output.interrupt import PROGRAM, tell_interrupted
from ..output.memory import explain_memory
from . import clusters, configs, evaluate, export, info, manifest, predict, prune, shapes, similarity, units
from .subcommands import add_subcommands

# Each module has a docstring, HELP, add_arguments(parser) and run(args), which prints; where needed EPILOG, and
# translate_old_form(words) -> the words that took the place of these, or None.
_COMMANDS = {
    "info": info,
    "shapes": shapes,
    "clusters": clusters,
    "similarity": similarity,
    "units": units,
    "prune": prune,
    "export": export,
    "evaluate": evaluate,
    "predict": predict,
    "manifest": manifest,
    "configs": configs,
}


_LESS_MEMORY = "give it shorter waves or fewer of them (--seconds where the command has it), or a machine with more"
_BROKEN_PIPE = 128 + 13  # 128 and the number of the signal


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Look into, compress and evaluate speech encoders (training is fairseq's own).",
    )
    parser.add_argument("--version", action="version", version=f"fairseq-distill {__version__}")
    add_subcommands(parser, "command", _COMMANDS)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run a command; returns its exit code: 0, or 1 after a `UserError`, which is a sentence on stderr.

    It is 130 after Ctrl-C, and 141 where what reads the output has gone, as `head` does, by the shell's convention.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        try:
            return run_command(words)
        finally:
            sys.stdout.flush()  # now, and not while Python exits, where nothing catches it
    except BrokenPipeError:
        _leave_pipes()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return tell_interrupted(words)


def run_command(words: List[str]) -> int:
    """`main` without what comes from outside. Old forms run, and tell the new."""
    translate = getattr(_COMMANDS.get(words[0]), "translate_old_form", None) if words else None
    new = translate(words[1:]) if translate else None
    if new:
        words[1:] = new
        print(f"this form is old, type: fairseq-distill {' '.join(map(shlex.quote, words))}", file=sys.stderr)
    args = build_parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger().setLevel(logging.INFO)  # which basicConfig leaves alone if something had set it up before
    for handler in logging.getLogger().handlers:  # fairseq's imports may have set one up before
        handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    try:
        with explain_memory(_LESS_MEMORY):
            _COMMANDS[args.command].run(args)
    except UserError as error:
        print(f"fairseq-distill {args.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _leave_pipes() -> None:
    """Let nothing be written to a closed pipe any more: Python flushes when it exits, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
