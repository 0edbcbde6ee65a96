"""Waves of minutes to hours of which a crop is wanted: only the crop is read."""

from typing import Optional, Tuple, Union

import soundfile
import torch
from torch import Tensor

from .audio_file import (
    BLOCK,
    BrokenAudio,
    Fault,
    average_channels,
    can_seek,
    check_range,
    open_audio,
    read_part,
    read_wave,
)

WHOLE = 60  # seconds that are read whole: seeking costs as much
_EPSILON = 1e-5  # of layer_norm, by which fairseq normalises waves


class LongWave:
    """A wave (samples,) that stays in its file; a part of it is what the whole one, read and cut, gives.

    Only a part is checked: that other parts are not finite, or that all of it is silence, is not seen.

    Args:
        request: path, sample rate, samples of the manifest and least samples, as `open_audio` takes them.
        length: samples.
        normalize: give parts the scale in which the whole wave has zero mean and unit variance, as fairseq does, which
            normalises before it crops. The file is then decoded in passing: that takes the time of reading it whole.
    """

    def __init__(self, request: Tuple[str, int, Optional[int], int], length: int, normalize: bool = False):
        self._request, self._length, self._normalize = request, length, normalize

    def __len__(self) -> int:
        return self._length

    def cut(self, start: int, count: int) -> Tensor:
        """Samples `start` to `start + count`, float32, fewer where it ends; BrokenAudio if they cannot be read."""
        with open_audio(*self._request) as audio:
            mean, variance = self._measure(audio) if self._normalize else (0.0, 1.0)
            part = average_channels(read_part(audio, start, count))
        if len(part) < min(count, self._length - start):
            raise BrokenAudio(Fault.LENGTH, f"it ends before sample {start + count}, its header says {self._length}")
        check_range(part)
        return (part - mean) / (variance + _EPSILON) ** 0.5 if self._normalize else part

    def _measure(self, audio: soundfile.SoundFile) -> Tuple[float, float]:
        """Mean and variance of the whole wave, in the memory of a block."""
        sums = torch.zeros(3, dtype=torch.float64)
        audio.seek(0)
        while True:
            block = average_channels(audio.read(BLOCK, dtype="float32"))
            if not len(block):
                break
            check_range(block)
            double = block.double()
            sums += torch.stack([double.new_tensor(len(block)), double.sum(), double.square().sum()])
        count, total, squares = sums.tolist()
        mean = total / max(count, 1)
        return mean, max(squares / max(count, 1) - mean**2, 0.0)


def open_wave(
    path: str, sample_rate: int, num_samples: int, min_samples: int, wanted: int, normalize: bool = False
) -> Union[Tensor, LongWave]:
    """A wave of which at most `wanted` samples will be used: a `LongWave`, or what `read_wave` reads.

    That is, whole where it is no longer than `wanted` or `WHOLE` seconds, or cannot be sought in. `normalize` is for a
    `LongWave`; other arguments and errors are those of `read_wave`.
    """
    request = (path, sample_rate, num_samples, min_samples)
    if num_samples > max(wanted, WHOLE * sample_rate):
        with open_audio(*request) as audio:
            length, apart = audio.frames, can_seek(audio)
        if apart:
            return LongWave(request, length, normalize)
    return read_wave(*request)
