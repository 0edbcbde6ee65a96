"""The quickstart's parts: synthesised speech with its labels, units that fairseq reads, and the table."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fairseq.data import Dictionary
from fairseq.data.audio.hubert_dataset import load_audio, verify_label_lengths

QUICKSTART = Path(__file__).resolve().parent.parent.parent / "examples" / "quickstart"
COUNTS = {"train": 12, "valid": 2, "test": 3}


def load_script(name):
    """The module of a script in examples/quickstart, which is no package."""
    spec = importlib.util.spec_from_file_location(f"quickstart_{name}", QUICKSTART / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def read_lines(path):
    return path.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def make_speech():
    pytest.importorskip("espeakng_loader", reason="speech is synthesised by espeak-ng: pip install espeakng-loader")
    return load_script("make_speech")


@pytest.fixture(scope="module")
def speech(make_speech, tmp_path_factory):
    """A speech set of `COUNTS` utterances."""
    out = tmp_path_factory.mktemp("quickstart") / "speech"
    make_speech.make_set(out, COUNTS)
    return out


def test_speech_is_audible_and_as_the_manifest_says(speech):
    for split, count in COUNTS.items():
        root, *rows = read_lines(speech / f"{split}.tsv")
        assert root == str(speech) and len(rows) == count
        for row in rows:
            name, samples = row.split("\t")
            wave, rate = soundfile.read(Path(root) / name)
            assert rate == 16000 and wave.shape == (int(samples),)
            assert 0.3 < len(wave) / rate < 4
            assert 0.1 < np.abs(wave).max() < 0.6
            energy = (wave[: len(wave) // 400 * 400].reshape(-1, 400) ** 2).mean(axis=1)
            assert (energy > 0.01**2).mean() > 0.3, "most of the wave is silent"


def test_labels_say_what_is_spoken(make_speech, speech):
    for split, count in COUNTS.items():
        texts, keywords, speakers = (read_lines(speech / f"{split}.{kind}") for kind in ("text", "keyword", "speaker"))
        assert len(texts) == len(keywords) == len(speakers) == count
        for text, keyword in zip(texts, keywords):
            assert [word for word in text.split() if word in make_speech.KEYWORDS] == [keyword]
        for text, letters in zip(texts, read_lines(speech / f"{split}.ltr")):
            assert letters.replace(" ", "").replace("|", " ").strip() == text.upper()
            assert letters.endswith(" |") and all(len(letter) == 1 for letter in letters.split(" "))
    assert set(read_lines(speech / "train.keyword")) == set(make_speech.KEYWORDS)
    dictionary = Dictionary.load(str(speech / "dict.ltr.txt"))
    assert {letter for line in read_lines(speech / "train.ltr") for letter in line.split()} <= set(dictionary.symbols)


def test_longer_text_is_longer_and_another_voice_sounds_different(make_speech):
    espeak = make_speech.Synthesiser()
    short = espeak.speak("garden", "en-us+f2", 160, 50, seed=1)
    long = espeak.speak("garden garden garden", "en-us+f2", 160, 50, seed=1)
    fast = espeak.speak("garden garden garden", "en-us+f2", 240, 50, seed=1)
    other = espeak.speak("garden", "en-us+m3", 160, 50, seed=1)
    assert len(long) > 1.5 * len(short) and len(fast) < 0.9 * len(long)
    assert len(other) != len(short) or not np.allclose(other, short, atol=0.05)


@pytest.mark.parametrize("voice", ["en-us+nobody", "nowhere+f2"])
def test_unknown_voice_is_named(make_speech, voice):
    with pytest.raises(RuntimeError, match=f"has no voice '{re.escape(voice)}'"):
        make_speech.Synthesiser().speak("garden", voice, 160, 50, seed=1)


def test_speech_is_the_same_in_another_process(speech, tmp_path):
    again = tmp_path / "speech"
    counts = [f"--{split}={count}" for split, count in COUNTS.items()]
    subprocess.run([sys.executable, QUICKSTART / "make_speech.py", again, *counts], check=True)
    files = sorted(path.relative_to(speech) for path in speech.rglob("*.*") if path.suffix != ".tsv")
    assert len(files) == sum(COUNTS.values()) + 4 * len(COUNTS) + 1
    for name in files:
        assert (again / name).read_bytes() == (speech / name).read_bytes(), name


def test_test_split_has_speakers_and_speeds_that_train_lacks(make_speech):
    train, test = (make_speech.plan_utterances(split, 400) for split in ("train", "test"))
    assert {u.speaker for u in test} - {u.speaker for u in train} == set(make_speech.NEW_IN_TEST)
    assert {u.speaker for u in test} > {u.speaker for u in train}
    assert not {u.speed for u in test} & {u.speed for u in train}
    assert len({u.text for u in train}) > 390, "carrier words hardly vary"


def test_units_fit_audio_and_dictionary(speech, tmp_path):
    make_units = load_script("make_units")
    out = tmp_path / "units"
    frames = make_units.make_units(speech, out, clusters=8)
    dictionary = Dictionary.load(str(out / "dict.km.txt"))
    seen = 0
    for split in ("train", "valid"):
        _, _, indices, total, sizes = load_audio(str(speech / f"{split}.tsv"), None, None)
        verify_label_lengths(sizes, 16000, str(out / f"{split}.km"), make_units.LABEL_RATE, indices, total)
        lines = read_lines(out / f"{split}.km")
        assert len(lines) == COUNTS[split]
        for line, samples in zip(lines, sizes):
            units = line.split()
            assert len(units) == 1 + (samples - 400) // 160  # kaldi: windows of 25 ms every 10 ms, all inside the wave
            encoded = dictionary.encode_line(line, append_eos=False, add_if_not_exist=False)
            assert dictionary.unk() not in encoded.tolist()
            assert dictionary.string(encoded).split() == units
            seen += len(units)
    assert seen == frames == sum(dictionary.count[dictionary.nspecial :])
    assert len(dictionary) == dictionary.nspecial + 8


def test_units_name_the_file_with_the_wrong_rate(tmp_path):
    soundfile.write(tmp_path / "slow.wav", np.zeros(8000), 8000)
    with pytest.raises(SystemExit, match="slow.wav: 8000 Hz"):
        load_script("make_units").cepstra(tmp_path / "slow.wav")


def test_table_takes_first_and_last_validation(tmp_path):
    log = tmp_path / "hydra_train.log"
    lines = ['[2025-01-01 00:00:00,000][train_inner][INFO] - {"epoch": 1, "loss": "9", "num_updates": "1"}']
    lines += [
        f'[2025-01-01 00:00:00,000][valid][INFO] - {{"valid_loss": "{loss}", "valid_num_updates": "{update}"}}'
        for update, loss in ((1, 1.5), (100, 0.75), (300, 0.5))
    ]
    log.write_text("\n".join(lines), encoding="utf-8")
    results = tmp_path / "results"
    results.mkdir()
    for name, parameters in (("teacher", 2_000_000), ("student", 500_000)):
        info = {"parameters": {"encoder": parameters}, "macs_per_second": parameters * 50}
        (results / f"{name}.info.json").write_text(json.dumps(info))
    for name, accuracy in (("teacher", 0.75), ("student", 0.625), ("start", 0.5), ("random", 0.25)):
        keyword = {"accuracy": accuracy, "accuracy_interval": [accuracy - 0.1, accuracy + 0.1], "chance": 0.1}
        (results / f"{name}.keyword.json").write_text(json.dumps(keyword))
    table = subprocess.run(
        [sys.executable, QUICKSTART / "print_table.py", results, log], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert table[1].split() == ["teacher", "2.00", "M", "0.100", "G", "75.0%", "(65.0", "to", "85.0)"]
    assert table[2].split() == ["student", "0.50", "M", "0.025", "G", "62.5%", "(52.5", "to", "72.5)"]
    assert table[3].startswith("student before distillation") and "0.50 M" in table[3] and "50.0%" in table[3]
    assert table[4].startswith("student, random weights") and "25.0%" in table[4]
    assert table[5] == "chance on keywords: 10.0%"
    assert table[6] == "distillation loss on valid: 1.500 after update 1, 0.500 after update 300"


@pytest.mark.parametrize("given", ["DATA", "TEACHER"])
def test_run_says_what_is_missing(tmp_path, given):
    result = subprocess.run(
        ["bash", QUICKSTART / "run.sh"],
        env={"PATH": "/usr/bin:/bin", given: str(tmp_path / "nothing"), "WORK": str(tmp_path / "work")},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert f"quickstart: {given}={tmp_path}/nothing" in result.stderr
