"""Numbers of the command line: those outside of what makes sense are refused before anything is read."""

import argparse

from ..encoder.config import EncoderConfig
from ..errors import UserError
from ..run.ranges import Range

LONGEST = 3600  # seconds, of a wave that MACs and time are of
SEED = Range(0, 2**32 - 1)


def check_numbers(args: argparse.Namespace, **ranges: Range) -> None:
    """Raise UserError where an option that was given is outside of its range.

    Args:
        args: the parsed arguments.
        ranges: of each option, by its name among the arguments.
    """
    for name, allowed in ranges.items():
        value = getattr(args, name)
        if value is not None and not allowed.holds(value):
            raise UserError(f"--{name.replace('_', '-')} {value:,}: must be {allowed}")


def check_seconds(seconds: float, cfg: EncoderConfig) -> None:
    """Raise UserError where a wave that MACs are counted for has no frame, or is absurdly long."""
    shortest = cfg.shortest_wave / cfg.sample_rate
    if not shortest <= seconds <= LONGEST:
        raise UserError(f"--seconds {seconds:g}: give from {shortest:g}, the length of one frame, to {LONGEST}")
