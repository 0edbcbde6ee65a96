"""Utterances of a corpus, which of their files can be used, and a count of those that cannot."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from tqdm import tqdm

from ..data.audio_file import BrokenAudio, open_audio
from ..errors import UserError

SHORTEST = 0.025  # seconds: the receptive field of the feature extractor of HuBERT, wav2vec 2.0 and WavLM


@dataclass
class Utterance:
    """A row of a manifest: `path` from its root or absolute, label ending -> label, samples (0 before it is opened)."""

    path: str
    labels: Dict[str, str]
    samples: int = 0


class LeftOut:
    """Counts what is in the corpus but not in the manifests, by split and reason, with the first case of each."""

    def __init__(self):
        self._cases: Dict[Tuple[str, str], List[str]] = defaultdict(list)

    def add(self, split: str, reason: str, case: str) -> None:
        """Count one `case`, such as a path with what is wrong with it."""
        self._cases[split, reason].append(case)

    def describe(self) -> List[str]:
        """A line for each split and reason."""
        found = self._cases.items()
        return [f"{len(cases):,} of {split}: {reason}, such as {cases[0]}" for (split, reason), cases in found]


def list_files(folder: Path, ending: str) -> List[Path]:
    """The files of a folder with this ending, sorted; unlike glob, OSError if the folder cannot be read."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending))


def list_folders(folder: Path) -> List[Path]:
    """The folders in a folder, sorted; OSError if it cannot be read."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def keep_usable(
    root: Path, split: str, utterances: Sequence[Utterance], left_out: LeftOut, rate: int
) -> List[Utterance]:
    """Set `samples` by the files' headers; leave out what is not mono at this rate, too short, or unreadable.

    So are files of names that no manifest can hold.

    Raises:
        UserError: no utterance is left.
    """
    usable = []
    for utterance in tqdm(utterances, desc=f"checking {split}", unit="file", delay=5, leave=False):
        if not _can_be_listed(utterance.path):
            left_out.add(split, "a name that no manifest can hold", ascii(utterance.path))
            continue
        try:
            with open_audio(os.path.join(root, utterance.path), rate, None, round(SHORTEST * rate)) as audio:
                channels, utterance.samples = audio.channels, audio.frames
        except BrokenAudio as error:
            left_out.add(split, error.fault.label, f"{utterance.path}: {error}")
        else:
            if channels > 1:
                left_out.add(split, "not mono", f"{utterance.path}: {channels} channels")
            else:
                usable.append(utterance)
    if not usable:
        found = "".join(f"\n  {line}" for line in left_out.describe())
        raise UserError(
            f"{root}: nothing is left for {split}. It needs mono files at {rate} Hz (--sample-rate gives another). "
            f"Left out:{found or ' nothing'}"
        )
    return usable


def _can_be_listed(path: str) -> bool:
    """Whether a row PATH<TAB>SAMPLES gives the path back: fairseq strips rows, and splits them at tabs."""
    written = path.encode("utf-8", "replace").decode()
    return written == path.strip() and not set("\t\r\n") & set(path)
