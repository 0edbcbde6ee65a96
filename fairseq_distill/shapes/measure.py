"""The time that an encoder takes on this machine's CPU."""

import statistics
import timeit

import torch

from ..encoder.model import SpeechEncoder

RUNS = 3


def measure_real_time_factor(encoder: SpeechEncoder, seconds: float = 10.0) -> float:
    """Seconds of computation per second of audio: one wave of noise, the median of three runs after a first one.

    The encoder is put into evaluation mode; its weights do not matter. The number of threads is torch's own.
    """
    encoder.eval()
    wave = torch.randn(1, int(seconds * encoder.cfg.sample_rate))
    with torch.inference_mode():
        times = timeit.repeat(lambda: encoder(wave), repeat=1 + RUNS, number=1)
    return statistics.median(times[1:]) / seconds
