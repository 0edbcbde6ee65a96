"""The objective of both criterions against its formula in plain torch, float64, from the encoders' hidden states."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from fairseq_distill import load_encoder
from fairseq_distill.criterions.speech_distillation import SpeechDistillationCriterion
from fairseq_distill.criterions.speech_multitask import SpeechMultitaskCriterion
from fairseq_distill.distillation.distances import DISTANCES
from fairseq_distill.distillation.objective import TERMS, Objective, check_objective
from fairseq_distill.distillation.plan import PredictionPlan
from fairseq_distill.distillation.relations import needs_layers
from fairseq_distill.distillation.settings import SpeechDistillationCriterionConfig, make_weights
from fairseq_distill.distillation.states import CAPTURED, GroupStates, encode_groups
from fairseq_distill.distillation.teacher import Teacher
from fairseq_distill.distillation.terms import Term
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.errors import UserError
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig
from fairseq_distill.multitask.settings import SpeechMultitaskCriterionConfig

from ..builders import SMALL, build_multitask, make_waves, randomize, save_teacher

WEIGHTS = dict(l1=0.7, mse=1.3, cosine=0.4, log_sigmoid_cosine=2.0)


def plain_distances(prediction, target):
    """The four distances of (frames, width) in float64, summed over frames."""
    similarity = (prediction * target).sum(-1) / (prediction.norm(dim=-1) * target.norm(dim=-1))
    return {
        "l1": (prediction - target).abs().mean(-1).sum(),
        "mse": (prediction - target).pow(2).mean(-1).sum(),
        "cosine": -similarity.sum(),
        "log_sigmoid_cosine": (1 + (-similarity).exp()).log().sum(),
    }


def plain_means(output, groups):
    """Mean of each group's layers, float64."""
    of_layer = {"f": output.features, **dict(enumerate(output.hidden))}
    return [torch.stack([of_layer[layer].double() for layer in group]).mean(0) for group in groups]


def plain_upsampled(x, upsampler):
    """(batch, frames, width) to (batch, frames * factor, width) by the transposed convolution's weights, float64."""
    weight, bias = upsampler.weight.double(), upsampler.bias.double()
    return (torch.einsum("btc,cok->btko", x, weight) + bias).flatten(1, 2)


def plain_predictions(student, output, student_groups):
    """What a Linear for each group makes of the student's layers, float64."""
    head, predictions = student.prediction_head, []
    for number, hidden in enumerate(plain_means(output, student_groups)):
        if str(number) in head.upsamplers:
            hidden = plain_upsampled(hidden, head.upsamplers[str(number)])
        projection = head.projections[number]
        predictions.append(hidden @ projection.weight.double().T + projection.bias.double())
    return predictions


def find_valid(mine, its, time_reduction, frames):
    """(batch, frames) bool: the frames that are padding neither for the student nor for the teacher."""
    mine = mine.repeat_interleave(time_reduction, 1)
    return ~(mine[:, :frames] | its[:, :frames])


def check_loss(loss, log, predictions, targets, names, group_weights, valid, factor=1.0):
    """Compare a criterion's loss and what it logs with the formula."""
    frames, expected = valid.size(1), 0.0
    for prediction, target, name, group_weight in zip(predictions, targets, names, group_weights):
        sums = plain_distances(prediction[:, :frames][valid], target[:, :frames][valid])
        for distance, value in sums.items():
            assert log[f"distance/{distance}_{name}"].item() == pytest.approx(value.item(), rel=1e-4), (distance, name)
            expected += group_weight * WEIGHTS[distance] * value.item()
    assert loss.item() == pytest.approx(factor * expected, rel=1e-4)
    assert sum(key.startswith("distance/") for key in log) == len(WEIGHTS) * len(names)


@pytest.mark.parametrize(
    "groups, student_groups, settings, hint, reduce_groups, teachers",
    [
        ([["f"], [1, 3], [2]], [["f"], [1, 3], [2]], {}, 1.0, "mean", 1),
        ([["f"], [1, 3], [2]], [["f"], [1, 2], [3]], {"time_reduction": 2}, 0.1, "sum", 1),
        ([[1], [2, 3]], [[1], [3]], {"encoder_embed_dim": 32}, 0.1, "mean", 2),
    ],
    ids=["padding", "time reduction", "two teachers with heads"],
)
def test_speech_distillation_is_its_formula(tmp_path, groups, student_groups, settings, hint, reduce_groups, teachers):
    paths = [save_teacher(tmp_path / f"{seed}.pt", seed) for seed in range(teachers)]
    plan = PredictionPlan.for_teachers(groups, student_groups, 48, teachers)
    torch.manual_seed(3)
    student = randomize(SpeechStudent(SpeechStudentConfig(**{**SMALL, **settings, **plan.to_settings()})), seed=3)
    teacher = Teacher(paths, plan.teacher_groups, separate=teachers > 1)
    task = SimpleNamespace(plan=plan, target_dictionary=None, compute_targets=teacher.compute_targets)
    waves, mask = make_waves(padded=True)
    criterion = SpeechDistillationCriterion(
        SpeechDistillationCriterionConfig(hint=hint, reduce_groups=reduce_groups, **WEIGHTS), task
    )
    with torch.no_grad():
        loss, count, log = criterion(student, {"net_input": {"source": waves, "padding_mask": mask}})
        output = student.encode(waves, mask)
        others = [load_encoder(path)(waves, padding_mask=mask) for path in paths]
        predictions = plain_predictions(student, output, plan.student_groups)
    frames = min(prediction.size(1) for prediction in predictions)
    valid = find_valid(output.padding_mask, others[0].padding_mask, settings.get("time_reduction", 1), frames)
    assert int(count) == int(valid.sum()) < valid.numel()
    targets = [mean for other in others for mean in plain_means(other, groups)]
    names = [f"{'-'.join(map(str, group))}" for group in groups]
    if teachers > 1:
        names = [f"{name}_teacher{number + 1}" for number in range(teachers) for name in names]
    weights = ([hint] * (len(groups) - 1) + [1.0]) * teachers
    if reduce_groups == "mean":
        weights = [weight / len(weights) for weight in weights]
    check_loss(loss, log, predictions, targets, names, weights, valid)


@pytest.mark.parametrize("time_reduction", [1, 2])
def test_speech_multitask_is_its_formula(tmp_path, time_reduction):
    groups = [[1], [2, 3]]
    model = build_multitask(
        time_reduction=time_reduction, exact_padding=False, **PredictionPlan(groups, width=48).to_settings()
    )
    path = save_teacher(tmp_path / "teacher.pt", seed=9)
    task = SimpleNamespace(tasks=model.tasks, compute_targets=Teacher([path], groups).compute_targets)
    waves, mask = make_waves(padded=True)
    batch = {"net_input": {"source": waves, "padding_mask": mask}, "targets": torch.full((3, 2), -1)}
    criterion = SpeechMultitaskCriterion(SpeechMultitaskCriterionConfig(distillation=0.5, **WEIGHTS), task)
    with torch.no_grad():
        loss, utterances, log = criterion(model, batch)
        output, other = model.encoder(waves, mask), load_encoder(path)(waves, padding_mask=mask)
        head, x = model.prediction_head.heads, output.x.double()
        if time_reduction > 1:
            x = plain_upsampled(x, head.upsampler)
        inner = F.gelu(x @ head.shared.weight.double().T + head.shared.bias.double()).chunk(2, -1)
        predictions = [part @ to.weight.double().T + to.bias.double() for part, to in zip(inner, head.outputs)]
    valid = find_valid(output.padding_mask, other.padding_mask, time_reduction, x.size(1))
    assert int(log["frames"]) == int(valid.sum()) < valid.numel()
    factor = 0.5 * utterances / int(valid.sum())
    check_loss(loss, log, predictions, plain_means(other, groups), ["1", "2-3"], [0.5, 0.5], valid, factor)


def test_settings_of_both_criterions_have_the_tables_weights():
    distil, multitask = SpeechDistillationCriterionConfig(), SpeechMultitaskCriterionConfig()
    assert {name: getattr(distil, name) for name in TERMS if getattr(distil, name)} == {"l1": 1.0, "cosine": 1.0}
    own = {field.name: field for field in dataclasses.fields(multitask)}
    assert {name for name in TERMS if name in own} == set(DISTANCES)
    assert {name: getattr(multitask, name) for name in DISTANCES if getattr(multitask, name)} == {
        "l1": 1.0,
        "log_sigmoid_cosine": 1.0,
    }
    for field in dataclasses.fields(distil):
        if field.name in DISTANCES:
            assert field.metadata["help"] == own[field.name].metadata["help"] == f"weight of {TERMS[field.name].help}"


def test_what_terms_ask_for_can_be_captured_and_is():
    assert {name for term in TERMS.values() for name in term.captures} <= set(CAPTURED)
    encoder = randomize(SpeechEncoder(EncoderConfig.from_settings(SMALL)))
    waves, mask = make_waves(padded=True)
    output = encoder.encode(waves, mask, maps=[1, 3])
    groups = [[1], ["f", 3, 2]]
    states = encode_groups(encoder, encoder.compute_features(waves, mask), groups, CAPTURED)
    for index, deepest in enumerate((1, 3)):
        assert torch.equal(states.inputs[index], output.hidden[deepest - 1])
        assert torch.equal(states.outputs[index], output.hidden[deepest])
        assert torch.equal(states.maps[index], output.maps[deepest])
    plain = encode_groups(encoder, encoder.compute_features(waves, mask), groups)
    assert not any(getattr(plain, name) for name in CAPTURED) and len(plain.hidden) == 2


def draw_states(seed, frames=5):
    """Random states of two groups in every field; one frame of padding."""
    generator = torch.Generator().manual_seed(seed)
    fields = {}
    for field in dataclasses.fields(GroupStates):
        if field.name != "padding_mask":
            shape = (2, frames, frames) if field.metadata["frame_dims"] == 2 else (2, frames, 3)
            fields[field.name] = [torch.randn(shape, generator=generator) for _ in range(2)]
    mask = torch.zeros(2, frames, dtype=torch.bool)
    mask[seed % 2, -1] = True
    return GroupStates(**fields, padding_mask=mask)


def test_states_of_two_teachers_are_added_divided_appended_and_cut_in_every_field():
    one, other = draw_states(0), draw_states(1)
    mean, both, cut = one.add(other).divide(2), one.append(other), one.cut(3)
    for field in dataclasses.fields(GroupStates):
        if field.name == "padding_mask":
            continue
        mine, its = getattr(one, field.name), getattr(other, field.name)
        for a, b, found in zip(mine, its, getattr(mean, field.name)):
            assert torch.equal(found, (a + b) / 2)
        assert all(a is b for a, b in zip(getattr(both, field.name), [*mine, *its])) and len(mine) == 2
        for whole, found in zip(mine, getattr(cut, field.name)):
            assert torch.equal(found, whole[:, :3, :3] if field.name == "maps" else whole[:, :3])
    for merged in (mean, both):
        assert torch.equal(merged.padding_mask, one.padding_mask | other.padding_mask)
    assert torch.equal(cut.padding_mask, one.padding_mask[:, :3])
    assert not torch.equal(one.padding_mask, other.padding_mask)


def test_an_objective_leaves_out_what_has_no_weight():
    assert Objective({"l1": 1.0, "mse": 0.0, "attention_maps": 0.0}).weights == {"l1": 1.0}


def test_a_new_term_is_one_entry_of_the_table(monkeypatch):
    def gap(student, teacher, index, padding_mask):
        return (student.outputs[index] - teacher.inputs[index]).abs().amax(-1)

    monkeypatch.setitem(TERMS, "gap", Term(gap, "the largest gap", needs_layers, captures=("inputs", "outputs")))
    settings = make_weights("WithGap", TERMS, __name__)(gap=2.0)
    assert settings.__dataclass_fields__["gap"].metadata["help"] == "weight of the largest gap"
    objective = Objective({name: getattr(settings, name) for name in ("gap", "mse")})
    assert objective.captures == {"inputs", "outputs"}
    student, teacher = draw_states(0), draw_states(1)
    found = objective.measure(student, teacher, PredictionPlan([[1], [2]]))
    valid = ~(student.padding_mask | teacher.padding_mask)
    expected = sum((a - b).abs().amax(-1)[valid].double().sum().item() for a, b in zip(student.outputs, teacher.inputs))
    assert set(found.parts) == {"gap_1", "gap_2"} and int(found.frames) == 8
    assert found.total.item() == pytest.approx(2.0 * expected / 2, rel=1e-5)
    with pytest.raises(UserError, match="criterion.gap compares layer to layer"):
        criterion = {"gap": 1.0, "l1": 1.0, "predict_from": "last"}
        check_objective(OmegaConf.create({**dict.fromkeys(TERMS, 0.0), **criterion}), [[1]], {})
