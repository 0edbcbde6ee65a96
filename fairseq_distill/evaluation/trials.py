"""Lists of trials: which utterances of a manifest to compare, and whether each pair is the same speaker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, Sequence, Tuple

import numpy as np

from ..data.labels import read_lines
from ..data.manifest import Manifest
from ..errors import UserError

# what marks a pair of the same speaker: before the paths, or behind them
_VOXCELEB = {"1": True, "0": False}
_KALDI = {"target": True, "nontarget": False}
_VOXCELEB_FORM = "'1 PATH PATH' or '0 PATH PATH'"
_KALDI_FORM = "'PATH PATH target' or 'PATH PATH nontarget'"


@dataclass
class Trials:
    """Pairs of utterances to compare.

    Attributes:
        enrol, test: (pairs,) row of each side's utterance, from 0.
        same: (pairs,) bool, True = the same speaker.
    """

    enrol: np.ndarray
    test: np.ndarray
    same: np.ndarray

    def count(self) -> Tuple[int, int]:
        """(pairs of the same speaker, pairs of different ones)."""
        return int(self.same.sum()), int((~self.same).sum())

    def keep(self, rows: Sequence[int]) -> "Trials":
        """The pairs of which both utterances are among `rows`, numbered by their place in it."""
        sides = np.asarray(rows, dtype=int), self.enrol, self.test
        place = np.full(1 + max(int(side.max(initial=-1)) for side in sides), -1)
        place[list(rows)] = np.arange(len(rows))
        enrol, test = place[self.enrol], place[self.test]
        both = (enrol >= 0) & (test >= 0)
        return Trials(enrol[both], test[both], self.same[both])


def pair_all(speakers: Sequence[str]) -> Trials:
    """Every pair of different utterances once, in the order of `verification.score_pairs`."""
    names = np.unique(np.asarray(speakers), return_inverse=True)[1]
    enrol, test = np.triu_indices(len(names), k=1)
    return Trials(enrol, test, names[enrol] == names[test])


def read_trials(path: Path, manifest: Manifest) -> Trials:
    """Read lines `1 ENROL TEST` and `0 ENROL TEST` (VoxCeleb), or `ENROL TEST target` and `... nontarget` (Kaldi).

    Args:
        path: the list; its paths are those of the manifest, as written there.
        manifest: the utterances.

    Raises:
        UserError: the file cannot be read, a line has another form, or paths are not in the manifest.
    """
    rows = {name: row for row, name in reversed(list(enumerate(manifest.paths)))}  # of equal names the first
    trials = list(_parse_lines(path))
    if not trials:
        raise UserError(f"{path} holds no trial")
    unknown = dict.fromkeys(name for _, *pair in trials for name in pair if name not in rows)
    if unknown:
        hit = sum(not unknown.keys().isdisjoint(pair) for _, *pair in trials)
        raise UserError(
            f"{path}: {len(unknown)} of its paths, in {hit} of its {len(trials)} trials, are not in {manifest.file}: "
            f"{', '.join(list(unknown)[:3])}{', ...' if len(unknown) > 3 else ''}; paths must be written as they stand "
            f"there, such as {manifest.paths[0]}, which is below {manifest.root}"
        )
    same, enrol, test = zip(*trials)
    return Trials(np.array([rows[name] for name in enrol]), np.array([rows[name] for name in test]), np.array(same))


def find_trials(path: Path, data: Path, manifest: Manifest, *labels: Sequence[str]) -> Trials:
    """`read_trials` of a list that is there or in the folder `data`, after `check_speakers` by each of the labels."""
    path = path if path.exists() else data / path
    listed = read_trials(path, manifest)
    for speakers in labels:
        check_speakers(path, listed, speakers)
    return listed


def check_speakers(path: Path, trials: Trials, labels: Sequence[str]) -> None:
    """Compare a list with speaker labels of all rows, "" where there is none; UserError where the two contradict."""
    names = np.asarray(labels)
    enrol, test = names[trials.enrol], names[trials.test]
    wrong = ((enrol == test) != trials.same) & (enrol != "") & (test != "")
    if wrong.any():
        first = int(np.argmax(wrong))
        said = "the same speaker" if trials.same[first] else "different speakers"
        raise UserError(
            f"{path} and the speaker labels contradict in {wrong.sum()} of {len(wrong)} trials: in number {first + 1} "
            f"it says {said}, the labels say {enrol[first]} and {test[first]}; one of the files belongs to another set"
        )


def _parse_lines(path: Path) -> Iterator[Tuple[bool, str, str]]:
    """(same speaker, path, path) of each line; all lines must have the form of the first."""
    kinds: Dict[str, bool] = {}
    for number, line in enumerate(read_lines(path, "the trials "), start=1):
        fields = line.split()
        if not kinds:
            kinds = _VOXCELEB if fields and fields[0] in _VOXCELEB else _KALDI
        if kinds is _KALDI:
            fields = fields[-1:] + fields[:-1]
        if len(fields) != 3 or fields[0] not in kinds:
            form = _VOXCELEB_FORM if kinds is _VOXCELEB else _KALDI_FORM
            if number == 1:
                form = f"{_VOXCELEB_FORM}, {_KALDI_FORM}"
            raise UserError(f"{path}, line {number}: expected {form}, found {line!r}")
        yield kinds[fields[0]], fields[1], fields[2]
