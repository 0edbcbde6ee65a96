"""One-second segments of long noise files, as examples of silence: a manifest can only name whole files."""

from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np
import soundfile
from tqdm import tqdm

from ..data.audio_file import BrokenAudio, open_audio
from ..encoder.config import DEFAULT_SAMPLE_RATE
from ..errors import UserError
from .output import NewFolder
from .utterances import Utterance

LENGTH = DEFAULT_SAMPLE_RATE  # samples of a segment
# Where each split's stretch of every noise file begins and ends, in tenths of the file. Ours, untuned.
STRETCHES = {"train": (0, 8), "valid": (8, 9), "test": (9, 10)}


Segment = Tuple[Utterance, int]  # a noise, and the first of the LENGTH samples


def choose_segments(noises: Sequence[Utterance], split: str, count: int) -> List[Segment]:
    """`count` segments, evenly spaced in the split's stretches of all noises, as many from each; they may overlap.

    Raises:
        UserError: no noise has a segment's length in this split's stretch, or they have fewer places than `count`.
    """
    first, last = STRETCHES[split]
    stretches = [(noise, noise.samples * first // 10, noise.samples * last // 10) for noise in noises]
    stretches = [(noise, begin, end - LENGTH) for noise, begin, end in stretches if end - begin >= LENGTH]
    if count > 0 and not stretches:
        raise UserError(
            f"no file of background noise has a second in the {10 * (last - first)} % that are for {split}: "
            "they must be longer (--classes all needs none)"
        )
    segments = []
    for number, (noise, begin, end) in enumerate(stretches):
        share = (count + number) // len(stretches)  # these sum up to the count
        starts = np.linspace(begin, end, share).round().astype(int)
        if len(set(starts)) < share:
            raise UserError(
                f"{noise.path} is too short for {share} different segments of a second (--classes all needs none)"
            )
        segments += [(noise, int(start)) for start in starts]
    return segments


def write_segments(folder: NewFolder, root: Path, split: str, segments: Sequence[Segment]) -> List[str]:
    """Write segments as silence/SPLIT/NAME_START.flac with the noise's own samples; returns their absolute final paths.

    Raises:
        UserError: a noise cannot be decoded.
    """
    place = Path("silence", split)
    (folder.partial / place).mkdir(parents=True, exist_ok=True)
    paths = []
    for noise, start in tqdm(segments, desc=f"silence for {split}", unit="file", delay=5, leave=False):
        file = root / noise.path
        try:
            with open_audio(str(file), DEFAULT_SAMPLE_RATE, noise.samples, LENGTH) as audio:
                audio.seek(start)
                wave = audio.read(LENGTH, dtype="int16")
        except BrokenAudio as error:
            raise UserError(f"{file} cannot be read: {error}; unpack it again, or move it away") from error
        if len(wave) < LENGTH:
            raise UserError(f"{file} ends before its header says; unpack it again, or move it away")
        name = place / f"{file.stem}_{start}.flac"
        soundfile.write(str(folder.partial / name), wave, DEFAULT_SAMPLE_RATE, subtype="PCM_16")
        paths.append(str(folder.final / name))
    return paths
