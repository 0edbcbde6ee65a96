"""`fairseq-distill evaluate probe`, end to end: figures, reasons for missing ones, JSON, a sentence for bad input."""

import json
import shutil

import numpy as np
import pytest

from fairseq_distill.cli.main import main
from fairseq_distill.evaluation.probing import evaluate_probe

HERTZ = {"low": 400, "middle": 1500, "high": 4000}


@pytest.fixture()
def keywords(write_set, make_tone):
    """Tones of three heights, which even random weights tell apart."""
    splits = {"train": 12, "valid": 4, "test": 6}
    rows = {
        split: [(name, make_tone(hertz, [seed, n])) for n in range(count) for name, hertz in HERTZ.items()]
        for seed, (split, count) in enumerate(splits.items())
    }
    return write_set(rows, "keyword")


@pytest.fixture()
def run(checkpoint, tmp_path, capsys):
    """run(folder, *arguments) -> (exit code, stdout, stderr)."""

    def call(folder, *arguments):
        paths = [str(checkpoint), "--data", str(folder), "--cache", str(tmp_path / "cache")]
        code = main(["evaluate", "probe", *paths, *arguments])
        return (code, *capsys.readouterr())

    return call


def rename(folder, rename_label, splits=("train", "valid", "test"), label="speaker"):
    """Write SPLIT.label with rename_label(split, row, keyword) for each keyword."""
    for split in splits:
        old = (folder / f"{split}.keyword").read_text().splitlines()
        lines = [rename_label(split, row, text) + "\n" for row, text in enumerate(old)]
        (folder / f"{split}.{label}").write_text("".join(lines))


def test_keywords_as_json_and_the_same_again(keywords, run):
    code, out, _ = run(keywords, "--json")
    result = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert result["accuracy"] >= 0.8 and result["valid_accuracy"] >= 0.8
    assert result["accuracy_interval"][0] < result["accuracy"] <= result["accuracy_interval"][1]
    assert result["chance"] == pytest.approx(1 / 3)
    assert (result["classes"], result["train"], result["valid"], result["test"]) == (3, 36, 12, 18)
    assert len(result["layer_weights"]) == 3 and sum(result["layer_weights"]) == pytest.approx(1)
    assert result["eer"] is None and "speaker" in result["eer_reason"] and result["accuracy_reason"] is None
    again = json.loads(run(keywords, "--json")[1])
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


def test_table_for_people(keywords, run):
    code, out, _ = run(keywords, "--random-weights", "4")
    assert code == 0
    assert "random weights under seed 4" in out and "95 % interval" in out and "skipped     none" in out
    assert out.splitlines()[-3].split()[0] == "0" and len(out.splitlines()[-3].split()) == 2


def test_unlabelled_and_unreadable_rows_are_counted(keywords, run, caplog):
    lines = (keywords / "test.keyword").read_text().splitlines()
    (keywords / "test.keyword").write_text("\n".join(["", *lines[1:]]) + "\n")
    (keywords / "test4.wav").write_bytes(b"RIFF")
    code, out, _ = run(keywords)
    assert code == 0 and "test 16" in out
    assert "1 unreadable in test, 1 unlabelled in test" in out
    assert "1 of 18 files cannot be used, the first: test4.wav" in caplog.text


def test_known_speakers_get_both_figures_and_valid_chooses_the_layers(keywords, run):
    rename(keywords, lambda split, row, text: text)
    result = json.loads(run(keywords, "--label", "speaker", "--json")[1])
    assert result["accuracy"] >= 0.8 and result["accuracy_reason"] is None
    assert result["eer_layers"].endswith("lowest on valid") and 0 <= result["eer"] < 0.3
    assert (result["same_pairs"], result["different_pairs"]) == (3 * 15, 153 - 45)
    name = result["eer_layers"].split(",")[0]
    if name.startswith("layer "):
        assert result["eer"] == result["eer_per_layer"][int(name.split()[1])]


def test_unknown_speakers_get_the_error_rate_of_equal_weights_alone(keywords, run):
    """One utterance a speaker in train and valid, and other speakers in test, as in LibriSpeech's subset."""
    rename(keywords, lambda split, row, text: text if split == "test" else f"{split} {row}")
    code, out, _ = run(keywords, "--label", "speaker", "--json")
    result = json.loads(out)
    assert code == 0 and result["accuracy"] is None and result["layer_weights"] is None
    expected = "valid.speaker has 12 of its 12 classes, 12 of its 12 utterances, that train.speaker lacks"
    assert result["accuracy_reason"].startswith(expected)
    assert result["eer_layers"].startswith("equal weights") and 0 <= result["eer"] < 0.4
    assert len(result["eer_per_layer"]) == 3
    assert "none: valid.speaker" in run(keywords, "--label", "speaker")[1]


def test_test_labels_do_not_choose_the_layers(keywords, checkpoint, tmp_path):
    rename(keywords, lambda split, row, text: text)
    before = evaluate_probe(checkpoint, keywords, "speaker", tmp_path / "cache")
    rename(keywords, lambda split, row, text: list(HERTZ)[row // 6], splits=["test"])
    after = evaluate_probe(checkpoint, keywords, "speaker", tmp_path / "cache")
    assert after["eer_layers"] == before["eer_layers"] and after["l2"] == before["l2"]
    assert after["eer"] > before["eer"] and after["accuracy"] < before["accuracy"]


def test_speakers_with_one_test_utterance_each_get_the_accuracy_alone(keywords, run):
    lines = (keywords / "test.tsv").read_text().splitlines()
    (keywords / "test.tsv").write_text("\n".join(lines[:4]) + "\n")
    rename(keywords, lambda split, row, text: text)
    (keywords / "test.speaker").write_text("low\nmiddle\nhigh\n")
    result = json.loads(run(keywords, "--label", "speaker", "--json")[1])
    assert result["accuracy"] is not None and result["eer"] is None
    assert "0 pairs of the same and 3 of different" in result["eer_reason"]


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda d: (d / "test.tsv").unlink(), "lacks test.tsv"),
        (lambda d: (d / "valid.keyword").unlink(), "lacks valid.keyword"),
        (lambda d: (d / "test.keyword").write_text("low\n"), "test.keyword has 1 lines, but test.tsv has 18"),
        (lambda d: (d / "train.keyword").write_text("low\n" * 36), "holds only the class 'low'"),
        (lambda d: (d / "test.keyword").write_text("new\n" * 2 + "low\n" * 16), "1 of its 2 classes, 2 of its 18"),
        (lambda d: (d / "test.keyword").write_text("\n" * 18), "test.tsv has no utterance with both"),
        (lambda d: (d / "test.keyword").write_bytes(b"\xff\xfe\n" * 18), "not UTF-8"),
        (lambda d: shutil.rmtree(d), "is no folder"),
    ],
)
def test_bad_input_is_one_sentence_before_any_feature_is_computed(keywords, run, tmp_path, break_it, message):
    break_it(keywords)
    code, out, err = run(keywords)
    assert code == 1 and out == "" and "Traceback" not in err
    assert message in err
    assert not (tmp_path / "cache").exists()


def test_a_class_lost_with_its_only_file_is_told(keywords, run):
    """The labels alone look right; that train's only 'rare' utterance is broken turns up later."""
    for split, lines in (("train", ["rare"] + ["low", "high"] * 17 + ["low"]), ("test", ["rare"] * 2 + ["low"] * 16)):
        (keywords / f"{split}.keyword").write_text("\n".join(lines) + "\n")
    (keywords / "valid.keyword").write_text("low\nhigh\n" * 6)
    (keywords / "train0.wav").write_bytes(b"")
    code, _, err = run(keywords)
    assert code == 1 and "that train.keyword lacks (rare)" in err


def test_speakers_that_allow_neither_figure(keywords, run):
    rename(keywords, lambda split, row, text: f"{split} {row}")
    code, _, err = run(keywords, "--label", "speaker")
    assert code == 1 and "neither accuracy nor equal error rate" in err


def test_real_teacher_beats_random_weights(shared_data, tmp_path):
    """Three of the ten digits, a few of each: the teacher tells them apart better than the same network untrained."""
    manifests = shared_data / "speech" / "manifest" / "digits"
    for split, count in (("train", 45), ("valid", 9), ("test", 24)):
        rows = (manifests / f"{split}.tsv").read_text().splitlines()[1:]
        labels = (manifests / f"{split}.keyword").read_text().splitlines()
        keep = [row for row, text in enumerate(labels) if text in ("0", "1", "2")]
        keep = [keep[i] for i in np.linspace(0, len(keep) - 1, count).astype(int)]
        lines = [str(shared_data / "speech"), *(rows[k] for k in keep)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        (tmp_path / f"{split}.keyword").write_text("".join(labels[k] + "\n" for k in keep))
    path = shared_data / "teacher" / "hubert_small.pt"
    teacher = evaluate_probe(path, tmp_path, "keyword", tmp_path / "cache")
    random = evaluate_probe(path, tmp_path, "keyword", tmp_path / "cache", random_seed=1)
    assert teacher["accuracy"] > 0.7 and teacher["accuracy"] > random["accuracy"]
