"""Reading fairseq's audio manifests (root, then `path<TAB>frames` rows) and checking the files that they name."""

import functools
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Sequence, Tuple, Union

import numpy as np
from tqdm import tqdm

from ..errors import UserError
from .audio_file import BrokenAudio, Fault, open_audio

logger = logging.getLogger(__name__)

MAX_CHECKED_FILES = 400
_SHOWN_PER_FAULT = 3
_MAX_DIGITS = 12  # of a count: 10^12 samples are two years; beyond int64 the arrays of fairseq fail


@dataclass
class Manifest:
    """A manifest as read: `root` as written, `paths` relative to it, `sizes` in samples per channel."""

    file: str
    root: str
    paths: List[str]
    sizes: List[int]

    def path(self, row: int) -> str:
        """The audio file of a row (counted from 0), joined as fairseq joins it."""
        return os.path.join(self.root, self.paths[row])


@dataclass
class AudioReport:
    """What check_audio found; `faults` maps each kind to (path, detail) pairs, in the manifest's order."""

    file: str
    num_files: int
    num_checked: int
    num_stereo: int = 0
    faults: Dict[Fault, List[Tuple[str, str]]] = field(default_factory=dict)

    @property
    def num_bad(self) -> int:
        """Checked files that cannot be used."""
        return sum(len(files) for files in self.faults.values())

    def describe(self) -> str:
        """The report in lines: which files were checked, how many are bad, the first few of each kind."""
        which = f"all {self.num_files}"
        if self.num_checked < self.num_files:
            which = f"{self.num_checked} of {self.num_files}, evenly spaced,"
        lines = [f"{self.file}: {which} files checked by their headers, {self.num_bad} of them cannot be used"]
        for fault, files in sorted(self.faults.items()):
            lines.append(f"  {len(files)} {fault.label}, such as")
            lines += [f"    {path}: {detail}" for path, detail in files[:_SHOWN_PER_FAULT]]
        if self.num_stereo:
            lines.append(f"  {self.num_stereo} with several channels, which are averaged to one")
        return "\n".join(lines)


def read_manifest(path: Union[str, Path]) -> Manifest:
    """Read a manifest whole; UserError names the file and the line of the first thing wrong with it."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such manifest (in training, task.data must be the folder that holds it)")
    try:
        with open(path) as lines:
            root, rows = lines.readline().strip(), list(lines)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if root.startswith("\ufeff"):
        raise UserError(
            f"{path} begins with a byte order mark, which fairseq takes for a part of the audio root: save it without"
        )
    _check_root(path, root)
    manifest = Manifest(str(path), root, [], [])
    for number, row in enumerate(rows, start=2):
        items = row.strip().split("\t")
        if len(items) != 2 or not items[0] or not items[1].isdecimal() or len(items[1]) > _MAX_DIGITS:
            raise UserError(
                f"{path}, line {number}: expected PATH<TAB>SAMPLES (a whole number of at most {_MAX_DIGITS} digits), "
                f"found {row.strip()!r:.200}"
            )
        manifest.paths.append(items[0])
        manifest.sizes.append(int(items[1]))
    if not manifest.paths:
        raise UserError(f"{path}: the root folder is there, but no row PATH<TAB>SAMPLES follows it")
    _count_repeated(manifest.file, manifest.paths)
    return manifest


def check_audio(
    manifest: Manifest, sample_rate: int, min_samples: int, limit_files: int = MAX_CHECKED_FILES
) -> AudioReport:
    """Open the header of every usable row's file, or of `limit_files` evenly spaced ones if there are more.

    Rows below `min_samples` are left out: fairseq drops them by the manifest alone.
    """
    rows = [row for row, size in enumerate(manifest.sizes) if size >= min_samples]
    places = np.linspace(0, len(rows) - 1, min(limit_files, len(rows))).round().astype(int)
    checked = [rows[place] for place in places]
    report = AudioReport(manifest.file, num_files=len(rows), num_checked=len(checked))
    for row in tqdm(checked, desc=f"checking {manifest.file}", unit="file", delay=5, leave=False):
        try:
            with open_audio(manifest.path(row), sample_rate, manifest.sizes[row], min_samples) as audio:
                report.num_stereo += audio.channels > 1
        except BrokenAudio as error:
            report.faults.setdefault(error.fault, []).append((manifest.path(row), str(error)))
    return report


def _count_repeated(file: str, paths: Sequence[str]) -> None:
    """Warn of rows whose path stands in an earlier one: they are read as often as they stand there."""
    repeated = len(paths) - len(set(paths))
    if repeated:
        first = next(path for path, count in Counter(paths).items() if count > 1)
        _warn_once(f"{file}: {repeated} of {len(paths)} rows repeat the path of an earlier one, the first: {first}")


@functools.cache  # a run reads a manifest several times
def _warn_once(message: str) -> None:
    logger.warning(message)


def _check_root(path: Union[str, Path], root: str) -> None:
    """Raise UserError unless the first line of the manifest is a folder that can be found from here."""
    if not root:
        raise UserError(f"{path}, line 1: empty, but must be the audio root (write / if the rows hold absolute paths)")
    if os.path.isdir(root):
        return
    if "\t" in root:
        raise UserError(f"{path}, line 1: must be the audio root, found the row {root!r}: put the root above it")
    message = f"{path}, line 1: the audio root {root} is no folder"
    if not os.path.isabs(root):
        message += (
            f". It is relative, and fairseq reads it from the working directory, which hydra sets to "
            f"{os.getcwd()}: that makes {os.path.abspath(root)}. Write an absolute path"
        )
        beside = os.path.abspath(os.path.join(os.path.dirname(path), root))
        if os.path.isdir(beside):
            message += f", perhaps {beside}"
    raise UserError(message)
