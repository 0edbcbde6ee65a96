"""The time that an encoder takes on this machine's CPU."""

import statistics
import time

import torch

from ..encoder.config import DEFAULT_SAMPLE_RATE
from ..encoder.model import SpeechEncoder

RUNS = 3


def measure_real_time_factor(encoder: SpeechEncoder, seconds: float = 10.0) -> float:
    """Seconds of computation per second of audio: one wave of noise, the median of three runs after a first one.

    The encoder is put into evaluation mode; its weights do not matter. The number of threads is torch's own.
    """
    encoder.eval()
    wave = torch.randn(1, int(seconds * DEFAULT_SAMPLE_RATE))
    times = []
    with torch.inference_mode():
        for _ in range(1 + RUNS):
            start = time.perf_counter()
            encoder(wave)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / seconds
