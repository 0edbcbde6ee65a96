"""Go through the waves of a manifest one by one; files that cannot be used are counted, too many of them stop it."""

import logging
from typing import Callable, Dict, Iterable, Tuple, TypeVar

from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from .audio_file import BrokenAudio, read_wave
from .manifest import Manifest, count_allowed

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
MAX_UNREADABLE = 0.01  # share of a split's files, rounded up to whole files; more than this stops the evaluation
Result = TypeVar("Result")


def process_waves(
    manifest: Manifest,
    rows: Iterable[int],
    shortest: int,
    process: Callable[[Tensor], Result],
    title: str,
) -> Tuple[Dict[int, Result], Dict[int, str]]:
    """Call `process` with the wave of each row, (samples,) at 16 kHz, with a progress bar on stderr.

    Args:
        rows: of the manifest, from 0.
        shortest: samples that a wave must have.
        process: may raise BrokenAudio for a wave that it cannot use.
        title: of the progress bar.

    Returns:
        (row -> result, row -> why its file could not be used).

    Raises:
        UserError: over 1 % of the rows cannot be used (one file never stops it); the message shows the first few.
    """
    rows = list(rows)
    allowed = count_allowed(MAX_UNREADABLE, len(rows))
    results: Dict[int, Result] = {}
    unreadable: Dict[int, str] = {}
    for row in tqdm(rows, desc=f"{title} {manifest.file}", unit="utterance", mininterval=5):
        try:
            results[row] = process(read_wave(manifest.path(row), SAMPLE_RATE, manifest.sizes[row], shortest))
        except BrokenAudio as problem:
            unreadable[row] = str(problem)
            if len(unreadable) > allowed:
                raise UserError(
                    f"{describe_unreadable(manifest, unreadable)}. Over {MAX_UNREADABLE:.0%} of the files is too many: "
                    "mend them, or take their rows out of the manifest and of its label files"
                ) from problem
    return results, unreadable


def describe_unreadable(manifest: Manifest, unreadable: Dict[int, str]) -> str:
    """One sentence: how many files cannot be used, and the first three with the reason."""
    shown = "; ".join(f"{manifest.paths[row]} ({why})" for row, why in list(unreadable.items())[:3])
    return f"{manifest.file}: {len(unreadable)} of {len(manifest.paths)} files cannot be used, the first: {shown}"
