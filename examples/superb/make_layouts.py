"""Lay labelled manifests out as Speech Commands and VoxCeleb1, the folders that SUPERB's KS and SID read.

    python make_layouts.py MANIFESTS OUT [--count N]

MANIFESTS holds {train,valid,test}.tsv with .keyword and .speaker. Written are

    OUT/speech_commands/WORD/*.wav, _background_noise_/*.wav    training and validation; a name's hash says which
    OUT/speech_commands_test/WORD/*.wav, _silence_/*.wav
    OUT/voxceleb1/dev/wav/id10001/MANIFEST/*.wav                speakers, numbered by name
    OUT/home/.cache/s3prl/iden_split.txt                        their splits, where s3prl looks for them in HOME
"""

import argparse
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

import numpy as np
import soundfile

from fairseq_distill.errors import UserError

SPLITS = ("train", "valid", "test")
SAMPLE_RATE = 16_000
# what SUPERB calls its ten words; others are its class _unknown_
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
NOISE_SECONDS = {"train": 4, "test": 1}


class Utterance(NamedTuple):
    """A row of a manifest and its labels."""

    split: str
    path: Path
    keyword: str
    speaker: str


def read_split(manifests: Path, split: str) -> List[Utterance]:
    """The rows of one manifest with keyword and speaker; UserError where a file is missing or lengths differ."""
    columns = []
    for name in ("tsv", "keyword", "speaker"):
        path = manifests / f"{split}.{name}"
        if not path.is_file():
            raise UserError(f"{path} is missing: KS needs keywords and SID speakers of every utterance")
        columns.append(path.read_text(encoding="utf-8").splitlines())
    (folder, *rows), keywords, speakers = columns
    if not len(rows) == len(keywords) == len(speakers):
        raise UserError(
            f"{manifests / split}.tsv has {len(rows)} utterances, .keyword {len(keywords)}, .speaker {len(speakers)}"
        )
    paths = [Path(folder, row.split("\t")[0]) for row in rows]
    return [Utterance(split, *found) for found in zip(paths, keywords, speakers)]


def name_words(utterances: List[Utterance]) -> Dict[str, str]:
    """A word of SUPERB for each keyword: its own, or one of those that are left over, or itself (_unknown_)."""
    keywords = sorted({u.keyword for u in utterances})
    free = [word for word in WORDS if word not in keywords]
    return {keyword: keyword if keyword in WORDS or not free else free.pop(0) for keyword in keywords}


def find_prefix(utterance: Utterance, number: int) -> str:
    """A name whose hash puts it in the utterance's split, by the rule of Speech Commands (below 10 % = validation)."""
    for trial in range(10_000):
        prefix = f"{re.sub('[^a-zA-Z0-9]', '', utterance.speaker)}x{number}x{trial}"
        share = int(hashlib.sha1(prefix.encode()).hexdigest(), 16) % 2**27 * 100 / (2**27 - 1)
        if (share < 10) if utterance.split == "valid" else share > 20:
            return prefix
    raise AssertionError("one name in ten is for validation")


def write_speech_commands(utterances: List[Utterance], out: Path) -> None:
    """Both folders of the keyword task; silence is faint noise."""
    words = name_words(utterances)
    for number, utterance in enumerate(utterances):
        folder = out / ("speech_commands_test" if utterance.split == "test" else "speech_commands")
        copy_wave(utterance.path, folder / words[utterance.keyword] / f"{find_prefix(utterance, number)}_nohash_0.wav")
    rng = np.random.default_rng(0)
    for name in ("speech_commands/_background_noise_/noise", "speech_commands_test/_silence_/noise"):
        path = out / f"{name}.wav"
        path.parent.mkdir(parents=True)
        seconds = NOISE_SECONDS["test" if "test" in name else "train"]
        soundfile.write(path, 0.01 * rng.standard_normal(seconds * SAMPLE_RATE), SAMPLE_RATE)


def write_voxceleb1(utterances: List[Utterance], out: Path) -> None:
    """Speakers' folders, and the list of splits; speakers that are not in training are left out."""
    known = sorted({u.speaker for u in utterances if u.split == "train"})
    lines = []
    for number, utterance in enumerate(u for u in utterances if u.speaker in known):
        name = f"id{10001 + known.index(utterance.speaker)}/{utterance.split}/{number:05d}.wav"
        copy_wave(utterance.path, out / "voxceleb1" / "dev" / "wav" / name)
        lines.append(f"{SPLITS.index(utterance.split) + 1} {name}\n")
    path = out / "home" / ".cache" / "s3prl" / "iden_split.txt"
    path.parent.mkdir(parents=True)
    path.write_text("".join(lines), encoding="utf-8")


def copy_wave(source: Path, target: Path) -> None:
    """The same samples as WAV, 16 bits."""
    wave, rate = soundfile.read(str(source), dtype="int16")
    if rate != SAMPLE_RATE:
        raise UserError(f"{source} is at {rate} Hz: SUPERB's corpora are at {SAMPLE_RATE} Hz")
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, wave, rate, subtype="PCM_16")


def list_utterances(manifests: Path, count: int) -> Iterator[Utterance]:
    """At most `count` of each split, 0 = all; all come from the front."""
    for split in SPLITS:
        found = read_split(manifests, split)
        yield from found[:count] if count else found


def main() -> None:
    """Command line; OUT is there whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, help="folder with {train,valid,test}.tsv, .keyword and .speaker")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--count", type=int, default=0, help="utterances of each split (default: all)")
    args = parser.parse_args()
    partial = args.out.with_name(f"{args.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    utterances = list(list_utterances(args.manifests, args.count))
    write_speech_commands(utterances, partial)
    write_voxceleb1(utterances, partial)
    os.replace(partial, args.out)
    print(f"{len(utterances)} utterances in {args.out}")


if __name__ == "__main__":
    main()
