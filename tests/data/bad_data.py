"""A generator of odd data: audio, manifests, labels, units, trials and clusters, each with how it must end."""

import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np
import soundfile

from .broken_audio import RATE, make_noise, write_zip

SAMPLES = 8000
CODECS = {
    "pcm16.wav": "PCM_16",
    "pcm24.wav": "PCM_24",
    "pcm32.wav": "PCM_32",
    "float.wav": "FLOAT",
    "double.wav": "DOUBLE",
    "ulaw.wav": "ULAW",
    "alaw.wav": "ALAW",
    "ima.wav": "IMA_ADPCM",
    "ms.wav": "MS_ADPCM",
    "gsm.wav": "GSM610",
    "g721.wav": "G721_32",
    "nms.wav": "NMS_ADPCM_16",
    "pcm.flac": "PCM_16",
    "vorbis.ogg": "VORBIS",
    "opus.ogg": "OPUS",
    "layer3.mp3": "MPEG_LAYER_III",
    "pcm.aiff": "PCM_16",
    "gsm.aiff": "GSM610",
    "pcm.au": "PCM_16",
    "g723.au": "G723_24",
    "pcm.caf": "PCM_16",
    "pcm.w64": "PCM_16",
    "pcm.rf64": "PCM_16",
}
# Those whose header says how long they are: where a file ends early is known without a manifest.
PROMISING = [name for name in CODECS if not name.endswith((".ogg", ".mp3"))]


@dataclass
class Audio:
    """A file, its row of a manifest, and whether it cannot be used; `by_manifest`: as perhaps only its row shows."""

    path: str
    samples: int
    bad: bool = False
    by_manifest: bool = False


def write_audio(folder: Path) -> List[Audio]:
    """About 150 files and other things that rows of a manifest name."""
    return [*_write_codecs(folder), *_write_damages(folder), *_write_samples(folder), *_write_places(folder)]


def _write_codecs(folder: Path) -> List[Audio]:
    found = []
    for number, (name, subtype) in enumerate(CODECS.items()):
        soundfile.write(folder / name, make_noise(SAMPLES, number), RATE, subtype=subtype)
        found.append(Audio(name, soundfile.info(folder / name).frames))
    return found


def _write_damages(folder: Path) -> List[Audio]:
    random = np.random.default_rng(1)
    found = []
    for name in CODECS:
        data = (folder / name).read_bytes()
        damages = {
            "half": data[: len(data) // 2],
            "hundredth": data[: len(data) // 100],
            "empty": b"",
            "zeros": bytes(len(data)),
            "noise": random.bytes(len(data)),
        }
        for damage, left in damages.items():
            path = f"{damage}.{name}"
            (folder / path).write_bytes(left)
            found.append(Audio(path, SAMPLES, bad=True, by_manifest=damage == "half" and name not in PROMISING))
    return found


def _write_samples(folder: Path) -> List[Audio]:
    """Float WAV of odd samples, other rates, channels and lengths."""
    noise = make_noise(SAMPLES, 3)

    def replaced(value: float, places: slice = slice(77, 78)) -> np.ndarray:
        wave = noise.copy()
        wave[places] = value
        return wave

    everywhere = slice(None)
    waves = {
        "nan": (replaced(np.nan), True),
        "all nan": (replaced(np.nan, everywhere), True),
        "inf": (replaced(np.inf), True),
        "minus inf": (replaced(-np.inf), True),
        "1e30": (replaced(1e30), True),
        "minus 1e30": (replaced(-1e30), True),
        "all 1e30": (noise * np.float32(1e30), True),
        "all 1e38": (noise * np.float32(3e38), True),
        "all 1e-42": (noise * np.float32(1e-41), True),
        "1e-42 beside speech": (replaced(1e-42), False),
        "offset and 1e-42": (np.float32(0.5) + noise * np.float32(1e-41), True),
        "silent": (replaced(0, everywhere), True),
        "constant": (replaced(0.3, everywhere), True),
        "minus zero": (replaced(-0.0, everywhere), True),
        "integers as floats": (np.round(noise * 32768), False),
        "32-bit integers as floats": (np.round(noise * 2.0**31), False),
        "whisper": (noise * np.float32(1e-5), False),
        "stereo": (noise.reshape(-1, 2), False),
        "six channels": (noise[:7998].reshape(-1, 6), False),
        "channels that cancel": (np.stack([noise, -noise], 1), True),
        "one channel nan": (np.stack([noise, replaced(np.nan)], 1), True),
        "short": (noise[:399], True),
        "one sample": (noise[:1], True),
        "no sample": (noise[:0], True),
    }
    found = []
    for name, (wave, bad) in waves.items():
        soundfile.write(folder / f"{name}.wav", wave.astype(np.float32), RATE, subtype="FLOAT")
        found.append(Audio(f"{name}.wav", max(len(wave), 400), bad))
    for rate in (8000, 11_025, 44_100, 48_000):
        soundfile.write(folder / f"rate{rate}.wav", noise, rate)
        found.append(Audio(f"rate{rate}.wav", SAMPLES, bad=True))
    for name, samples, bad in (("ten times", 80_000, True), ("a third", 2667, True), ("5 % more", 8400, False)):
        soundfile.write(folder / f"{name}.wav", noise, RATE)
        found.append(Audio(f"{name}.wav", samples, bad, by_manifest=bad))
    return found


def _write_places(folder: Path) -> List[Audio]:
    """Odd names, and rows that name no file."""
    names = [
        "with space.wav",
        "two  spaces.flac",
        "colon:in name.wav",
        "12:30:00.mp3",
        "12:30.w64",
        "zip:1:2",
        "#100%.wav",
        "'quotes\".wav",
        "-dash.wav",
        "*.wav",
        "größe.wav",
        "gro\u0308ße.wav",
        "日本語.flac",
        "🎤.wav",
        "no ending",
        "WAVE.WAV",
        f"{'long' * 50}.wav",
        "a\u00a0b.wav",
    ]
    found = []
    for number, name in enumerate(names):
        kind = Path(name).suffix[1:].upper() or "WAV"
        soundfile.write(folder / name, make_noise(SAMPLES, number), RATE, format="WAV" if ":" in kind else kind)
        found.append(Audio(name, SAMPLES))
    (folder / "sub:dir").mkdir()
    (folder / "folder.wav").mkdir()
    soundfile.write(folder / "sub:dir" / "a.wav", make_noise(SAMPLES, 50), RATE)
    os.symlink(folder / "pcm.flac", folder / "link.flac")
    os.symlink(folder / "nowhere.flac", folder / "dead.flac")
    os.symlink(folder / "loop.flac", folder / "loop.flac")
    os.mkfifo(folder / "pipe.wav")
    stored = write_zip(folder, "stored.zip", "pcm.flac")
    beside_colon = write_zip(folder, "sub:dir/stored.zip", "pcm.flac")
    with zipfile.ZipFile(folder / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"RIFF" * 5000)
    good = ["sub:dir/a.wav", "link.flac", stored, beside_colon]
    bad = ["folder.wav", "dead.flac", "loop.flac", "pipe.wav", "gone.wav", "gone.zip:10:20", "", "pcm.flac/a.wav"]
    bad += ["stored.zip:0:40", "stored.zip:30:9999999", "stored.zip:99999999:10", "deflated.zip:30:60"]
    bad += ["stored.zip:5", "stored.zip:-1:5", "stored.zip:1:2:3", "stored.zip:1:0", f"stored.zip:{10**30}:5"]
    bad += ["n" * 5000]
    found += [Audio(path, SAMPLES) for path in good]
    return found + [Audio(path, SAMPLES, bad=True) for path in bad if path]


@dataclass
class Text:
    """Bytes of a text file, what must stand in the sentence that refuses it, or "" where it is read."""

    data: bytes
    refused: str = ""


def list_manifests(root: str) -> Dict[str, Text]:
    """Manifests over `root`, which holds pcm.flac."""

    def rows(*lines: str, end: str = "\n", encoding: str = "utf-8") -> bytes:
        return end.join([root, *lines, ""]).encode(encoding)

    good, form = f"pcm.flac\t{SAMPLES}", "expected PATH<TAB>SAMPLES"
    counts = ["x", "-5", "+5", "5.5", "1e5", "0x10", "", " ", "nan", "8 000", "8,000", "²", str(10**30), "9" * 5000]
    return {
        "plain": Text(rows(good)),
        "Windows' ends of lines": Text(rows(good, end="\r\n")),
        "no end of the last line": Text(rows(good)[:-1]),
        "repeated": Text(rows(*[good] * 3)),
        "a byte order mark": Text(rows(good, encoding="utf-8-sig"), "byte order mark"),
        "UTF-16": Text(rows(good, encoding="utf-16"), "not a text file"),
        "Latin-1": Text(rows("größe.wav\t5", encoding="latin-1"), "not a text file"),
        "binary": Text(bytes(range(256)), "not a text file"),
        "empty": Text(b"", "line 1: empty"),
        "NUL": Text(bytes(100), "line 1"),
        "no row": Text(rows(), "no row"),
        "no root": Text(good.encode(), "line 1"),
        "a root that is a file": Text(
            rows(good).replace(root.encode(), f"{root}/pcm.flac".encode(), 1), "is no folder"
        ),
        "a root that is gone": Text(rows(good).replace(root.encode(), b"/gone", 1), "is no folder"),
        "an empty line": Text(rows(good, "", good), "line 3"),
        "three fields": Text(rows(f"{good}\tx"), form),
        "a space for the tab": Text(rows(good.replace("\t", " ")), form),
        "a tab in the name": Text(rows(f"a\t{good}"), form),
        "no name": Text(rows(f"\t{SAMPLES}"), form),
        **{f"count {count[:20]!r}": Text(rows(good, f"pcm.flac\t{count}"), "line 3") for count in counts},
    }


def list_labels() -> Dict[str, Text]:
    """Label files of three rows."""
    return {
        "plain": Text(b"yes\nno\nyes\n"),
        "a byte order mark": Text(b"\xef\xbb\xbfyes\nno\nyes\n"),
        "Windows' ends of lines": Text(b"yes\r\nno\r\nyes\r\n"),
        "spaces around": Text(b" yes\nno \n\tyes\n"),
        "one missing": Text(b"yes\n\nno\n"),
        "one line fewer": Text(b"yes\nno\n", "has 2 lines"),
        "one line more": Text(b"yes\nno\nyes\nno\n", "has 4 lines"),
        "empty": Text(b"", "has 0 lines"),
        "UTF-16": Text("yes\nno\nyes\n".encode("utf-16"), "not UTF-8"),
        "Latin-1": Text("gr\u00fcn\nno\nyes\n".encode("latin-1"), "not UTF-8"),
        "one class": Text(b"yes\nyes\nyes\n", "1 classes"),
        "none": Text(b"\n\n\n", "0 classes"),
    }


def list_units() -> Dict[str, Text]:
    """Units of three rows of 25 frames, of a dictionary of 0 to 9."""
    line = b" ".join(b"%d" % (frame % 10) for frame in range(25)) + b"\n"

    def first(word: bytes) -> bytes:
        return word + line[1:] + 2 * line

    return {
        "plain": Text(3 * line),
        "a byte order mark": Text(b"\xef\xbb\xbf" + 3 * line),
        "Windows' ends of lines": Text(3 * line.replace(b"\n", b"\r\n")),
        "tabs": Text(3 * line.replace(b" ", b"\t")),
        "one line fewer": Text(2 * line, "has 2 lines"),
        "one line more": Text(4 * line, "has 4 lines"),
        "empty": Text(b"", "has 0 lines"),
        "a unit beyond": Text(first(b"10"), "no unit .*'10'"),
        "a negative unit": Text(first(b"-1"), "no unit .*'-1'"),
        "a float": Text(first(b"1.5"), "no unit .*'1.5'"),
        "a word": Text(first(b"x"), "no unit .*'x'"),
        "binary": Text(first(b"\xff\x00\xfe"), "no unit"),
        "UTF-16": Text((3 * line).decode().encode("utf-16"), ""),  # as a line more or a unit that is none
        "twice the rate": Text(3 * (line[:-1] + b" " + line), "labels a second"),
        "no unit in any": Text(b"\n\n\n", "labels a second"),
    }


def list_dictionaries() -> Dict[str, Text]:
    """Dictionaries of the units 0 to 9."""
    plain = b"".join(b"%d 5\n" % unit for unit in range(10))
    return {
        "plain": Text(plain),
        "a byte order mark": Text(b"\xef\xbb\xbf" + plain),
        "Windows' ends of lines": Text(plain.replace(b"\n", b"\r\n")),
        "no counts": Text(plain.replace(b" 5", b""), "UNIT COUNT"),
        "counts that are none": Text(plain.replace(b" 5", b" x"), "UNIT COUNT"),
        "a unit twice": Text(plain + b"3 5\n", "UNIT COUNT"),
        "an empty line": Text(plain + b"\n", "UNIT COUNT"),
        "empty": Text(b"", "no units"),
        "UTF-16": Text(plain.decode().encode("utf-16"), "UNIT COUNT"),
        "binary": Text(bytes(range(128, 256)), "UNIT COUNT"),
    }


def list_trials() -> Dict[str, Text]:
    """Trials over a.wav, b.wav and c.wav."""
    plain = b"1 a.wav b.wav\n0 a.wav c.wav\n"
    return {
        "VoxCeleb's": Text(plain),
        "Kaldi's": Text(b"a.wav b.wav target\na.wav c.wav nontarget\n"),
        "a byte order mark": Text(b"\xef\xbb\xbf" + plain),
        "Windows' ends of lines": Text(plain.replace(b"\n", b"\r\n")),
        "tabs": Text(plain.replace(b" ", b"\t")),
        "empty": Text(b"", "holds no trial"),
        "an empty line": Text(plain + b"\n", "line 3"),
        "two words": Text(b"1 a.wav\n", "line 1"),
        "four words": Text(b"1 a.wav b.wav c.wav\n", "line 1"),
        "another number": Text(plain + b"2 a.wav b.wav\n", "line 3"),
        "mixed forms": Text(plain + b"a.wav b.wav target\n", "line 3"),
        "unknown files": Text(plain + b"1 a.wav x.wav\n", "not in"),
        "UTF-16": Text(plain.decode().encode("utf-16"), "not UTF-8"),
        "binary": Text(bytes(range(128, 256)), "not UTF-8"),
    }


def list_clusters(plain: dict) -> Dict[str, Text]:
    """Files of clusters, made of `plain`, a good one."""

    def changed(**fields: object) -> bytes:
        return json.dumps({**plain, **fields}).encode()

    def similar(**fields: object) -> bytes:
        return changed(similarity={**plain["similarity"], **fields})

    text, none = changed(), "is no file of clusters"
    changes: Dict[str, Callable[[], bytes]] = {
        "cut short": lambda: text[: len(text) // 2],
        "empty": lambda: b"",
        "a list": lambda: b"[]",
        "a number": lambda: b"1",
        "binary": lambda: bytes(range(128, 256)),
        "deep": lambda: b"[" * 100_000,
        "another version": lambda: changed(format=99),
        "a field more": lambda: changed(more=1),
        "no similarity": lambda: changed(similarity=None),
        "no numbers": lambda: similar(values="x"),
        "no square": lambda: similar(values=[[1.0, 0.5]]),
        "ragged": lambda: similar(values=[[1.0], [0.5, 1.0]]),
        "not finite": lambda: similar(values=[[float("nan")] * 4] * 4),
        "groups that are text": lambda: changed(groups="all"),
        "groups of text": lambda: changed(groups=["a", "b"]),
        "groups of layers that do not exist": lambda: changed(groups=[[1, 2], [99]]),
        "a layer twice": lambda: changed(groups=[[1, 2], [2, 3]]),
        "a layer left out": lambda: changed(groups=[[1, 2]]),
        "an empty group": lambda: changed(groups=[[1, 2, 3], []]),
        "layers of floats": lambda: changed(layers=[1.5, 2.0, 3.0]),
        "a tree of another size": lambda: changed(tree=[[0, 1, 0.5, 2]]),
        "a tree of layers that do not exist": lambda: changed(tree=[[0, 9, 0.5, 2], [2, 3, 0.6, 3]]),
        "a tree of words": lambda: changed(tree=[["a"] * 4] * 2),
    }
    return {
        "plain": Text(text),
        "a byte order mark": Text(b"\xef\xbb\xbf" + text),
        **{name: Text(make(), none) for name, make in changes.items()},
    }


def count_cases() -> Dict[str, int]:
    """How many cases there are of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        counts = {"audio": len(write_audio(Path(folder)))}
    texts = {
        "manifests": list_manifests("/"),
        "labels": list_labels(),
        "units": list_units(),
        "dictionaries": list_dictionaries(),
        "trials": list_trials(),
        "clusters": list_clusters({"similarity": {}}),
    }
    return {**counts, **{name: len(cases) for name, cases in texts.items()}}


if __name__ == "__main__":
    found = count_cases()
    print(", ".join(f"{count} {name}" for name, count in found.items()), "=", sum(found.values()))
