"""Google Speech Commands (arXiv 1804.03209), versions 0.01 and 0.02: single words by many speakers.

    WORD/HASH_nohash_N.wav       at most a second, 16 kHz mono; HASH is the speaker; 30 words in v0.01, 35 in v0.02
    validation_list.txt          the files of these splits, WORD/HASH_nohash_N.wav a line; all others are for training;
    testing_list.txt             no speaker is in two splits
    _background_noise_/NAME.wav  six noises of a minute or more

The common task has 12 classes: ten words, `_unknown_` for every other word, `_silence_` for background noise. The
corpus' own recipe (TensorFlow's examples/speech_commands) takes, in each split, as many utterances of other words as a
tenth of the ten words' utterances, and as many seconds of noise. The authors also publish the test split of that task
(speech_commands_test_set_v0.01, 3,081 files, and _v0.02, 4,890 files): a folder for each class, `_unknown_` and
`_silence_` among them. Files of `_silence_` have no speaker in their names.
"""

import argparse
import math
import random
from pathlib import Path
from typing import Dict, List, Sequence, Set, Tuple

import numpy as np
import soundfile
from tqdm import tqdm

from ..data.audio_file import BrokenAudio, open_audio, read_part
from ..errors import UserError
from .output import NewFolder, Report
from .utterances import LeftOut, Utterance, keep_usable, list_files, list_folders

HELP = "Google Speech Commands v0.01 or v0.02: keywords"
EPILOG = """\
Writes train, valid and test with .keyword and .speaker, by the two official lists. Of other words, train has all; valid
and test have a tenth of the ten words' utterances, as in the corpus' recipe, so that accuracies compare with published
ones. Silence is a tenth, too, of every split: segments of a second in OUT/silence, cut from the first 80 % of each
noise for train, the next 10 % for valid and the last 10 % for test; segments of one split overlap where there are many.
Do not move OUT afterwards: the manifests name these segments by absolute paths.

example, with the test set that the corpus' authors publish:
  fairseq-distill manifest speech-commands v0.02 --test-set speech_commands_test_set_v0.02 --out keywords
"""

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE = "_unknown_", "_silence_"
NOISE = "_background_noise_"
# of every noise file, where each split's stretch begins and ends, in tenths of the file; ours, untuned
STRETCHES = {"train": (0, 8), "valid": (8, 9), "test": (9, 10)}
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}

Segment = Tuple[Utterance, int]  # a noise, and the first sample of a second of it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the corpus' own arguments."""
    parser.add_argument(
        "--classes",
        choices=("12", "all"),
        default="12",
        help="12 (default): the ten keywords, _unknown_ and _silence_; all: every word its own class, no silence",
    )
    parser.add_argument(
        "--test-set",
        metavar="FOLDER",
        type=Path,
        help="unpacked speech_commands_test_set_v0.0X, as test of the 12 classes",
    )


def write(args: argparse.Namespace, source: Path, folder: NewFolder) -> Report:
    """Write train, valid and test of the unpacked corpus with .keyword and .speaker.

    Raises:
        UserError: `source` or the test set is not in the layout above, or nothing is left of a split.
    """
    test_set = args.test_set
    if args.classes == "all" and test_set is not None:
        raise UserError("--test-set is for the 12 classes: its other words are not told apart, as --classes all asks")
    report = Report(args.sample_rate)
    splits = _find_words(source, report.left_out)
    if test_set is not None:
        splits["test"] = _find_test_set(test_set)
    splits = {name: keep_usable(source, name, found, report.left_out, report.rate) for name, found in splits.items()}
    if args.classes == "12":
        absent = sorted(set(KEYWORDS) - {utterance.labels["keyword"] for utterance in splits["train"]})
        if len(absent) == len(KEYWORDS):
            raise UserError(
                f"{source} has none of the words {', '.join(KEYWORDS)}: give the corpus' folder, or --classes all"
            )
        if absent:
            report.notes.append(f"not in train: {', '.join(absent)}")
        _reduce_to_12(splits, report.left_out, official_test=test_set is not None)
        _add_silence(source, folder, splits, report, official_test=test_set is not None)
    report.write_splits(folder, source, splits)
    return report


def _find_words(source: Path, left_out: LeftOut) -> Dict[str, List[Utterance]]:
    """Every word's files, in the split that the lists give."""
    listed = {path: split for split, name in LISTS.items() for path in _read_list(source / name)}
    splits: Dict[str, List[Utterance]] = {"train": [], "valid": [], "test": []}
    for word in (path for path in list_folders(source) if not path.name.startswith(("_", "."))):
        for file in list_files(word, ".wav"):
            path = f"{word.name}/{file.name}"
            splits[listed.pop(path, "train")].append(_label(path, word.name))
    for path, split in listed.items():
        left_out.add(split, f"missing, though in {LISTS[split]}", path)
    return splits


def _read_list(path: Path) -> List[str]:
    """The files that an official list names, sorted."""
    try:
        return sorted(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {path}: {error}. The folder must hold the unpacked corpus: a folder for each word, "
            f"{' and '.join(LISTS.values())}"
        ) from error


def _find_test_set(test_set: Path) -> List[Utterance]:
    """All files of the published test split, by absolute paths."""
    folders = [path.name for path in list_folders(test_set)] if test_set.is_dir() else []
    expected = {*KEYWORDS, UNKNOWN, SILENCE}
    if set(folders) != expected:
        differ = ", ".join(sorted(set(folders) ^ expected))
        raise UserError(
            f"--test-set {test_set} must have a folder for each of the 12 classes and no other: see {differ}"
        )
    test_set = test_set.absolute()
    files = [file for name in folders for file in list_files(test_set / name, ".wav")]
    return [_label(str(file), file.parent.name) for file in files]


def _label(path: str, word: str) -> Utterance:
    """An utterance with its labels; a file that is not named after its speaker has an empty one."""
    speaker, mark, _ = Path(path).name.partition("_nohash_")
    return Utterance(path, {"keyword": word, "speaker": speaker if mark else ""})


def _reduce_to_12(splits: Dict[str, List[Utterance]], left_out: LeftOut, official_test: bool) -> None:
    """Call other words `_unknown_`: all in train, and in valid and test the recipe's tenth, drawn by a fixed seed."""
    for name, utterances in splits.items():
        others = [row for row, utterance in enumerate(utterances) if utterance.labels["keyword"] not in KEYWORDS]
        dropped: Set[int] = set()
        if name == "valid" or (name == "test" and not official_test):
            dropped = set(others) - set(random.Random(0).sample(others, min(_tenth(utterances), len(others))))
        for row in others:
            labels = utterances[row].labels
            if row in dropped:
                left_out.add(name, "other words beyond a tenth of the ten words' utterances", utterances[row].path)
            elif labels["keyword"] != SILENCE:  # which the published test set has
                labels["keyword"] = UNKNOWN
        splits[name] = [utterance for row, utterance in enumerate(utterances) if row not in dropped]


def _add_silence(
    source: Path, folder: NewFolder, splits: Dict[str, List[Utterance]], report: Report, official_test: bool
) -> None:
    """Cut noise into seconds and add them to the splits, as many as a tenth of the ten words' utterances."""
    files = list_files(source / NOISE, ".wav") if (source / NOISE).is_dir() else []
    noises = [Utterance(f"{NOISE}/{file.name}", {}) for file in files]
    if not noises:
        raise UserError(f"{source / NOISE} has no .wav file to cut silence from: unpack it too, or give --classes all")
    noises = keep_usable(source, NOISE, noises, report.left_out, report.rate)
    written = []
    for name in ("train", "valid") if official_test else ("train", "valid", "test"):
        segments = _choose_segments(noises, name, _tenth(splits[name]), report.rate)
        paths = _write_segments(folder, source, name, segments, report.rate)
        splits[name] += [Utterance(path, {"keyword": SILENCE, "speaker": ""}, samples=report.rate) for path in paths]
        written.append(f"{len(paths):,} in {name}")
    report.notes.append(f"silence: segments of a second from {len(noises)} noises, {', '.join(written)}")


def _tenth(utterances: List[Utterance]) -> int:
    """A tenth of the ten words' utterances, rounded up as in the corpus' recipe."""
    return math.ceil(sum(utterance.labels["keyword"] in KEYWORDS for utterance in utterances) / 10)


def _choose_segments(noises: Sequence[Utterance], split: str, count: int, rate: int) -> List[Segment]:
    """`count` seconds, evenly spaced in the split's stretches of all noises, as many from each; they may overlap.

    Raises:
        UserError: no noise has a segment's length in this split's stretch, or they have fewer places than `count`.
    """
    first, last = STRETCHES[split]
    stretches = [(noise, noise.samples * first // 10, noise.samples * last // 10) for noise in noises]
    stretches = [(noise, begin, end - rate) for noise, begin, end in stretches if end - begin >= rate]
    if count > 0 and not stretches:
        raise UserError(
            f"no file of background noise has a second in the {10 * (last - first)} % that are for {split}: "
            "they must be longer (--classes all needs none)"
        )
    segments = []
    for number, (noise, begin, end) in enumerate(stretches):
        share = (count + number) // len(stretches)  # these sum up to the count
        starts = np.linspace(begin, end, share).round().astype(int)
        if len(set(starts)) < share:
            raise UserError(
                f"{noise.path} is too short for {share} different segments of a second (--classes all needs none)"
            )
        segments += [(noise, int(start)) for start in starts]
    return segments


def _write_segments(folder: NewFolder, root: Path, split: str, segments: Sequence[Segment], rate: int) -> List[str]:
    """Write segments as silence/SPLIT/NAME_START.flac with the noise's own samples; returns their absolute final paths.

    Raises:
        UserError: a noise cannot be decoded.
    """
    place = Path("silence", split)
    (folder.partial / place).mkdir(parents=True, exist_ok=True)
    paths = []
    for noise, start in tqdm(segments, desc=f"silence for {split}", unit="file", delay=5, leave=False):
        file = root / noise.path
        try:
            with open_audio(str(file), rate, noise.samples, rate) as audio:
                wave = read_part(audio, start, rate, dtype="int16")
        except BrokenAudio as error:
            raise UserError(f"{file} cannot be read: {error}; unpack it again, or move it away") from error
        if len(wave) < rate:
            raise UserError(f"{file} ends before its header says; unpack it again, or move it away")
        name = place / f"{file.stem}_{start}.flac"
        soundfile.write(str(folder.partial / name), wave, rate, subtype="PCM_16")
        paths.append(str(folder.final / name))
    return paths
