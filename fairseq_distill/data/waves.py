"""Go through the waves of a manifest one by one; files that cannot be used are counted, too many of them stop it."""

from typing import Callable, Dict, Sequence, Tuple, TypeVar

from torch import Tensor
from tqdm import tqdm

from .audio_file import BrokenAudio, read_wave
from .manifest import Manifest
from .unreadable import UnreadableFiles, UnreadableLimit

Result = TypeVar("Result")


def process_waves(
    manifest: Manifest,
    rows: Sequence[int],
    sample_rate: int,
    shortest: int,
    process: Callable[[Tensor], Result],
    title: str,
) -> Tuple[Dict[int, Result], UnreadableFiles]:
    """Call `process` with the wave of each row, (samples,) float32, with a progress bar on stderr.

    Rows count from 0; a wave must be at `sample_rate` Hz and have `shortest` samples; `process` may raise BrokenAudio
    for one that it cannot use.

    Returns:
        (row -> result, rows whose files could not be used).

    Raises:
        UserError: over 1 % of the rows cannot be used or all of them; the message shows the first few.
    """
    results: Dict[int, Result] = {}
    unreadable = UnreadableFiles(manifest, UnreadableLimit(len(rows)))
    for row in tqdm(rows, desc=f"{title} {manifest.file}", unit="utterance", mininterval=5):
        try:
            results[row] = process(read_wave(manifest.path(row), sample_rate, manifest.sizes[row], shortest))
        except BrokenAudio as problem:
            unreadable.add(row, str(problem))
    return results, unreadable
