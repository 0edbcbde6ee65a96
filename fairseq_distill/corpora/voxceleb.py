"""VoxCeleb1 (Nagrani et al., 2017, 1706.08612): 153,516 utterances of 1,251 speakers, from interviews on video.

    wav/SPEAKER/VIDEO/FILE.wav   16 kHz mono; the two downloads, dev and test speakers, unpack into the same folder, or
    dev/wav/..., test/wav/...     into these two
    iden_split.txt                identification: `1 SPEAKER/VIDEO/FILE.wav` a line; 1 train, 2 valid, 3 test
    veri_test.txt                 verification: `1 FILE FILE` a line, files as above (37,720 trials); 1 for the same
    veri_test2.txt                speaker, 0 for different ones; the second list is the first one corrected (37,611)

Verification holds out the 40 speakers whose names begin with E, id10270 to id10309 (4,874 utterances); 1,211 remain for
training. The lists are downloads of their own. The authors' larger lists, VoxCeleb1-E and -H, name speakers of dev too:
they are for models that were trained on other data.
"""

import argparse
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from tqdm import tqdm

from ..errors import UserError
from .output import NewFolder, Report
from .utterances import LeftOut, Utterance, keep_usable, list_files, list_folders

HELP = "VoxCeleb1: speaker verification or identification"
EPILOG = """\
Writes train, valid and test with .speaker. For verification (the default) test has the speakers of the trial list, or
without one id10270 to id10309; train and valid have all others, valid the last video of each that has several, in the
alphabet. test.trials holds the trials in VoxCeleb's own form, `LABEL ENROL TEST` a line, LABEL 1 for the same speaker
and 0 for another, both files as in test.tsv. For identification, the three parts of iden_split.txt.

example:
  fairseq-distill manifest voxceleb VoxCeleb1 --trials veri_test2.txt --out speakers
"""

ROOTS = ("wav", "dev/wav", "test/wav")
SPLIT_LIST = "iden_split.txt"
SPLITS = {"1": "train", "2": "valid", "3": "test"}
TRIAL_LISTS = ("veri_test2.txt", "veri_test.txt")
TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10270, 10310))

Trial = Tuple[str, str, str]  # label, and two files as the list names them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the corpus' own arguments."""
    parser.add_argument(
        "--protocol",
        choices=("verification", "identification"),
        default="verification",
        help="verification (default): test speakers are not in train; identification: DIR/iden_split.txt",
    )
    parser.add_argument(
        "--trials", metavar="FILE", type=Path, help="trial list (default: DIR/veri_test2.txt, else DIR/veri_test.txt)"
    )


def write(args: argparse.Namespace, source: Path, folder: NewFolder) -> Report:
    """Write train, valid and test with .speaker, and for verification test.trials, `label path path` as in test.tsv.

    For verification, the speakers of the trial list are test; of every other speaker with several videos, the last one
    in the alphabet is in valid.

    Raises:
        UserError: `source` is not in the layout above, a list is missing or broken, or nothing is left of a split.
    """
    protocol, trials = args.protocol, args.trials
    if protocol == "identification" and trials is not None:
        raise UserError("--trials is for --protocol verification: identification has no trials")
    report = Report(args.sample_rate)
    files = _find_files(source, report.left_out)
    if protocol == "identification":
        listed, splits = [], _split_by_list(source / SPLIT_LIST, files, report.left_out)
    else:
        trials = trials or next((source / name for name in TRIAL_LISTS if (source / name).is_file()), None)
        listed = [] if trials is None else _read_trials(trials)
        splits = _split_by_speaker(files, listed, trials)
    kept = {name: keep_usable(source, name, rows, report.left_out, report.rate) for name, rows in splits.items()}
    report.write_splits(folder, source, kept)
    if listed and trials is not None:
        _write_trials(folder, trials, listed, files, kept["test"], report)
    elif protocol == "verification":
        report.notes.append(f"no test.trials: neither {' nor '.join(TRIAL_LISTS)} in {source}, and no --trials FILE")
    return report


def _find_files(source: Path, left_out: LeftOut) -> Dict[str, Utterance]:
    """Every utterance by the name that the lists give it, SPEAKER/VIDEO/FILE."""
    roots = [source / root for root in ROOTS if (source / root).is_dir()]
    speakers = [path for root in roots for path in list_folders(root)]
    files: Dict[str, Utterance] = {}
    for speaker in tqdm(speakers, desc="looking for files", unit="speaker", delay=5, leave=False):
        for file in (file for video in list_folders(speaker) for file in list_files(video, ".wav")):
            name, path = "/".join(file.parts[-3:]), str(file.relative_to(source))
            if name in files:
                left_out.add("all", "a second copy", path)
            else:
                files[name] = Utterance(path, {"speaker": speaker.name})
    if not files:
        raise UserError(f"{source} has no wav/SPEAKER/VIDEO/FILE.wav: give the folder that holds the unpacked wav/")
    return files


def _split_by_list(path: Path, files: Dict[str, Utterance], left_out: LeftOut) -> Dict[str, List[Utterance]]:
    """The official identification split."""
    splits: Dict[str, List[Utterance]] = {name: [] for name in SPLITS.values()}
    listed = set()
    for number, fields in enumerate(_read_fields(path), start=1):
        if len(fields) != 2 or fields[0] not in SPLITS:
            raise UserError(f"{path}, line {number}: expected 1, 2 or 3 and a file, found {' '.join(fields)!r}")
        split, name = SPLITS[fields[0]], fields[1]
        listed.add(name)
        if name in files:
            splits[split].append(files[name])
        else:
            left_out.add(split, f"missing, though in {SPLIT_LIST}", name)
    for name in files:
        if name not in listed:
            left_out.add("all", f"not in {SPLIT_LIST}", files[name].path)
    return splits


def _split_by_speaker(
    files: Dict[str, Utterance], trials: List[Trial], path: Optional[Path]
) -> Dict[str, List[Utterance]]:
    """The verification split: test speakers, and whole videos of the others for valid."""
    test_speakers = {name.split("/")[0] for trial in trials for name in trial[1:]} or TEST_SPEAKERS
    videos: Dict[str, Dict[str, List[Utterance]]] = {}
    splits: Dict[str, List[Utterance]] = {"train": [], "valid": [], "test": []}
    for name, utterance in files.items():
        speaker, video, _ = name.split("/")
        if speaker in test_speakers:
            splits["test"].append(utterance)
        else:
            videos.setdefault(speaker, {}).setdefault(video, []).append(utterance)
    if not videos:
        where = f"{path} names" if trials else "the 40 test speakers are"
        raise UserError(
            f"no speaker is left for train: {where} all that are there. Unpack the dev part too, and give "
            "veri_test.txt or veri_test2.txt by --trials (the lists of VoxCeleb1-E and -H have dev speakers in them)"
        )
    for of_speaker in videos.values():
        held_out = max(of_speaker) if len(of_speaker) > 1 else None
        for video, utterances in of_speaker.items():
            splits["valid" if video == held_out else "train"] += utterances
    return splits


def _read_trials(path: Path) -> List[Trial]:
    """The official trials."""
    trials = []
    for number, fields in enumerate(_read_fields(path), start=1):
        if len(fields) != 3 or fields[0] not in ("0", "1") or any(name.count("/") != 2 for name in fields[1:]):
            raise UserError(
                f"{path}, line {number}: expected 0 or 1 and two files SPEAKER/VIDEO/FILE, found {' '.join(fields)!r}"
            )
        trials.append((fields[0], fields[1], fields[2]))
    if not trials:
        raise UserError(f"{path} is empty: it should hold a trial a line")
    return trials


def _write_trials(
    folder: NewFolder,
    path: Path,
    trials: List[Trial],
    files: Dict[str, Utterance],
    test: List[Utterance],
    report: Report,
) -> None:
    """Write those trials whose files are both in test.tsv."""
    usable = {utterance.path for utterance in test}
    names = {name: utterance.path for name, utterance in files.items() if utterance.path in usable}
    lines = []
    for label, first, second in trials:
        missing = [name for name in (first, second) if name not in names]
        if missing:
            report.left_out.add("trials", "a file is not in test.tsv", missing[0])
        else:
            lines.append(f"{label} {names[first]} {names[second]}")
    if not lines:
        raise UserError(f"{path}: no trial has both its files in test.tsv")
    folder.write_text("test.trials", lines)
    same = sum(line.startswith("1") for line in lines)
    report.notes.append(
        f"test.trials: {len(lines):,} of {len(trials):,} trials of {path}, {same:,} of the same speaker"
    )


def _read_fields(path: Path) -> List[List[str]]:
    """The lines of an official list, split at spaces."""
    try:
        return [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; the list is a download of its own on VoxCeleb's page") from error
