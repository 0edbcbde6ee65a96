"""`fairseq-distill manifest speech-commands`: official splits, 12 classes, silence that the splits do not share."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import soundfile

from fairseq_distill.cli.main import main
from fairseq_distill.data.labels import read_labels
from fairseq_distill.data.manifest import check_audio, read_manifest
from fairseq_distill.evaluation.probing import evaluate_probe

from ..builders import save_teacher
from .layouts import RATE, TEN_WORDS, read_lines, read_manifest_rows, write_audio, write_speech_commands, write_test_set

SPEAKERS = {"train": "01234", "valid": "56", "test": "78"}


def run(source, out, *words):
    return main(["manifest", "speech-commands", str(source), "--out", str(out), *map(str, words)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_speech_commands(tmp_path_factory.mktemp("commands") / "v0.02")


@pytest.fixture(scope="module")
def out(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "keywords"
    assert run(corpus, folder) == 0
    return folder


def read_split(out, split):
    """(path, keyword, speaker) of each row, by the labels' own reader."""
    manifest = read_manifest(out / f"{split}.tsv")
    labels = [read_labels(out / f"{split}.{ending}", len(manifest.paths)) for ending in ("keyword", "speaker")]
    return list(zip(manifest.paths, *labels))


@pytest.mark.parametrize("split, others", [("train", 10), ("valid", 2), ("test", 2)])
def test_splits_and_labels_are_those_of_the_lists(out, split, others):
    """Ten words of every speaker; all other words in train, elsewhere a tenth of the ten's; a tenth of silence."""
    rows = read_split(out, split)
    words = [row for row in rows if row[1] in TEN_WORDS]
    expected = {
        (f"{word}/abc{n}_nohash_{int(n) % 2}.wav", word, f"abc{n}") for word in TEN_WORDS for n in SPEAKERS[split]
    }
    assert set(words) == expected and len(words) == len(expected)
    unknown = [row for row in rows if row[1] == "_unknown_"]
    assert len(unknown) == others and {path.split("/")[0] for path, _, _ in unknown} <= {"bed", "cat"}
    assert all(speaker == path.split("/")[1][:4] for path, _, speaker in unknown)
    silence = [row for row in rows if row[1] == "_silence_"]
    assert len(silence) == math.ceil(len(expected) / 10) and {speaker for _, _, speaker in silence} == {""}
    assert len(rows) == len(words) + len(unknown) + len(silence)


def test_manifests_are_usable_as_they_stand(out):
    for split in SPEAKERS:
        manifest = read_manifest(out / f"{split}.tsv")
        assert check_audio(manifest, RATE, 400).num_bad == 0
        for row in range(len(manifest.paths)):
            assert soundfile.info(manifest.path(row)).frames == manifest.sizes[row]


def test_silence_is_cut_from_stretches_that_no_two_splits_share(corpus, out):
    """Every piece is found again in its noise; the stretches are intervals, so comparing all ends suffices."""
    spans = {}
    for split in SPEAKERS:
        for path, _, _ in (row for row in read_split(out, split) if row[1] == "_silence_"):
            assert path.startswith(str(out / "silence" / split))
            name, start = re.fullmatch(r"(\w+)_(\d+)\.flac", path.rsplit("/")[-1]).groups()
            noise, _ = soundfile.read(str(corpus / "_background_noise_" / f"{name}.wav"), dtype="int16")
            piece, rate = soundfile.read(path, dtype="int16")
            assert rate == RATE and len(piece) == RATE
            np.testing.assert_array_equal(piece, noise[int(start) : int(start) + RATE])
            spans.setdefault((name, split), []).append(int(start))
    for name in ("tap", "bike"):
        last = {split: max(spans[name, split]) + RATE for split in SPEAKERS}
        assert last["train"] <= min(spans[name, "valid"]) and last["valid"] <= min(spans[name, "test"])
    assert len(list((out / "silence").glob("*/*.flac"))) == sum(map(len, spans.values())) == 5 + 2 + 2


def test_the_same_corpus_gives_the_same_files(corpus, out, tmp_path):
    assert run(corpus, tmp_path / "keywords") == 0
    for path in (path for path in out.rglob("*") if path.is_file()):
        again = (tmp_path / "keywords" / path.relative_to(out)).read_bytes()
        assert again.replace(str(tmp_path).encode(), str(out.parent).encode()) == path.read_bytes()


def test_all_words_are_classes_of_their_own(corpus, tmp_path, capsys):
    assert run(corpus, tmp_path / "all", "--classes", "all") == 0
    counts = Counter(read_lines(tmp_path / "all" / "train.keyword"))
    assert counts == dict.fromkeys([*TEN_WORDS, "bed", "cat"], 5)
    assert not (tmp_path / "all" / "silence").exists()
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["split", "utterances", "hours", "keywords", "speakers"]
    assert table[1].split() == ["train", "60", f"{60 * 820 / RATE / 3600:.2f}", "12", "5"]


def test_published_test_set_takes_the_place_of_the_list(corpus, tmp_path):
    test_set = write_test_set(tmp_path / "test_set")
    assert run(corpus, tmp_path / "out", "--test-set", test_set) == 0
    rows = read_split(tmp_path / "out", "test")
    assert Counter(keyword for _, keyword, _ in rows) == dict.fromkeys([*TEN_WORDS, "_unknown_", "_silence_"], 2)
    assert {path.split("/")[-2] == keyword for path, keyword, _ in rows} == {True}
    assert {speaker for _, keyword, speaker in rows if keyword != "_silence_"} == {"def0", "def1"}
    assert {speaker for _, keyword, speaker in rows if keyword == "_silence_"} == {""}
    assert not (tmp_path / "out" / "silence" / "test").exists()


def test_broken_and_missing_files_are_counted_and_left_out(tmp_path, capsys):
    source = write_speech_commands(tmp_path / "v0.02")
    write_audio(source / "yes" / "abc0_nohash_0.wav", 400, rate=8000)
    write_audio(source / "yes" / "abc1_nohash_1.wav", channels=2)
    (source / "no" / "abc2_nohash_0.wav").write_bytes(b"")
    write_audio(source / "up" / "abc3_nohash_1.wav", 399)
    (source / "go" / "abc7_nohash_1.wav").unlink()
    (source / "_background_noise_" / "broken.wav").write_text("no noise " * 100)
    assert run(source, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    for line in (
        "1 of train: wrong sample rate, such as yes/abc0_nohash_0.wav: 8000 Hz instead of 16000 Hz",
        "1 of train: not mono, such as yes/abc1_nohash_1.wav: 2 channels",
        "1 of train: unreadable, such as no/abc2_nohash_0.wav",
        "1 of train: too short, such as up/abc3_nohash_1.wav: it holds 399 samples",
        "1 of test: missing, though in testing_list.txt, such as go/abc7_nohash_1.wav",
        "1 of _background_noise_: unreadable, such as _background_noise_/broken.wav",
        "2 of valid: other words beyond a tenth of the ten words' utterances, such as bed/",
        "silence: segments of a second from 2 noises, 5 in train, 2 in valid, 2 in test",
    ):
        assert line in printed
    rows = read_manifest_rows(tmp_path / "out" / "train.tsv")
    assert len(rows) == 50 - 4 + 10 + 5
    assert not {"yes/abc0_nohash_0.wav", "yes/abc1_nohash_1.wav", "no/abc2_nohash_0.wav", "up/abc3_nohash_1.wav"} & set(
        rows
    )


def spoil(source, what):
    """Take something away that the command needs."""
    if what == "list":
        (source / "testing_list.txt").unlink()
    elif what == "noise":
        for path in (source / "_background_noise_").glob("*.wav"):
            path.unlink()
    elif what == "short noise":
        for path in (source / "_background_noise_").glob("*.wav"):
            write_audio(path, 9 * RATE)
    elif what == "words":
        for word in TEN_WORDS:
            (source / word).rename(source / f"not_{word}")
    elif what == "truncated noise":
        tap = source / "_background_noise_" / "tap.wav"
        wave, _ = soundfile.read(str(tap), dtype="int16")
        soundfile.write(str(tap), wave, RATE, format="FLAC")
        tap.write_bytes(tap.read_bytes()[:200_000])


@pytest.mark.parametrize(
    "what, sentence",
    [
        ("list", "testing_list.txt"),
        ("noise", "has no .wav file to cut silence from: unpack it too, or give --classes all"),
        ("short noise", "no file of background noise has a second in the 10 % that are for valid"),
        ("words", "has none of the words yes, no,"),
        ("truncated noise", "tap.wav"),
    ],
)
def test_nothing_is_written_of_an_incomplete_corpus(what, sentence, tmp_path, capsys):
    source = write_speech_commands(tmp_path / "v0.02")
    spoil(source, what)
    assert run(source, tmp_path / "made" / "out") == 1
    assert sentence in capsys.readouterr().err
    assert list((tmp_path / "made").glob("*")) == []


def test_test_set_must_have_the_12_classes(corpus, tmp_path, capsys):
    test_set = write_test_set(tmp_path / "test_set")
    (test_set / "_silence_").rename(test_set / "quiet")
    assert run(corpus, tmp_path / "out", "--test-set", test_set) == 1
    assert "see _silence_, quiet" in capsys.readouterr().err
    assert run(corpus, tmp_path / "out", "--test-set", test_set, "--classes", "all") == 1
    assert "--test-set is for the 12 classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluate_reads_what_was_written(out, tmp_path):
    """Twelve classes reach the probe, and nothing but rows without a label is skipped."""
    result = evaluate_probe(save_teacher(tmp_path / "teacher.pt"), out, "keyword", tmp_path / "cache")
    assert result["classes"] == 12
    assert [result[split] for split in ("train", "valid", "test")] == [65, 24, 24]


def test_lists_with_a_byte_order_mark_and_names_that_no_manifest_holds(tmp_path, capsys):
    plain = write_speech_commands(tmp_path / "plain")
    assert main(["manifest", "speech-commands", str(plain), "--out", str(tmp_path / "a")]) == 0
    for name in ("validation_list.txt", "testing_list.txt"):
        path = plain / name
        path.write_text(path.read_text(), encoding="utf-8-sig")
    write_audio(plain / "yes" / "tab\there_nohash_0.wav")
    write_audio(plain / "yes" / "space_nohash_0 .wav")
    capsys.readouterr()
    assert main(["manifest", "speech-commands", str(plain), "--out", str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out
    assert "1 of train: a name that no manifest can hold, such as 'yes/tab\\there_nohash_0.wav'" in shown
    for split in ("valid", "test"):
        rows = [read_manifest_rows(tmp_path / out / f"{split}.tsv") for out in "ab"]
        words = [{name for name in found if not name.startswith("/")} for found in rows]
        assert words[0] == words[1] and len(words[0]) > 10
    assert "yes/space_nohash_0 .wav" in read_manifest_rows(tmp_path / "b" / "train.tsv")
