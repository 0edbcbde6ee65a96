"""Distances against their formulas in plain torch, float64, with padding."""

import math

import pytest
import torch
from fairseq import metrics

from fairseq_distill.criterions.speech_distillation import (
    SpeechDistillationCriterion,
    SpeechDistillationCriterionConfig,
)
from fairseq_distill.distillation.objective import Objective
from fairseq_distill.distillation.plan import PredictionPlan
from fairseq_distill.distillation.prediction import StudentOutput
from fairseq_distill.distillation.states import GroupStates

WEIGHTS = dict(l1=0.7, mse=1.3, cosine=0.4, log_sigmoid_cosine=2.0)


def plain_distances(prediction, target, lengths):
    """Sums over frames, written out frame by frame in float64."""
    sums = dict.fromkeys(WEIGHTS, 0.0)
    for b, length in enumerate(lengths):
        for t in range(length):
            p, y = prediction[b, t].double(), target[b, t].double()
            similarity = float(p @ y / (p.norm() * y.norm()))
            sums["l1"] += float((p - y).abs().sum() / len(p))
            sums["mse"] += float(((p - y) ** 2).sum() / len(p))
            sums["cosine"] += -similarity
            sums["log_sigmoid_cosine"] += -math.log(1 / (1 + math.exp(-similarity)))
    return sums


def make_batch(lengths=(7, 4, 1), width=6, groups=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths), width)
    tensors = [torch.randn(shape, generator=generator) for _ in range(2 * groups)]
    mask = torch.arange(max(lengths))[None, :] >= torch.tensor(lengths)[:, None]
    return tensors[:groups], tensors[groups:], mask


def sum_distances(prediction, target, mask, weights):
    """What the objective says of one group, without weights."""
    student = GroupStates([], [prediction], padding_mask=mask)
    measured = Objective(weights).measure(student, GroupStates([target], padding_mask=mask), PredictionPlan([[4]]))
    return {name[: -len("_4")]: value for name, value in measured.parts.items()}


def test_distances_equal_their_formulas():
    (prediction, _), (target, _), mask = make_batch()
    sums = sum_distances(prediction, target, mask, WEIGHTS)
    expected = plain_distances(prediction, target, (7, 4, 1))
    assert set(sums) == set(WEIGHTS)
    for name, value in expected.items():
        assert sums[name].item() == pytest.approx(value, rel=1e-5), name


def test_distances_of_weight_zero_are_left_out():
    (prediction, _), (target, _), _ = make_batch()
    assert set(sum_distances(prediction, target, None, dict(l1=1.0, mse=0.0))) == {"l1"}


def test_distances_are_float32_for_half_precision_input():
    (prediction, _), (target, _), _ = make_batch()
    assert sum_distances(prediction.half(), target, None, WEIGHTS)["cosine"].dtype == torch.float32


class FakeTask:
    """Hands out fixed targets in the place of a teacher."""

    target_dictionary = None

    def __init__(self, targets, mask):
        self.plan = PredictionPlan([[4], [8, 12]])
        self.targets = GroupStates(targets, padding_mask=mask)

    def compute_targets(self, source, padding_mask, mask_indices):
        return self.targets


class FakeStudent:
    """Predicts what it was given; has one extra loss, as gates add it."""

    def __init__(self, predictions):
        self.predictions = predictions

    def __call__(self, *args, **kwargs):
        return self.predictions

    def get_extra_losses(self, predictions):
        assert predictions is self.predictions
        return [torch.tensor(0.25)], ["size"]

    def describe_gates(self):
        return {"sparsity": torch.tensor(0.5)}


def run_criterion(lengths, **weights):
    predictions, targets, mask = make_batch(lengths)
    criterion = SpeechDistillationCriterion(SpeechDistillationCriterionConfig(**weights), FakeTask(targets, mask))
    leaves = [p.requires_grad_() for p in predictions]
    sample = {
        "net_input": {"source": torch.zeros(len(lengths), 10), "padding_mask": torch.zeros(len(lengths), 10).bool()}
    }
    loss, size, log = criterion(FakeStudent(StudentOutput(GroupStates([], leaves, padding_mask=mask))), sample)
    return loss, size, log, leaves, targets, mask


def test_criterion_is_the_weighted_mean_over_groups_summed_over_frames():
    lengths = (7, 4, 1)
    loss, size, log, predictions, targets, mask = run_criterion(lengths, **WEIGHTS)
    expected = 0.25 * sum(lengths)  # the extra loss counts once in the mean over frames
    for name, prediction, target in zip(("4", "8-12"), predictions, targets):
        sums = plain_distances(prediction.detach(), target, lengths)
        for distance, weight in WEIGHTS.items():
            assert log[f"distance/{distance}_{name}"].item() == pytest.approx(sums[distance], rel=1e-5)
            expected += weight * sums[distance] / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert int(size) == sum(lengths)
    loss.backward()
    for prediction in predictions:
        assert not prediction.grad[mask].any(), "a padded frame reached the gradient"
        assert (prediction.grad[~mask] != 0).any(-1).all()


def test_metrics_average_over_frames_not_over_batches():
    logs = [run_criterion(lengths, l1=1.0, cosine=1.0)[2] for lengths in ((7, 4, 1), (2, 2))]
    with metrics.aggregate() as aggregated:
        SpeechDistillationCriterion.reduce_metrics(logs)
    values = aggregated.get_smoothed_values()
    frames = sum(int(log["sample_size"]) for log in logs)
    assert frames == 16
    assert values["loss"] == pytest.approx(sum(float(log["loss"]) for log in logs) / frames, abs=1e-4)
    assert values["size_loss"] == 0.25 and values["sparsity"] == 0.5
    assert values["l1_8-12"] == pytest.approx(sum(float(log["distance/l1_8-12"]) for log in logs) / frames, abs=1e-4)


def test_all_weights_zero_is_an_error():
    with pytest.raises(ValueError, match="every weight"):
        SpeechDistillationCriterion(SpeechDistillationCriterionConfig(l1=0.0, cosine=0.0), FakeTask([], None))
