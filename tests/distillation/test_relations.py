"""Relations between frames against their formulas, written out frame by frame in float64."""

import math
from types import SimpleNamespace

import pytest
import torch

from fairseq_distill.criterions.speech_distillation import (
    SpeechDistillationCriterion,
    SpeechDistillationCriterionConfig,
)
from fairseq_distill.distillation.relations import RELATIONS, needed_for, sum_relations
from fairseq_distill.distillation.states import check_captured
from fairseq_distill.distillation.teacher import Targets
from fairseq_distill.errors import UserError
from fairseq_distill.models.speech_student import StudentPredictions

LENGTHS = (6, 4)
FRAMES = max(LENGTHS)
MASK = torch.arange(FRAMES)[None, :] >= torch.tensor(LENGTHS)[:, None]


def draw(width, seed):
    """(hidden, (input, output), map) of a layer: (2, 6, width), and (2, 6, 6) that pays no attention to padding."""
    generator = torch.Generator().manual_seed(seed)
    hidden, start, end = (torch.randn(2, FRAMES, width, generator=generator) for _ in range(3))
    scores = torch.randn(2, FRAMES, FRAMES, generator=generator).masked_fill(MASK[:, None, :], -math.inf)
    return hidden, (start, end), scores.softmax(-1)


def make_sides():
    """Predictions of a student of width 5, and targets of a teacher of width 7, of one group."""
    hidden, pair, attention = draw(5, 1)
    student = StudentPredictions([hidden @ torch.ones(5, 7)], MASK, [hidden], [pair], [attention])
    hidden, pair, attention = draw(7, 2)
    return student, Targets([hidden], MASK, [pair], [attention])


def plain_gram_distance(mine, its, lengths):
    """Sum over queries of the mean over keys of the squared difference of inner products over the width."""
    total = 0.0
    for b, length in enumerate(lengths):
        for i in range(length):
            for j in range(length):
                inner = [float(one[b, i].double() @ other[b, j].double()) / one.size(-1) for one, other in (mine, its)]
                total += (inner[0] - inner[1]) ** 2 / length
    return total


def plain_divergence(mine, its, lengths):
    """Sum over queries of the teacher's attention times the logarithm of the ratio."""
    total = 0.0
    for b, length in enumerate(lengths):
        for i in range(length):
            for j in range(length):
                p, q = float(its[b, i, j]), float(mine[b, i, j])
                total += p * (math.log(p) - math.log(q))
    return total


def test_relations_equal_their_formulas():
    student, teacher = make_sides()
    sums = sum_relations(student, teacher, 0, MASK, RELATIONS)
    mine, its = student.hidden[0], teacher.values[0]
    expected = {
        "temporal_relations": plain_gram_distance((mine, mine), (its, its), LENGTHS),
        "layer_relations": plain_gram_distance(student.pairs[0], teacher.pairs[0], LENGTHS),
        "attention_maps": plain_divergence(student.maps[0], teacher.maps[0], LENGTHS),
    }
    assert set(sums) == set(expected) == set(RELATIONS)
    for name, value in expected.items():
        assert value > 1 and sums[name].item() == pytest.approx(value, rel=1e-5), name


def test_without_padding_all_frames_count():
    student, teacher = make_sides()
    sums = sum_relations(student, teacher, 0, None, ["temporal_relations", "layer_relations"])
    mine, its = student.hidden[0], teacher.values[0]
    whole = (FRAMES, FRAMES)
    assert sums["temporal_relations"].item() == pytest.approx(
        plain_gram_distance((mine, mine), (its, its), whole), rel=1e-5
    )
    assert sums["layer_relations"].item() == pytest.approx(
        plain_gram_distance(student.pairs[0], teacher.pairs[0], whole), rel=1e-5
    )


def test_relations_of_a_rotated_teacher_are_its_own():
    _, teacher = make_sides()
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(3)))[0]
    turned = StudentPredictions(
        [], MASK, [teacher.values[0] @ turn], [tuple(x @ turn for x in teacher.pairs[0])], teacher.maps
    )
    for name, value in sum_relations(turned, teacher, 0, MASK, RELATIONS).items():
        assert abs(value.item()) < 1e-6, name


def test_only_what_is_asked_for_is_captured():
    assert needed_for([]) == (False, False) == needed_for(["temporal_relations"])
    assert needed_for(["layer_relations"]) == (True, False) and needed_for(["attention_maps"]) == (False, True)


def test_groups_without_a_transformer_layer_are_refused():
    check_captured([[1], ["f", 2]], ["layer_relations"])
    for group in ([0], ["f"]):
        with pytest.raises(UserError, match="leave it out of criterion.groups"):
            check_captured([[1], group], ["layer_relations"])


@pytest.mark.parametrize("reduce_groups, weights", [("mean", (0.05, 0.5)), ("sum", (0.1, 1.0))])
def test_hint_weighs_every_group_but_the_last(reduce_groups, weights):
    student, teacher = make_sides()
    student = student._replace(
        values=student.values * 2, hidden=list(student.hidden) * 2, pairs=list(student.pairs) * 2
    )
    student = student._replace(values=[student.values[0], 3 * student.values[0]])
    teacher = teacher._replace(values=teacher.values * 2, pairs=list(teacher.pairs) * 2)
    names = dict(groups=[[1], [2]], group_names=["1", "2"], num_heads=1)
    task = SimpleNamespace(**names, target_dictionary=None, compute_targets=lambda *_: teacher)
    cfg = SpeechDistillationCriterionConfig(
        l1=0.0, cosine=0.0, mse=1.0, layer_relations=2.0, hint=0.1, reduce_groups=reduce_groups
    )

    class Student:
        training = False

        def __call__(self, *args, **kwargs):
            assert kwargs["capture"] == (True, False)
            return student

        get_extra_losses = staticmethod(lambda _: ([], []))
        describe_gates = staticmethod(dict)

    source = torch.zeros(2, 10)
    loss, _, log = SpeechDistillationCriterion(cfg, task)(Student(), {"net_input": {"source": source}})
    expected = 0.0
    for index, weight in enumerate(weights):
        error = (student.values[index] - teacher.values[index]).double().pow(2).mean(-1)[~MASK].sum().item()
        relation = plain_gram_distance(student.pairs[0], teacher.pairs[0], LENGTHS)
        assert log[f"distance/layer_relations_{index + 1}"].item() == pytest.approx(relation, rel=1e-5)
        expected += weight * (error + 2.0 * relation)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
