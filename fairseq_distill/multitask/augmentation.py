"""Changes of training waves that leave their labels: speed and added noise, decided by epoch and row alone.

fairseq 0.12.2 has no augmentation of waves; its main branch adds noise of a folder of .wav files, not of a manifest,
and draws from NumPy's global generator. Random crops are fairseq's own (`task.max_sample_size`).
"""

import logging
import math
from fractions import Fraction
from typing import Optional, Sequence

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from ..data.audio_dataset import limit_broken
from ..data.audio_file import BrokenAudio, average_channels, check_range, open_audio, read_part
from ..data.manifest import check_audio, read_manifest
from ..errors import UserError

logger = logging.getLogger(__name__)

_MAX_DENOMINATOR = 100  # of speeds, as fractions


class NoiseManifest:
    """Segments of the noise files of a manifest.

    Args:
        path: fairseq's manifest form.
        sample_rate: of all files.
        max_broken: fraction of the files that may be unusable; they are reported, and others are drawn in their place.

    Raises:
        UserError: the manifest cannot be read, or more of its files are unusable.
    """

    def __init__(self, path: str, sample_rate: int, max_broken: float = 0.01):
        self.manifest = read_manifest(path)
        self.sample_rate = sample_rate
        report = check_audio(self.manifest, sample_rate, 1)
        limit = limit_broken(max_broken, report.num_checked)
        if limit.is_exceeded(report.num_bad):
            raise limit.error(f"task.noise: {report.describe()}")
        if report.num_bad:
            logger.warning(report.describe())

    def draw(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        """(samples,) float32 from a random place of a random file, repeated where the file is shorter.

        Raises:
            UserError: every file is unusable or silent.
        """
        first = int(rng.integers(len(self.manifest.paths)))
        position = rng.random()
        for step in range(len(self.manifest.paths)):
            row = (first + step) % len(self.manifest.paths)
            try:
                noise = self._read(row, samples, position)
            except BrokenAudio as error:
                logger.warning(f"noise {self.manifest.path(row)}: {error}; the next file is taken")
            else:
                if noise.any():
                    return np.resize(noise, samples)
        raise UserError(f"task.noise={self.manifest.file}: no file of it can be used, all are broken or silent")

    def _read(self, row: int, samples: int, position: float) -> np.ndarray:
        with open_audio(self.manifest.path(row), self.sample_rate, self.manifest.sizes[row], 1) as audio:
            noise = average_channels(read_part(audio, int(position * max(audio.frames - samples + 1, 1)), samples))
        check_range(noise)
        return noise.numpy()


def check_lists(speeds: Sequence[float], snr: Sequence[float]) -> None:
    """Raise UserError where `task.speeds` or `task.noise_snr` has what cannot be."""
    if any(not 0.5 <= speed <= 2 for speed in speeds):
        raise UserError(f"task.speeds={list(speeds)} must be factors from 0.5 to 2")
    if len(snr) != 2 or not -math.inf < snr[0] <= snr[1] < math.inf:
        raise UserError(f"task.noise_snr={list(snr)} must be the lowest and the highest ratio, in dB")


class Augmentation:
    """Speed, then noise.

    Args:
        speeds: factors, one of which is drawn for each wave: 1.1 makes it shorter and higher by a tenth; empty = as is.
        noise: where noise comes from, or None.
        snr: lowest and highest ratio of the wave's power to the noise's, in dB; drawn evenly between.
        noise_probability: share of the waves that get noise.
        min_samples: a speed that would leave fewer is not used.

    Raises:
        UserError: a value that cannot be.
    """

    def __init__(
        self,
        speeds: Sequence[float] = (),
        noise: Optional[NoiseManifest] = None,
        snr: Sequence[float] = (0.0, 15.0),
        noise_probability: float = 1.0,
        min_samples: int = 1,
    ):
        check_lists(speeds, snr)
        if not 0 <= noise_probability <= 1:
            raise UserError(f"task.noise_probability={noise_probability} must be from 0 to 1")
        self.speeds, self.noise, self.snr = list(speeds), noise, (snr[0], snr[1])
        self.noise_probability, self.min_samples = noise_probability, min_samples

    def __call__(self, wave: Tensor, epoch: int, row: int) -> Tensor:
        """The wave (samples,) as it is heard in this epoch; another length where its speed changes."""
        rng = np.random.default_rng([epoch, row])
        if self.speeds:
            changed = change_speed(wave, float(rng.choice(self.speeds)))
            wave = changed if len(changed) >= self.min_samples else wave
        if self.noise is not None and rng.random() < self.noise_probability:
            wave = mix(wave, torch.from_numpy(self.noise.draw(len(wave), rng)), float(rng.uniform(*self.snr)))
        return wave


def change_speed(wave: Tensor, speed: float) -> Tensor:
    """The wave (samples,) played `speed` times as fast: about samples / speed, tempo and pitch change together."""
    if speed == 1:
        return wave
    ratio = Fraction(1 / speed).limit_denominator(_MAX_DENOMINATOR)
    return torch.from_numpy(resample_poly(wave.numpy(), ratio.numerator, ratio.denominator).astype(np.float32))


def mix(wave: Tensor, noise: Tensor, snr: float) -> Tensor:
    """Wave plus noise, both (samples,), with the noise scaled to `snr` dB below the wave's mean power."""
    power = wave.pow(2).mean() / (10 ** (snr / 10) * noise.pow(2).mean())
    return wave + power.sqrt() * noise
