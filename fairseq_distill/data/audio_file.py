"""One audio file: opened, checked and decoded, with one exception for everything that makes it useless for training."""

import contextlib
import enum
import io
import os
from typing import Iterator, Optional, Union

import soundfile
import torch
from fairseq.data.audio.audio_utils import is_sf_audio_data, parse_path, read_from_stored_zip

# Ours, untuned: wrong units and truncated files are far outside, MP3 padding and rounded durations within.
LENGTH_TOLERANCE = 0.1
_LIBSNDFILE_SYSTEM_ERROR = 2


class Fault(enum.IntEnum):
    """Why a file cannot be used; the values fit into one byte and 0 stays free for a good file."""

    MISSING = 1
    UNREADABLE = 2
    SYSTEM_ERROR = 3
    SAMPLE_RATE = 4
    LENGTH = 5
    TOO_SHORT = 6
    NOT_FINITE = 7
    SILENT = 8

    @property
    def label(self) -> str:
        """The fault in words, as reports print it after a count."""
        return {
            Fault.SYSTEM_ERROR: "input/output error",
            Fault.SAMPLE_RATE: "wrong sample rate",
            Fault.LENGTH: "wrong length",
        }.get(self, self.name.lower().replace("_", " "))


class BrokenAudio(Exception):
    """A file that cannot be used: `fault` says in which way, the message is the detail without the path."""

    def __init__(self, fault: Fault, detail: str):
        super().__init__(detail)
        self.fault = fault


@contextlib.contextmanager
def open_audio(
    path: str, sample_rate: int, num_samples: Optional[int], min_samples: int
) -> Iterator[soundfile.SoundFile]:
    """Open `path` (a file, or fairseq's ZIP:OFFSET:LENGTH) and compare its header with what the manifest promises.

    num_samples: per channel, as the manifest has it; None = any. min_samples: the least that can be used.
    Raises BrokenAudio, also for what libsndfile refuses while the caller reads.
    """
    try:
        with soundfile.SoundFile(_find_source(path)) as audio:
            if audio.samplerate != sample_rate:
                way_out = f"resample it, ffmpeg -i IN -ar {sample_rate} OUT"
                raise BrokenAudio(Fault.SAMPLE_RATE, f"{audio.samplerate} Hz instead of {sample_rate} Hz: {way_out}")
            check_length(audio.frames, num_samples, min_samples)
            yield audio
    except soundfile.LibsndfileError as error:
        fault = Fault.SYSTEM_ERROR if error.code == _LIBSNDFILE_SYSTEM_ERROR else Fault.UNREADABLE
        raise BrokenAudio(fault, error.error_string.strip() or f"libsndfile error {error.code}") from error
    except BrokenAudio:
        raise
    except Exception as error:  # whatever else a library says of a file: one file must not stop a run
        raise BrokenAudio(Fault.UNREADABLE, str(error) or type(error).__name__) from error


def read_wave(path: str, sample_rate: int, num_samples: Optional[int], min_samples: int) -> torch.Tensor:
    """Decode `path` to a float32 mono wave (samples,), channels averaged as in fairseq; arguments as in open_audio.

    Raises BrokenAudio if it cannot be decoded, or is too short, not finite, or one value throughout.
    """
    with open_audio(path, sample_rate, num_samples, min_samples) as audio:
        promised = audio.frames if num_samples is None else num_samples
        wave = torch.from_numpy(audio.read(audio.frames, dtype="float32"))  # GSM 6.10 cannot be read without a number
    check_length(len(wave), promised, min_samples)  # a truncated MP3 decodes to less than its header says
    if wave.dim() == 2:
        wave = wave.mean(-1)
    low, high = (value.item() for value in wave.aminmax())  # both are NaN if any sample is
    if not abs(low) + abs(high) < float("inf"):
        raise BrokenAudio(Fault.NOT_FINITE, "it holds NaN or infinite samples")
    if low == high:
        raise BrokenAudio(Fault.SILENT, f"all {len(wave)} samples are {low:g}")
    return wave


def check_length(found: int, num_samples: Optional[int], min_samples: int) -> None:
    """Raise BrokenAudio if `found` samples are too few, or not about the `num_samples` of the manifest (None = any)."""
    if num_samples is not None and abs(found - num_samples) > LENGTH_TOLERANCE * num_samples:
        raise BrokenAudio(Fault.LENGTH, f"it holds {found} samples, the manifest says {num_samples}")
    if found < max(min_samples, 1):
        raise BrokenAudio(Fault.TOO_SHORT, f"it holds {found} samples, at least {max(min_samples, 1)} are needed")


def _find_source(path: str) -> Union[str, io.BytesIO]:
    """Resolve a manifest entry to a file, or to the bytes of a slice of an uncompressed ZIP file."""
    try:
        file, zip_slice = parse_path(path)
    except FileNotFoundError as error:
        raise BrokenAudio(Fault.MISSING, "no such file") from error
    except (AssertionError, ValueError) as error:
        raise BrokenAudio(Fault.UNREADABLE, "neither a file nor ZIP:OFFSET:LENGTH") from error
    if not os.path.isfile(file):
        raise BrokenAudio(Fault.MISSING, "no such file")
    if not zip_slice:
        return file
    try:
        data = read_from_stored_zip(file, *zip_slice)
    except (OSError, ValueError) as error:
        raise BrokenAudio(Fault.UNREADABLE, str(error)) from error
    if len(data) < zip_slice[1] or not is_sf_audio_data(data):
        raise BrokenAudio(Fault.UNREADABLE, "the slice of the ZIP file holds no WAV, FLAC or OGG file")
    return io.BytesIO(data)
