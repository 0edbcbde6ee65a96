"""`fairseq-distill evaluate heads`: figures of a fine-tuned model's own heads, computed once more by hand."""

import json

import numpy as np
import pytest
import soundfile
import torch

from fairseq_distill.cli.main import main
from fairseq_distill.evaluation.verification import equal_error_rate
from fairseq_distill.multitask.model import load_multitask

from ..builders import write_teacher
from ..runs import KEYWORDS, SPEAKERS, fine_tune, write_labelled, write_labels

TEST_SPEAKERS = ["eve", "fay", "eve", "fay", "", "eve", "fay", "gus"]  # none of them in training


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(checkpoint, data, its audio files)"""
    folder = tmp_path_factory.mktemp("heads")
    data = write_labelled(folder / "data")
    fine_tune(folder / "run", data, write_teacher(folder, normalize=True), optimization__max_update=2)
    (data / "test.tsv").write_text((data / "valid.tsv").read_text())
    write_labels(data, "test", keyword=KEYWORDS, speaker=TEST_SPEAKERS)
    files = [data / "audio" / f"valid{number}.flac" for number in range(8)]
    return folder / "run" / "checkpoints" / "checkpoint_last.pt", data, files


@pytest.fixture(scope="module")
def outputs(tuned):
    """The model's output for each file alone."""
    checkpoint, _, files = tuned
    model = load_multitask(checkpoint)
    with torch.no_grad():
        return [model(torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None]) for file in files]


def evaluate(capsys, tuned, *words):
    code = main(["evaluate", "heads", str(tuned[0]), "--data", str(tuned[1]), *map(str, words)])
    return code, capsys.readouterr()


def test_figures_are_those_of_the_models_outputs(tuned, outputs, capsys):
    code, printed = evaluate(capsys, tuned, "--json")
    assert code == 0
    found = json.loads(printed.out)["tasks"]
    decisions = [["no", "yes"][int(output.scores["keyword"].argmax())] for output in outputs]
    right = [said == label for said, label in zip(decisions, KEYWORDS) if label]
    assert found["keyword"]["utterances"] == len(right) == 6
    assert found["keyword"]["accuracy"] == pytest.approx(np.mean(right))

    rows = [row for row, name in enumerate(TEST_SPEAKERS) if name]
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    cosine = [
        torch.cosine_similarity(outputs[a].embeddings["speaker"], outputs[b].embeddings["speaker"]).item()
        for a, b in pairs
    ]
    same = np.array([TEST_SPEAKERS[a] == TEST_SPEAKERS[b] for a, b in pairs])
    assert (
        (found["speaker"]["same_pairs"], found["speaker"]["different_pairs"]) == (same.sum(), (~same).sum()) == (6, 15)
    )
    assert found["speaker"]["eer"] == pytest.approx(equal_error_rate(np.array(cosine), same), abs=1e-6)
    assert found["speaker"]["eer_speakers"] == 3


def test_a_list_of_trials_takes_the_place_of_all_pairs(tuned, outputs, capsys):
    trials = [(1, 0, 2), (0, 0, 1), (1, 1, 3), (0, 2, 3), (0, 5, 7), (1, 4, 0)]  # the last one has no speaker
    lines = [f"{same} valid{a}.flac valid{b}.flac" for same, a, b in trials]
    (tuned[1] / "test.trials").write_text("\n".join(lines) + "\n")
    code, printed = evaluate(capsys, tuned, "--trials", "test.trials", "--json")
    assert code == 0
    found = json.loads(printed.out)["tasks"]["speaker"]
    kept = trials[:5]
    cosine = [
        torch.cosine_similarity(outputs[a].embeddings["speaker"], outputs[b].embeddings["speaker"]).item()
        for _, a, b in kept
    ]
    assert found["eer"] == pytest.approx(
        equal_error_rate(np.array(cosine), np.array([t[0] == 1 for t in kept])), abs=1e-6
    )
    assert (found["same_pairs"], found["different_pairs"], found["trials_skipped"]) == (2, 3, 1)
    (tuned[1] / "wrong.trials").write_text(lines[0].replace("1 ", "0 ", 1))
    code, printed = evaluate(capsys, tuned, "--trials", "wrong.trials")
    assert code == 1 and "wrong.trials and the speaker labels contradict in 1 of 1 trials" in printed.err
    assert "heads on" not in printed.err, "it is found before the work"


def test_the_table_and_what_is_not_there(tuned, capsys, caplog):
    code, printed = evaluate(capsys, tuned)
    assert code == 0
    assert "keyword (classification, 6 utterances)" in printed.out and "6 pairs of the same speaker" in printed.out
    (tuned[1] / "other.tsv").write_text((tuned[1] / "valid.tsv").read_text())
    code, printed = evaluate(capsys, tuned, "--split", "other")
    assert code == 1 and "labels of other.tsv for a task of this model are needed" in printed.err
    write_labels(tuned[1], "other", speaker=SPEAKERS)
    code, printed = evaluate(capsys, tuned, "--split", "other")
    assert code == 0 and "keyword" not in printed.out
    assert "not measured, as there are no labels: keyword" in caplog.text + printed.err
    with pytest.raises(SystemExit) as stopped:
        evaluate(capsys, tuned, "--label", "keyword")
    assert stopped.value.code == 2 and "unrecognized arguments: --label keyword" in capsys.readouterr().err
