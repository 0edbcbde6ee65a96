"""So many seconds of speech out of a manifest, drawn at random."""

import hashlib
import logging
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence, Tuple, Union

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ..encoder.config import EncoderConfig
from ..errors import UserError
from .audio_file import BrokenAudio
from .long_wave import LongWave, open_wave
from .manifest import read_manifest
from .unreadable import UnreadableFiles, UnreadableLimit

logger = logging.getLogger(__name__)

LONGEST = 20  # seconds; of a longer wave, so much from a random place: attention's memory grows with its square
SHORTEST_REST = 1  # seconds; what is missing to the amount asked for is not filled up with less


class SpeechSample:
    """Iterate over it once for waves (1, samples), each with None as padding mask; progress is on stderr.

    Utterances come in random order until the seconds asked for are reached; the last one is cut. One at a time: in an
    encoder with a group-norm extractor (HuBERT Base) padding would change every frame of a wave.

    Args:
        manifest: fairseq's audio manifest.
        seconds: how much to read; less if the manifest has less.
        seed: of the order and of the places; the same seed and manifest give the same waves.
        configs: settings of the encoders that the waves are for, all of one sample rate; rows too short for one frame
            are left out.

    Attributes, final after the iteration:
        utterances, seconds: what was read.
        unreadable: rows whose files could not be used, and why.
        fingerprint: SHA-256 of all samples read, in order, as float32.

    Raises:
        UserError: encoders of different rates, a wrong manifest, no usable row, or over 1 % of the files that were
            drawn cannot be used.
    """

    def __init__(self, manifest: Union[str, Path], seconds: float, seed: int, *configs: EncoderConfig):
        if not seconds > 0:
            raise UserError(f"seconds={seconds}: must be above 0")
        self.rate = _find_rate(configs)
        self.manifest = read_manifest(manifest)
        self.shortest = max(cfg.shortest_wave for cfg in configs)
        self.utterances, self.seconds = 0, 0.0
        self._digest = hashlib.sha256()
        self._random = np.random.default_rng(seed)
        self._lengths = self._draw(round(seconds * self.rate))
        limit = UnreadableLimit(len(self._lengths), files=f"{len(self._lengths)} files drawn")
        self.unreadable = UnreadableFiles(self.manifest, limit)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the samples read so far."""
        return self._digest.hexdigest()

    def describe(self) -> Dict[str, Any]:
        """What was read, as plain values."""
        return {
            "manifest": self.manifest.file,
            "utterances": self.utterances,
            "seconds": round(self.seconds, 3),
            "unreadable": len(self.unreadable),
            "samples_sha256": self.fingerprint,
        }

    def __iter__(self) -> Iterator[Tuple[Tensor, None]]:
        total = sum(self._lengths.values()) / self.rate
        shown = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
        with tqdm(total=total, desc=f"speech of {self.manifest.file}", bar_format=shown, mininterval=1) as progress:
            for row, length in self._lengths.items():
                try:
                    size = self.manifest.sizes[row]
                    wave = self._cut(open_wave(self.manifest.path(row), self.rate, size, self.shortest, length), length)
                except BrokenAudio as problem:
                    self.unreadable.add(row, str(problem))
                else:
                    yield wave.unsqueeze(0), None
                progress.update(length / self.rate)
        self.unreadable.log()

    def _draw(self, samples: int) -> Dict[int, int]:
        """Rows in random order -> how many samples to take of each, until there are `samples`."""
        sizes = self.manifest.sizes
        usable = [row for row, size in enumerate(sizes) if size >= self.shortest]
        if not usable:
            raise UserError(
                f"{self.manifest.file}: all rows are shorter than the {self.shortest} samples that make a frame"
            )
        if len(usable) < len(sizes):
            logger.warning(
                f"{self.manifest.file}: {len(sizes) - len(usable)} of {len(sizes)} rows are shorter than the "
                f"{self.shortest} samples that make a frame, and are left out"
            )
        lengths: Dict[int, int] = {}
        for row in self._random.permutation(usable).tolist():
            if lengths and samples < SHORTEST_REST * self.rate:
                break
            lengths[row] = max(min(sizes[row], LONGEST * self.rate, samples), self.shortest)
            samples -= lengths[row]
        return lengths

    def _cut(self, wave: Union[Tensor, LongWave], length: int) -> Tensor:
        """`length` samples of a wave (samples,) from a random place; counted and added to the fingerprint."""
        start = int(self._random.integers(max(len(wave) - length, 0) + 1))
        part = wave.cut(start, length) if isinstance(wave, LongWave) else wave[start : start + length]
        wave = part.contiguous()
        self._digest.update(wave.numpy().tobytes())
        self.utterances += 1
        self.seconds += len(wave) / self.rate
        return wave


def _find_rate(configs: Sequence[EncoderConfig]) -> int:
    """The sample rate of all encoders."""
    rates = sorted({cfg.sample_rate for cfg in configs})
    if len(rates) > 1:
        raise UserError(
            f"the encoders take waves at {' and '.join(f'{rate} Hz' for rate in rates)}: they can only be compared on "
            "the same waves, give encoders of one sample rate"
        )
    return rates[0]
