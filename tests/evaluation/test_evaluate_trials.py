"""`fairseq-distill evaluate probe --trials`: pairs of a list, minimum detection costs, intervals, table and JSON."""

import json

import numpy as np
import pytest

from fairseq_distill.cli.main import main
from fairseq_distill.evaluation.features import FeatureStore
from fairseq_distill.evaluation.probe import Standardiser
from fairseq_distill.evaluation.verification import equal_error_rate

HERTZ = {"low": 400, "middle": 1500, "high": 4000}
OLD_KEYS = {"checkpoint", "random_weights", "data", "label", "classes", "train", "valid", "test", "skipped", "seconds"}
OLD_KEYS |= {"accuracy", "accuracy_interval", "chance", "valid_accuracy", "l2", "layer_weights", "accuracy_reason"}
OLD_KEYS |= {"eer", "eer_layers", "eer_per_layer", "same_pairs", "different_pairs", "eer_reason"}


@pytest.fixture()
def speakers(write_set, make_tone):
    """Speakers who are tones: unknown ones in valid and test, three of them with six utterances each in test."""
    rows = {
        split: [(name.format(n=n), make_tone(hertz, [seed, n])) for n in range(count) for name, hertz in names.items()]
        for seed, (split, count, names) in enumerate(
            [
                ("train", 4, {"{n} a": 700, "{n} b": 2000}),
                ("valid", 2, {"{n} c": 700, "{n} d": 2000}),
                ("test", 6, HERTZ),
            ]
        )
    }
    return write_set(rows, "speaker")


@pytest.fixture()
def run(checkpoint, tmp_path, capsys):
    """run(folder, *arguments) -> (exit code, stdout, stderr)."""

    def call(folder, *arguments):
        paths = [str(checkpoint), "--data", str(folder), "--cache", str(tmp_path / "cache")]
        code = main(["evaluate", "probe", *paths, "--label", "speaker", *arguments])
        return (code, *capsys.readouterr())

    return call


# test's rows are low, middle, high, low, ...: a few of each kind
LISTED = [(0, 3), (3, 6), (1, 4), (4, 16), (2, 5), (17, 2), (0, 1), (1, 2), (3, 5), (4, 0), (5, 16), (6, 7), (8, 10)]


def write_trials(folder, pairs=LISTED):
    lines = [f"{int(a % 3 == b % 3)} test{a}.wav test{b}.wav\n" for a, b in pairs]
    (folder / "test.trials").write_text("".join(lines))


def test_listed_pairs_are_what_is_scored(speakers, run, checkpoint, tmp_path):
    write_trials(speakers)
    code, out, _ = run(speakers, "--trials", "test.trials", "--json")
    result = json.loads(out)
    assert code == 0 and set(result) >= OLD_KEYS
    assert (result["same_pairs"], result["different_pairs"]) == (6, 7)
    assert (result["trials"], result["trials_skipped"], result["eer_speakers"]) == ("test.trials", 0, 3)

    store = FeatureStore(checkpoint, tmp_path / "cache")
    standardise = Standardiser.fit(store.pool(speakers / "train.tsv").features)
    pooled = standardise(store.pool(speakers / "test.tsv").features)
    for layer, weights in enumerate([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3]]):
        x = np.einsum("l,nlw->nw", weights, pooled)
        scores = [x[a] @ x[b] / np.linalg.norm(x[a]) / np.linalg.norm(x[b]) for a, b in LISTED]
        expected = equal_error_rate(np.array(scores), np.array([a % 3 == b % 3 for a, b in LISTED]))
        assert (result["eer_per_layer"][layer] if layer < 3 else result["eer"]) == pytest.approx(expected)


def test_all_pairs_have_costs_and_intervals_too(speakers, run):
    code, out, _ = run(speakers, "--json")
    result = json.loads(out)
    assert code == 0 and result["trials"] is None and result["trials_skipped"] is None
    assert set(result["min_dcf"]) == {"0.01", "0.05"} and result["bootstrap"] == {"draws": 1000, "seed": 0}
    for p, cost in result["min_dcf"].items():
        low, high = result["min_dcf_interval"][p]
        assert 0 <= low <= high <= 1 and 0 <= cost <= 1
    assert 0 <= result["eer_interval"][0] <= result["eer_interval"][1] <= 1
    assert 50 < result["draws_left_out"] < 180, "a ninth of the draws of three speakers holds one alone"
    assert json.loads(run(speakers, "--json")[1])["eer_interval"] == result["eer_interval"]


def test_the_table_names_list_costs_and_speakers(speakers, run):
    write_trials(speakers)
    code, out, _ = run(speakers, "--trials", str(speakers / "test.trials"))
    assert code == 0
    assert "6 pairs of the same speaker, 7 of different ones, of " in out and "(0 skipped)" in out
    assert "over 3 speakers" in out and "minDCF 0.01" in out and "minDCF 0.05" in out


def test_known_speakers_have_macro_f1(write_set, make_tone, run):
    rows = {
        split: [(name, make_tone(hertz, [seed, n])) for n in range(4) for name, hertz in HERTZ.items()]
        for seed, split in enumerate(["train", "valid", "test"])
    }
    folder = write_set(rows, "speaker")
    result = json.loads(run(folder, "--json")[1])
    assert 0 < result["macro_f1_interval"][0] <= result["macro_f1"] <= result["macro_f1_interval"][1] <= 1
    low, high = result["accuracy_bootstrap"]
    assert low <= result["accuracy"] <= high
    assert "macro F1    " in run(folder)[1]


def test_trials_of_utterances_without_label_or_audio_are_counted(speakers, run):
    write_trials(speakers)
    labels = (speakers / "test.speaker").read_text().splitlines()
    labels[17] = ""
    (speakers / "test.speaker").write_text("\n".join(labels) + "\n")
    (speakers / "test8.wav").write_bytes(b"RIFF")
    result = json.loads(run(speakers, "--trials", "test.trials", "--json")[1])
    assert result["trials_skipped"] == 2 and (result["same_pairs"], result["different_pairs"]) == (5, 6)


@pytest.mark.parametrize(
    "pairs, arguments, message",
    [
        (LISTED, ["--label", "keyword"], "give --label speaker"),
        ([(0, 3), (0, 99)], [], "1 of its paths, in 1 of its 2 trials, are not in"),
        ([(0, 3), (3, 6)], [], "the list of trials makes 2 pairs of the same and 0 of different"),
    ],
)
def test_lists_that_cannot_be_used(speakers, run, tmp_path, pairs, arguments, message):
    write_trials(speakers, pairs)
    for split in ("train", "valid", "test"):
        (speakers / f"{split}.keyword").write_text((speakers / f"{split}.speaker").read_text())
    code, out, err = run(speakers, "--trials", "test.trials", *arguments)
    assert code == 1 and message in err and out == "" and not (tmp_path / "cache").exists()


def test_options_of_recognition_are_refused_without_ctc(speakers, run, capsys):
    for options in (["--split", "valid", "--show", "2"], ["--ctc"]):
        with pytest.raises(SystemExit) as stopped:
            run(speakers, *options)
        assert stopped.value.code == 2
        assert f"unrecognized arguments: {' '.join(options)}" in capsys.readouterr().err
