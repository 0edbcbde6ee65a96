"""Small folders in the layouts of public corpora: noise instead of speech, and what can be wrong with a download."""

from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
import soundfile

RATE = 16_000
TEN_WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]


def write_audio(path: Path, samples: int = 800, rate: int = RATE, channels: int = 1) -> Path:
    """A file of 16-bit noise that no other file name has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(path.name.encode()))
    shape = samples if channels == 1 else (samples, channels)
    soundfile.write(str(path), random.integers(-3000, 3000, shape).astype(np.int16), rate, subtype="PCM_16")
    return path


def read_manifest_rows(path: Path) -> Dict[str, int]:
    """Path as in the manifest -> samples."""
    rows = (line.split("\t") for line in path.read_text().splitlines()[1:])
    return {name: int(samples) for name, samples in rows}


def read_lines(path: Path) -> List[str]:
    return path.read_text(encoding="utf-8").splitlines()


def write_speech_commands(root: Path) -> Path:
    """Ten words and two others by nine speakers: train 0 to 4, valid 5 and 6, test 7 and 8; noises of 20 and 12 s."""
    listed = {"validation_list.txt": [], "testing_list.txt": []}
    for word in [*TEN_WORDS, "bed", "cat"]:
        for speaker in range(9):
            path = f"{word}/abc{speaker}_nohash_{speaker % 2}.wav"
            write_audio(root / path, 800 + 10 * speaker)
            if speaker >= 5:
                listed["validation_list.txt" if speaker < 7 else "testing_list.txt"].append(path)
    for name, files in listed.items():
        (root / name).write_text("".join(f"{file}\n" for file in files))
    for name, seconds in (("tap", 20), ("bike", 12)):
        write_audio(root / "_background_noise_" / f"{name}.wav", seconds * RATE)
    (root / "_background_noise_" / "README.md").write_text("about the noises\n")
    (root / "LICENSE").write_text("CC BY 4.0\n")
    return root


def write_test_set(root: Path) -> Path:
    """The 12 classes' own test set: two files of each."""
    for name in TEN_WORDS:
        for number in range(2):
            write_audio(root / name / f"def{number}_nohash_0.wav")
    for number in range(2):
        write_audio(root / "_unknown_" / f"def{number}_nohash_1.wav")
        write_audio(root / "_silence_" / f"{number}.wav", RATE)
    return root


VOICES = {"id10001": 3, "id10002": 2, "id10003": 1, "id10270": 2, "id10300": 1}  # speaker -> videos, of two files each


def write_voxceleb(root: Path, wav: str = "wav", test_wav: Optional[str] = None) -> Path:
    """Three dev and two test speakers."""
    for speaker, videos in VOICES.items():
        folder = wav if speaker < "id10270" else test_wav or wav
        for video in range(videos):
            for file in range(1, 3):
                write_audio(root / folder / speaker / f"video{video}" / f"{file:05}.wav", 1000 + file)
    return root


TEXTS = {
    "train-clean-100": {"19-198": ["NORTHANGER ABBEY", "THIS LITTLE WORK'S DONE"], "26-495": ["THE BEE AND THE ANT"]},
    "train-other-500": {"20-205": ["A TREE"]},
    "dev-clean": {"84-121": ["GO ON THEN"]},
    "dev-other": {"116-288": ["AS I APPROACHED"]},
    "test-clean": {"61-70": ["HE BEGAN", "THE END"]},
}


def write_librispeech(root: Path, texts: Dict[str, Dict[str, List[str]]] = TEXTS) -> Path:
    """Subsets of chapters, an utterance for each text: speaker and chapter are in the chapter's key."""
    for subset, chapters in texts.items():
        for chapter, lines in chapters.items():
            folder = root / subset / chapter.replace("-", "/")
            for number, _ in enumerate(lines):
                write_audio(folder / f"{chapter}-{number:04}.flac", 1600 + 100 * number)
            transcripts = "".join(f"{chapter}-{number:04} {text}\n" for number, text in enumerate(lines))
            (folder / f"{chapter}.trans.txt").write_text(transcripts)
    return root
