"""Synthesise a small speech set with espeak-ng: FLAC files, fairseq manifests, keywords, speakers and transcripts."""

import argparse
import ctypes
import os
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import espeakng_loader
import numpy as np
import soundfile
from scipy.signal import resample_poly
from tqdm import tqdm

SAMPLE_RATE = 16000

KEYWORDS = ["computer", "window", "garden", "music", "orange", "seven", "yellow", "coffee", "letter", "doctor"]
CARRIERS = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()

# (espeak-ng voice, variant, pitch 0..99); the test split also has speakers that no other split has.
SPEAKERS = {
    "anna": ("en-us", "f2", 50),
    "ben": ("en-us", "m3", 45),
    "carl": ("en", "m1", 30),
    "dora": ("en", "f5", 60),
    "emma": ("en-gb-x-rp", "Annie", 50),
    "fred": ("en-gb-scotland", "m7", 40),
    "gwen": ("en-gb-scotland", "f3", 65),
    "hugo": ("en-029", "m4", 50),
    "iris": ("en-029", "f4", 45),
    "jack": ("en-us-nyc", "m2", 60),
    "kate": ("en-gb-x-gbclan", "Alicia", 55),
    "liam": ("en-gb-x-gbcwmd", "Michael", 50),
}
NEW_IN_TEST = {
    "mary": ("en-us", "linda", 40),
    "noah": ("en-gb-x-gbcwmd", "m5", 70),
    "olga": ("en-us-nyc", "f1", 35),
    "paul": ("en", "Andy", 55),
}
SPEEDS = (140, 160, 185)  # words per minute
SPEEDS_IN_TEST = (150, 200)


@dataclass(frozen=True)
class Utterance:
    """What is said, by whom and how; `keyword` and `speaker` are the labels, `seed` fixes everything random."""

    text: str
    keyword: str
    speaker: str
    speed: int
    pitch: int
    seed: int

    @property
    def ltr(self) -> str:
        """The text in letters, as fairseq's CTC reads it: `H I | Y O U |`."""
        return "".join(" ".join(word.upper()) + " | " for word in self.text.split()).rstrip()


class Synthesiser:
    """espeak-ng's C library, giving sound back instead of playing it. One per process: its state is global."""

    _SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS of speak_lib.h
    _UTF8 = 1  # espeakCHARS_UTF8
    _RATE, _PITCH = 1, 3  # espeak_PARAMETER

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self.lib.espeak_Initialize(self._SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        if self.rate <= 0:
            raise RuntimeError(f"espeak-ng did not start with the voices in {espeakng_loader.get_data_path()}")
        self.chunks = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = callback_type(self._collect)  # kept: ctypes does not hold a reference
        self.lib.espeak_SetSynthCallback(self.callback)

    def _collect(self, samples, count, events) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: str, speed: int, pitch: int, seed: int) -> np.ndarray:
        """Sound of `text` as float64 in -1..1, shape (samples,), at `self.rate` Hz; `voice` is like "en-us+f2"."""
        data = Path(espeakng_loader.get_data_path())
        variant = voice.partition("+")[2]
        # espeak-ng itself passes over a variant that it does not find
        if not (data / "voices" / "!v" / variant).exists() or self.lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng in {data} has no voice {voice!r}")
        self.lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self.lib.espeak_SetParameter(self._RATE, speed, 0)
        self.lib.espeak_SetParameter(self._PITCH, pitch, 0)
        self.chunks.clear()
        encoded = text.encode("utf-8")
        status = self.lib.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, self._UTF8, None, None)
        self.lib.espeak_Synchronize()
        if status != 0 or not self.chunks:
            raise RuntimeError(f"espeak-ng gave no sound for {text!r} with voice {voice!r} (status {status})")
        return np.concatenate(self.chunks) / 32768.0


def plan_utterances(split: str, count: int) -> list:
    """`count` utterances of a split: each keyword equally often, between one to three random carrier words."""
    rng = random.Random(f"quickstart {split}")
    speakers = {**SPEAKERS, **NEW_IN_TEST} if split == "test" else SPEAKERS
    plan = []
    for index in range(count):
        keyword = KEYWORDS[index % len(KEYWORDS)]
        words = rng.sample(CARRIERS, rng.randint(1, 3))
        words.insert(rng.randint(0, len(words)), keyword)
        speaker = rng.choice(sorted(speakers))
        plan.append(
            Utterance(
                text=" ".join(words),
                keyword=keyword,
                speaker=speaker,
                speed=rng.choice(SPEEDS_IN_TEST if split == "test" else SPEEDS),
                pitch=speakers[speaker][2] + rng.randint(-6, 6),
                seed=rng.randrange(1, 2**31),
            )
        )
    return plan


def render(synthesiser: Synthesiser, utterance: Utterance) -> np.ndarray:
    """One utterance at 16 kHz, float32 (samples,): speech of random loudness over faint noise, peak below 0.6."""
    language, variant, _ = {**SPEAKERS, **NEW_IN_TEST}[utterance.speaker]
    voice = f"{language}+{variant}"
    speech = synthesiser.speak(utterance.text, voice, utterance.speed, utterance.pitch, utterance.seed)
    divisor = np.gcd(SAMPLE_RATE, synthesiser.rate)
    wave = resample_poly(speech, SAMPLE_RATE // divisor, synthesiser.rate // divisor)
    rng = np.random.default_rng(utterance.seed)
    wave *= rng.uniform(0.2, 0.5) / np.abs(wave).max()
    wave += rng.normal(0.0, 0.002, len(wave))  # the digital silence between synthetic words has no cepstra
    return wave.astype(np.float32)


def make_set(out: Path, counts: dict) -> dict:
    """Write `counts[split]` utterances per split to `out`, which appears only when complete; seconds per split."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    synthesiser = Synthesiser()
    seconds = {}
    for split, count in counts.items():
        folder = partial / split
        folder.mkdir(parents=True)
        plan = plan_utterances(split, count)
        manifest = [str(out.resolve())]
        samples = 0
        for index, utterance in enumerate(tqdm(plan, desc=f"speech {split}", unit="utt", mininterval=1)):
            wave = render(synthesiser, utterance)
            name = f"{split}/{index:05d}.flac"
            soundfile.write(partial / name, wave, SAMPLE_RATE)
            manifest.append(f"{name}\t{len(wave)}")
            samples += len(wave)
        _write_lines(partial / f"{split}.tsv", manifest)
        for label in ("text", "keyword", "speaker", "ltr"):
            _write_lines(partial / f"{split}.{label}", [getattr(utterance, label) for utterance in plan])
        if split == "train":
            letters = Counter(letter for utterance in plan for letter in utterance.ltr.split())
            _write_lines(partial / "dict.ltr.txt", [f"{letter} {count}" for letter, count in letters.most_common()])
        seconds[split] = samples / SAMPLE_RATE
    os.replace(partial, out)
    return seconds


def _write_lines(path: Path, lines: list) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--train", type=int, default=1500, help="utterances to train on")
    parser.add_argument("--valid", type=int, default=200, help="utterances to validate on")
    parser.add_argument("--test", type=int, default=400, help="utterances to test on")
    args = parser.parse_args()
    seconds = make_set(args.out, {"train": args.train, "valid": args.valid, "test": args.test})
    print(", ".join(f"{split} {value / 60:.1f} min" for split, value in seconds.items()))


if __name__ == "__main__":
    main()
