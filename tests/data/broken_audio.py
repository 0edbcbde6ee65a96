"""Writes small audio files, good and broken in every way that the data tests need, and manifests over them."""

import zipfile
from pathlib import Path
from typing import List, Tuple

import numpy as np
import soundfile

RATE = 16_000


def make_noise(num_samples: int, seed: int = 0) -> np.ndarray:
    """White noise (num_samples,), float32, well below full scale."""
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


def write_good(folder: Path, name: str, num_samples: int, seed: int = 0) -> Tuple[str, int]:
    """A file of noise and its manifest row."""
    soundfile.write(folder / name, make_noise(num_samples, seed), RATE)
    return name, num_samples


def write_truncated(folder: Path, name: str, num_samples: int) -> Tuple[str, int]:
    """A file cut in the middle: the header of a FLAC or MP3 still promises all samples."""
    row = write_good(folder, name, num_samples)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    return row


def write_broken_set(folder: Path) -> List[Tuple[str, int, str]]:
    """One file of each kind: (name, samples for the manifest, label of the fault)."""
    write_truncated(folder, "cut.flac", 8000)  # libsndfile: "flac decoder lost sync"
    write_truncated(folder, "cut.mp3", 80000)  # decodes to half of it without an error
    (folder / "text.wav").write_text("this is no audio " * 200)
    soundfile.write(folder / "slow.wav", make_noise(8000), 8000)
    soundfile.write(folder / "silent.wav", np.zeros(8000, np.float32), RATE)
    soundfile.write(folder / "constant.wav", np.full(8001, 0.3, np.float32), RATE)
    opposite = make_noise(8000)
    soundfile.write(folder / "cancels.wav", np.stack([opposite, -opposite], axis=1), RATE, subtype="FLOAT")
    nan = make_noise(8000)
    nan[77] = np.nan
    soundfile.write(folder / "nan.wav", nan, RATE, subtype="FLOAT")
    infinite = make_noise(8000)
    infinite[5] = -np.inf
    soundfile.write(folder / "inf.wav", infinite, RATE, subtype="FLOAT")
    soundfile.write(folder / "short.wav", make_noise(390), RATE)
    soundfile.write(folder / "half.wav", make_noise(4000), RATE)
    (folder / "empty.flac").write_bytes(b"")
    (folder / "headerless.raw").write_bytes(bytes(16000))
    return [
        ("cut.flac", 8000, "unreadable"),
        ("cut.mp3", 80000, "wrong length"),
        ("text.wav", 8000, "unreadable"),
        ("gone.flac", 8000, "missing"),
        ("slow.wav", 8000, "wrong sample rate"),
        ("silent.wav", 8000, "silent"),
        ("constant.wav", 8001, "silent"),
        ("cancels.wav", 8000, "silent"),
        ("nan.wav", 8000, "not finite"),
        ("inf.wav", 8000, "not finite"),
        ("short.wav", 400, "too short"),
        ("half.wav", 8000, "wrong length"),
        ("empty.flac", 8000, "unreadable"),
        ("headerless.raw", 8000, "unreadable"),
    ]


def write_zip(folder: Path, name: str, member: str) -> str:
    """Store `member` uncompressed in a ZIP file and return fairseq's address of it, ZIP:OFFSET:LENGTH."""
    data = (folder / member).read_bytes()
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(member, data)
    offset = (folder / name).read_bytes().index(data)
    return f"{name}:{offset}:{len(data)}"


def write_manifest(folder: Path, rows: list, name: str = "train.tsv") -> Path:
    """A manifest with an absolute root over (path, samples) rows."""
    path = folder / name
    path.write_text("\n".join([str(folder)] + [f"{row[0]}\t{row[1]}" for row in rows]) + "\n")
    return path
