"""Relations between frames against their formulas, written out frame by frame in float64."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fairseq_distill.criterions.speech_distillation import (
    SpeechDistillationCriterion,
    SpeechDistillationCriterionConfig,
)
from fairseq_distill.distillation.objective import Objective
from fairseq_distill.distillation.plan import PredictionPlan
from fairseq_distill.distillation.prediction import StudentOutput
from fairseq_distill.distillation.relations import RELATIONS
from fairseq_distill.distillation.states import GroupStates, check_captured
from fairseq_distill.errors import UserError

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
    student = GroupStates([hidden], [hidden @ torch.ones(5, 7)], [pair[0]], [pair[1]], [attention], MASK)
    hidden, pair, attention = draw(7, 2)
    return student, GroupStates([hidden], [], [pair[0]], [pair[1]], [attention], MASK)


def get_pair(states):
    """(input, output) of the first group's deepest layer."""
    return states.inputs[0], states.outputs[0]


def sum_relations(student, teacher, mask, names):
    """What the objective says of the first group, without weights."""
    student, teacher = replace(student, padding_mask=mask), replace(teacher, padding_mask=mask)
    measured = Objective(dict.fromkeys(names, 1.0)).measure(student, teacher, PredictionPlan([[1]]))
    return {name[: -len("_1")]: value for name, value in measured.parts.items()}


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
    sums = sum_relations(student, teacher, MASK, RELATIONS)
    mine, its = student.hidden[0], teacher.hidden[0]
    expected = {
        "temporal_relations": plain_gram_distance((mine, mine), (its, its), LENGTHS),
        "layer_relations": plain_gram_distance(get_pair(student), get_pair(teacher), LENGTHS),
        "attention_maps": plain_divergence(student.maps[0], teacher.maps[0], LENGTHS),
    }
    assert set(sums) == set(expected) == set(RELATIONS)
    for name, value in expected.items():
        assert value > 1 and sums[name].item() == pytest.approx(value, rel=1e-5), name


def test_without_padding_all_frames_count():
    student, teacher = make_sides()
    sums = sum_relations(student, teacher, None, ["temporal_relations", "layer_relations"])
    mine, its = student.hidden[0], teacher.hidden[0]
    whole = (FRAMES, FRAMES)
    assert sums["temporal_relations"].item() == pytest.approx(
        plain_gram_distance((mine, mine), (its, its), whole), rel=1e-5
    )
    assert sums["layer_relations"].item() == pytest.approx(
        plain_gram_distance(get_pair(student), get_pair(teacher), whole), rel=1e-5
    )


def test_relations_of_a_rotated_teacher_are_its_own():
    _, teacher = make_sides()
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(3)))[0]
    hidden, start, end = (x @ turn for x in (teacher.hidden[0], *get_pair(teacher)))
    turned = GroupStates([hidden], [hidden], [start], [end], teacher.maps, MASK)
    for name, value in sum_relations(turned, teacher, MASK, RELATIONS).items():
        assert abs(value.item()) < 1e-6, name


def test_only_what_is_asked_for_is_captured():
    captures = {name: Objective({name: 1.0}).captures for name in RELATIONS}
    assert Objective({}).captures == frozenset() == captures["temporal_relations"]
    assert captures["layer_relations"] == {"inputs", "outputs"} and captures["attention_maps"] == {"maps"}


def test_groups_without_a_transformer_layer_are_refused():
    check_captured([[1], ["f", 2]], ["layer_relations"])
    for group in ([0], ["f"]):
        with pytest.raises(UserError, match="leave it out of criterion.groups"):
            check_captured([[1], group], ["layer_relations"])


@pytest.mark.parametrize("reduce_groups, weights", [("mean", (0.05, 0.5)), ("sum", (0.1, 1.0))])
def test_hint_weighs_every_group_but_the_last(reduce_groups, weights):
    student, teacher = make_sides()
    student, teacher = student.append(student), teacher.append(teacher)
    student = replace(student, predictions=[student.predictions[0], 3 * student.predictions[0]])
    plan = PredictionPlan([[1], [2]])
    task = SimpleNamespace(plan=plan, target_dictionary=None, compute_targets=lambda *_: teacher)
    cfg = SpeechDistillationCriterionConfig(
        l1=0.0, cosine=0.0, mse=1.0, layer_relations=2.0, hint=0.1, reduce_groups=reduce_groups
    )

    class Student:
        training = False

        def __call__(self, *args, **kwargs):
            assert kwargs["predict"]
            return StudentOutput(student)

        get_extra_losses = staticmethod(lambda _: ([], []))
        describe_gates = staticmethod(dict)

    source = torch.zeros(2, 10)
    criterion = SpeechDistillationCriterion(cfg, task)
    assert criterion.objective.captures == {"inputs", "outputs"}
    loss, _, log = criterion(Student(), {"net_input": {"source": source}})
    expected = 0.0
    for index, weight in enumerate(weights):
        error = (student.predictions[index] - teacher.hidden[index]).double().pow(2).mean(-1)[~MASK].sum().item()
        relation = plain_gram_distance(get_pair(student), get_pair(teacher), LENGTHS)
        assert log[f"distance/layer_relations_{index + 1}"].item() == pytest.approx(relation, rel=1e-5)
        expected += weight * (error + 2.0 * relation)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
