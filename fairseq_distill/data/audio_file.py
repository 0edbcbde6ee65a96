"""One audio file: opened, checked and decoded, with one exception for everything that makes it useless for training."""

import contextlib
import enum
import io
import os
import re
import stat
from typing import Iterator, Optional, Tuple, Union

import numpy as np
import soundfile
import torch
from fairseq.data.audio.audio_utils import is_sf_audio_data, read_from_stored_zip

from ..errors import UserError

# Ours, untuned: wrong units and truncated files are far outside, MP3 padding and rounded durations within.
LENGTH_TOLERANCE = 0.1
LOUDEST = 2.0**31  # no integer format holds more, whatever is taken for full scale
QUIETEST = 2.0**-31  # from the lowest to the highest sample: a step of 32-bit audio, full scale being 1
_LIBSNDFILE_SYSTEM_ERROR = 2
_INEXACT = ("MP3", "OGG")  # libsndfile seeks in them and then, near the end of an OGG, reads other samples
BLOCK = 1 << 20  # samples that are read in passing, where a file cannot be sought in
# What libsndfile's log says of files that end before their header does.
_PROMISE = re.compile(r": (\d+) \(should be (\d+)\)")
_ENDLESS = 0x7FFF0000  # a promise of 2 GB and more: the header was written before the length was known
_CUT = ("truncated file", "Junk after the last page")


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
    NO_PERMISSION = 9
    OUT_OF_RANGE = 10

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

    num_samples: per channel, as the manifest has it; None = any, but what the file's own header promises.
    min_samples: the least that can be used.
    Raises BrokenAudio, also for what libsndfile refuses while the caller reads.
    """
    try:
        with soundfile.SoundFile(_find_source(path)) as audio:
            if audio.samplerate != sample_rate:
                way_out = f"resample it, ffmpeg -i IN -ar {sample_rate} OUT"
                raise BrokenAudio(Fault.SAMPLE_RATE, f"{audio.samplerate} Hz instead of {sample_rate} Hz: {way_out}")
            check_length(audio.frames, num_samples, min_samples)
            if num_samples is None:
                _check_promise(audio)
            yield audio
    except (BrokenAudio, UserError):
        raise
    except Exception as error:  # whatever a library says of a file: one file must not stop a run
        raise _explain(error, path) from error


def read_part(audio: soundfile.SoundFile, start: int, count: int, dtype: str = "float32") -> np.ndarray:
    """Samples `start` to `start + count` of an open file, fewer where it ends: those that reading it whole gives."""
    if can_seek(audio):
        audio.seek(start)
    else:
        while start > 0:
            passed = len(audio.read(min(start, BLOCK), dtype=dtype))
            start -= passed or start
    return audio.read(count, dtype=dtype)  # by a number of frames: without, GSM 6.10 cannot be read


def can_seek(audio: soundfile.SoundFile) -> bool:
    """Whether a part of it can be read alone, and is what it is in the whole."""
    return audio.seekable() and audio.format not in _INEXACT


def read_wave(path: str, sample_rate: int, num_samples: Optional[int], min_samples: int) -> torch.Tensor:
    """Decode `path` to a float32 mono wave (samples,), channels averaged as in fairseq; arguments as in open_audio.

    Raises BrokenAudio if it cannot be decoded, is too short, not finite, beyond all scales, or one value throughout.
    """
    with open_audio(path, sample_rate, num_samples, min_samples) as audio:
        promised = audio.frames if num_samples is None else num_samples
        wave = average_channels(read_part(audio, 0, audio.frames))
    check_length(len(wave), promised, min_samples)  # a truncated MP3 decodes to less than its header says
    low, high = check_range(wave)
    if high - low < QUIETEST:
        raise BrokenAudio(Fault.SILENT, f"all {len(wave)} samples are {low:g}")
    return wave


def average_channels(samples: np.ndarray) -> torch.Tensor:
    """(samples,) or (samples, channels) float32 as a mono wave (samples,), as fairseq makes it."""
    wave = torch.from_numpy(samples)
    return wave.mean(-1) if wave.dim() == 2 else wave


def check_range(wave: torch.Tensor) -> Tuple[float, float]:
    """Lowest and highest sample of a wave (samples,); BrokenAudio if they are none, not finite or beyond `LOUDEST`."""
    if not len(wave):
        raise BrokenAudio(Fault.TOO_SHORT, "nothing of it can be decoded")
    low, high = (value.item() for value in wave.aminmax())  # both are NaN if any sample is
    if not abs(low) + abs(high) < float("inf"):
        raise BrokenAudio(Fault.NOT_FINITE, "it holds NaN or infinite samples")
    if max(abs(low), abs(high)) > LOUDEST:
        raise BrokenAudio(Fault.OUT_OF_RANGE, f"it holds samples of {max(low, high, key=abs):g}, no sound has them")
    return low, high


def check_length(found: int, num_samples: Optional[int], min_samples: int) -> None:
    """Raise BrokenAudio if `found` samples are too few, or not about the `num_samples` of the manifest (None = any)."""
    if num_samples is not None and abs(found - num_samples) > LENGTH_TOLERANCE * num_samples:
        raise BrokenAudio(Fault.LENGTH, f"it holds {found} samples, the manifest says {num_samples}")
    if found < max(min_samples, 1):
        raise BrokenAudio(Fault.TOO_SHORT, f"it holds {found} samples, at least {max(min_samples, 1)} are needed")


def _check_promise(audio: soundfile.SoundFile) -> None:
    """Raise BrokenAudio if a file ends before its header says; libsndfile reads what is there, and tells its log."""
    for promised, found in _PROMISE.findall(audio.extra_info):
        if int(promised) < _ENDLESS and int(found) < (1 - LENGTH_TOLERANCE) * int(promised):
            raise BrokenAudio(Fault.LENGTH, f"it is cut short: its header says {promised} bytes, and {found} are there")
    if any(words in audio.extra_info for words in _CUT):
        raise BrokenAudio(Fault.LENGTH, f"it is cut short, after {audio.frames} samples")


def _explain(error: Exception, path: str) -> BrokenAudio:
    """What an error, while a file was opened or read, says of the file."""
    if isinstance(error, soundfile.LibsndfileError):
        if error.code != _LIBSNDFILE_SYSTEM_ERROR:
            return BrokenAudio(Fault.UNREADABLE, error.error_string.strip() or f"libsndfile error {error.code}")
        try:
            open(path, "rb").close()  # libsndfile does not say which error of the system it is
        except OSError as reason:
            return _explain(reason, path)
        return BrokenAudio(Fault.SYSTEM_ERROR, error.error_string.strip() or "libsndfile error 2")
    if isinstance(error, PermissionError):
        return BrokenAudio(Fault.NO_PERMISSION, "its permissions do not let this user read it")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return BrokenAudio(Fault.MISSING, "no such file")
    if isinstance(error, OSError) and error.errno is not None:
        return BrokenAudio(Fault.SYSTEM_ERROR, error.strerror or str(error))
    return BrokenAudio(Fault.UNREADABLE, str(error) or type(error).__name__)


def _find_source(path: str) -> Union[str, io.BytesIO]:
    """Resolve a manifest entry to a file, or to the bytes of a slice of an uncompressed ZIP file.

    A file whose name has colons is a file: fairseq takes all but .wav, .flac, .ogg and .npy for a slice.
    """
    archive, *numbers = path.rsplit(":", 2)
    if numbers and all(map(str.isdecimal, numbers)) and not os.path.exists(path):
        if len(numbers) != 2:
            raise BrokenAudio(Fault.UNREADABLE, "neither a file nor ZIP:OFFSET:LENGTH")
        return _read_slice(archive, *map(int, numbers))
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise BrokenAudio(Fault.MISSING, "it is a folder or a device, not a file")
    return path


def _read_slice(archive: str, offset: int, length: int) -> io.BytesIO:
    """A member of an uncompressed ZIP file."""
    if not stat.S_ISREG(os.stat(archive).st_mode):
        raise BrokenAudio(Fault.MISSING, f"{archive} is no ZIP file")
    data = read_from_stored_zip(archive, offset, length)
    if len(data) < length or not is_sf_audio_data(data):
        raise BrokenAudio(Fault.UNREADABLE, "the slice of the ZIP file holds no WAV, FLAC or OGG file")
    return io.BytesIO(data)
