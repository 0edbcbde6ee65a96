"""The criterion: weighted means over labelled utterances, and metrics that do not depend on batches."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics

from fairseq_distill.criterions.speech_multitask import SpeechMultitaskCriterion, SpeechMultitaskCriterionConfig

from ..builders import TASKS, build_multitask, make_waves

TARGETS = torch.tensor([[0, -1], [-1, 3], [2, 1], [-1, -1]])


def build(weighting="fixed", weights=(2.0, 0.5), **settings):
    """(criterion, model, batch)."""
    model = build_multitask([{**task, "weight": w} for task, w in zip(TASKS, weights)], **settings)
    criterion = SpeechMultitaskCriterion(
        SpeechMultitaskCriterionConfig(weighting=weighting), SimpleNamespace(tasks=model.tasks)
    )
    source, mask = make_waves(batch=4, padded=True)
    return criterion, model, {"net_input": {"source": source, "padding_mask": mask}, "targets": TARGETS}


def mean_losses(model, batch):
    """Keyword and speaker loss by loops over the rows that have the label."""
    out = model(**batch["net_input"])
    keyword, speaker = [], []
    for row, (word, person) in enumerate(batch["targets"].tolist()):
        if word >= 0:
            keyword.append(F.cross_entropy(out.scores["keyword"][row], torch.tensor(word)))
        if person >= 0:
            scores = out.scores["speaker"][row].clone()
            scores[person] -= 30 * 0.2
            speaker.append(F.cross_entropy(scores, torch.tensor(person)))
    return torch.stack(keyword).mean(), torch.stack(speaker).mean()


def test_loss_is_the_weighted_sum_of_means_over_labelled_utterances():
    criterion, model, batch = build()
    loss, sample_size, log = criterion(model, batch)
    keyword, speaker = mean_losses(model, batch)
    torch.testing.assert_close(loss / sample_size, 2 * keyword + 0.5 * speaker)
    assert sample_size == 4 and int(log["keyword/count"]) == 2 and int(log["speaker/count"]) == 2


def test_uncertainty_weighs_by_learned_variances_without_touching_tasks_that_are_absent():
    criterion, model, batch = build("uncertainty", learn_task_weights=True)
    with torch.no_grad():
        model.uncertainty.log_variance.copy_(torch.tensor([0.3, -1.2]))
    loss, sample_size, log = criterion(model, batch)
    keyword, speaker = mean_losses(model, batch)
    s = model.uncertainty.log_variance.detach()
    expected = 2 * ((-s[0]).exp() * keyword + s[0] / 2) + 0.5 * ((-s[1]).exp() * speaker + s[1] / 2)
    torch.testing.assert_close(loss / sample_size, expected)
    loss.backward()
    gradient = model.uncertainty.log_variance.grad / 4
    torch.testing.assert_close(gradient[0], 2 * (0.5 - (-s[0]).exp() * keyword.detach()))
    assert float(log["keyword/factor"]) / 4 == pytest.approx(float((-s[0]).exp()))
    batch["targets"] = TARGETS[:, :].clone()
    batch["targets"][:, 1] = -1
    model.zero_grad()
    criterion(model, batch)[0].backward()
    assert model.uncertainty.log_variance.grad[1] == 0


def test_utterances_without_a_label_train_nothing_of_that_task():
    criterion, model, batch = build(weights=(1.0, 1.0))
    batch["targets"] = torch.tensor([[0, -1], [1, -1], [-1, -1], [2, -1]])
    criterion(model, batch)[0].backward()
    speaker = list(model.heads["speaker"].parameters())
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in speaker), (
        "every parameter has a gradient, of zero"
    )
    assert all(p.grad.abs().max() > 0 for p in model.heads["keyword"].parameters())

    model.zero_grad()
    with_silent_row = criterion(model, batch)[0] / 4
    kept = [0, 1, 3]
    net_input = {key: value[kept] for key, value in batch["net_input"].items()}
    without = criterion(model, {"net_input": net_input, "targets": batch["targets"][kept]})[0] / 3
    torch.testing.assert_close(with_silent_row, without, atol=1e-4, rtol=1e-4)


def reduce(logs):
    """What fairseq would print of these logging outputs."""
    with metrics.aggregate(new_root=True) as found:
        SpeechMultitaskCriterion.reduce_metrics(logs)
    return found.get_smoothed_values()


def test_metrics_are_exact_however_the_data_was_cut():
    criterion, model, batch = build()
    logs = []
    for rows in ([0], [1, 2], [3]):
        net_input = {key: value[rows] for key, value in batch["net_input"].items()}
        logs.append(criterion(model, {"net_input": net_input, "targets": TARGETS[rows]})[2])
    keyword, speaker = mean_losses(model, batch)
    found = reduce(logs)
    summed = reduce([{key: sum(log[key] for log in logs) for key in logs[0]}])  # as several GPUs do
    assert found == summed
    assert found["keyword_loss"] == pytest.approx(float(keyword), abs=1e-3)
    assert found["speaker_loss"] == pytest.approx(float(speaker), abs=1e-3)
    out = model(**batch["net_input"])
    right = sum(int(out.scores["speaker"][row].argmax() == TARGETS[row, 1]) for row in (1, 2))
    assert found["speaker_accuracy"] == pytest.approx(right / 2)


def test_a_task_without_labels_is_not_logged():
    criterion, model, batch = build()
    batch["targets"] = torch.tensor([[0, -1]] * 4)
    found = reduce([criterion(model, batch)[2]])
    assert "keyword_accuracy" in found and "speaker_accuracy" not in found and "speaker_loss" not in found
