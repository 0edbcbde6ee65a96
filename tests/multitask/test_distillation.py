"""Distillation beside the tasks: what adapters are seen by, distances by a loop, and a run with both."""

import os
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.criterions.speech_multitask import SpeechMultitaskCriterion, SpeechMultitaskCriterionConfig
from fairseq_distill.distillation.objective import Objective
from fairseq_distill.distillation.plan import PredictionPlan
from fairseq_distill.distillation.states import GroupStates
from fairseq_distill.distillation.teacher import Teacher
from fairseq_distill.errors import UserError
from fairseq_distill.multitask.distillation import check_teacher
from fairseq_distill.multitask.model import load_multitask
from fairseq_distill.tasks.speech_multitask import SpeechMultitaskTask, SpeechMultitaskTaskConfig

from ..builders import LARGE, build_multitask, make_waves, save_teacher, write_teacher
from ..runs import fine_tune, write_labelled

DISTILLED = {"prediction_groups": "[[1],[2,3]]", "prediction_dim": 48}


def gradients(module):
    """Whether each parameter has a gradient other than zero."""
    return [p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters()]


def test_only_the_tasks_go_through_adapters():
    model = build_multitask(adapter=8, **DISTILLED)
    waves, mask = make_waves(padded=True)
    with_adapters = model(waves, mask, predict=True)
    for adapter in model.adapters:
        torch.nn.init.zeros_(adapter.up.weight)
        torch.nn.init.zeros_(adapter.up.bias)
    without = model(waves, mask, predict=True)
    for one, other in zip(with_adapters.states.predictions, without.states.predictions):
        assert torch.equal(one, other)
    assert not torch.allclose(with_adapters.scores["keyword"], without.scores["keyword"])
    plain = model.encoder(waves, mask)
    torch.testing.assert_close(without.encoder.hidden[3], plain.hidden[3])


def test_an_adapter_lies_beside_the_feed_forward_part():
    model = build_multitask(adapter=8, **DISTILLED)
    layer, adapter, seen = model.encoder.encoder.layers[0], model.adapters[0], []
    layer.fc1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    out = model(make_waves()[0])
    x = seen[0].transpose(0, 1)  # after the attention's norm, in a post-norm layer
    hidden = (x @ adapter.down.weight.T + adapter.down.bias).clamp(min=0) @ adapter.up.weight.T + adapter.up.bias
    expected = layer.final_layer_norm(x + layer.fc2(F.gelu(layer.fc1(x))) + hidden)
    torch.testing.assert_close(out.encoder.hidden[1], expected)


def test_each_loss_trains_its_own_branch():
    model = build_multitask(adapter=8, **DISTILLED).train()
    waves, mask = make_waves(padded=True)
    sum(p.sum() for p in model(waves, mask, predict=True).states.predictions).backward()
    assert not any(gradients(model.adapters)) and all(gradients(model.prediction_head))
    assert any(gradients(model.encoder))
    model.zero_grad()
    sum(s.pow(2).sum() for s in model(waves, mask, predict=True).scores.values()).backward()
    assert all(gradients(model.adapters)) and not any(gradients(model.prediction_head))


def test_final_norm_of_a_pre_norm_encoder_is_trained_by_distillation():
    assert build_multitask(**LARGE, **DISTILLED).encoder.encoder.layer_norm.weight.requires_grad


def test_distances_are_means_over_frames_that_are_not_padding():
    torch.manual_seed(0)
    values, targets = [torch.randn(2, 4, 5) for _ in range(2)], [torch.randn(2, 4, 5) for _ in range(2)]
    mask = torch.tensor([[False] * 4, [False, True, True, True]])
    weights = {"l1": 1.0, "mse": 0.0, "cosine": 0.0, "log_sigmoid_cosine": 2.0}
    student, teacher = GroupStates([], values, padding_mask=mask), GroupStates(targets, padding_mask=mask)
    found = Objective(weights).measure(student, teacher, PredictionPlan([[4], [8, 12]]))
    total, l1_last = 0.0, 0.0
    for group in range(2):
        for row, frame in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]:
            p, t = values[group][row, frame], targets[group][row, frame]
            l1 = float((p - t).abs().mean())
            total += (l1 - 2 * float(F.logsigmoid(F.cosine_similarity(p, t, dim=0)))) / 2
            l1_last += l1 * (group == 1)
    assert float(found.total) == pytest.approx(total, rel=1e-5) and int(found.frames) == 5
    assert set(found.parts) == {"l1_4", "log_sigmoid_cosine_4", "l1_8-12", "log_sigmoid_cosine_8-12"}
    assert float(found.parts["l1_8-12"]) == pytest.approx(l1_last, rel=1e-5)


def test_loss_is_that_of_the_tasks_plus_the_weighted_distance(tmp_path):
    model = build_multitask(**DISTILLED)
    teacher = Teacher([save_teacher(tmp_path / "teacher.pt", seed=9)], model.plan.groups)
    task = SimpleNamespace(tasks=model.tasks, compute_targets=teacher.compute_targets)
    waves, mask = make_waves(padded=True)
    batch = {"net_input": {"source": waves, "padding_mask": mask}, "targets": torch.tensor([[0, 1], [1, -1], [-1, 2]])}

    def loss(**settings):
        criterion = SpeechMultitaskCriterion(SpeechMultitaskCriterionConfig(**settings), task)
        total, count, log = criterion(model, batch)
        return total / count, log

    alone, _ = loss()
    both, log = loss(distillation=0.5, l1=1.0, log_sigmoid_cosine=0.0)
    frames = log["frames"]
    distance = (log["distance/l1_1"] + log["distance/l1_2-3"]) / frames / 2
    torch.testing.assert_close(both, alone + 0.5 * distance)


@pytest.mark.parametrize("exact", [True, False])
def test_the_teacher_pads_as_the_model_does(tmp_path, exact):
    path = save_teacher(tmp_path / "teacher.pt")
    task = SpeechMultitaskTask(
        SpeechMultitaskTaskConfig(data="", tasks="[{name: k, kind: classification}]", teacher=path)
    )
    task.state.merge_state_dict({"classes": {"k": ["no", "yes"]}})
    model = build_multitask(exact_padding=exact, **DISTILLED)
    task.adopt(model)
    waves, mask = make_waves(padded=True)
    length = int((~mask[2]).sum())
    padded, alone = task.compute_targets(waves, mask), task.compute_targets(waves[2:, :length])
    frames = alone.hidden[0].size(1)
    apart = (padded.hidden[0][2, :frames] - alone.hidden[0][0]).abs().max()
    assert apart < 1e-3 if exact else apart > 0.01


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"adapter": 8}, "set criterion.distillation too"),
        ({"freeze": "all", **DISTILLED}, "leaves nothing to distil"),
        ({"adapter": 8, "checkpoint_activations": True, **DISTILLED}, "checkpoint_activations=false"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        build_multitask(**settings)


def test_a_run_distils_and_fine_tunes_and_its_checkpoint_needs_no_teacher(tmp_path):
    data, start, teacher = (
        write_labelled(tmp_path / "data"),
        write_teacher(tmp_path),
        write_teacher(tmp_path, "big.pt", seed=7),
    )
    options = {
        "+task.teacher": teacher,
        "+criterion.distillation": 1.0,
        "+criterion.groups": "'[[1],[3]]'",
        "+model.adapter": 8,
        "lr_scheduler.warmup_updates": 1,
        "model.freeze_updates": 0,
        "optimization.lr": "[0.01]",
        "optimization.max_update": 6,
    }
    _, logs = fine_tune(tmp_path / "run", data, start, **options)
    steps = [values for name, values in logs if name == "train_inner"]
    distances = [float(values["l1_1"]) + float(values["l1_3"]) for values in steps]
    assert distances[-1] < distances[0]
    for values in steps:
        kd = sum(float(values[f"{name}_{group}"]) for name in ("l1", "log_sigmoid_cosine") for group in (1, 3)) / 2
        tasks = sum(float(values.get(f"{name}_loss", 0)) for name in ("keyword", "speaker"))
        assert float(values["loss"]) == pytest.approx(kd + tasks, abs=5e-3)
    os.remove(teacher)
    os.remove(start)
    model = load_multitask(tmp_path / "run" / "checkpoints" / "checkpoint_last.pt")
    assert model.adapters[0].up.weight.abs().max() > 0
    assert model(make_waves()[0]).scores["keyword"].isfinite().all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"+criterion.distillation": 1.0}, "criterion.distillation=1 with task.teacher=nothing: give both or none"),
        (
            {"+criterion.distillation": 1.0, "teacher": {"normalize": True}},
            "has normalize=True, the encoder of model.init False",
        ),
    ],
)
def test_teachers_that_do_not_fit_are_refused(options, message, tmp_path):
    options = dict(options)
    if "teacher" in options:
        options["+task.teacher"] = write_teacher(tmp_path, "other.pt", **options.pop("teacher"))
        options["+criterion.groups"] = "'[[1]]'"
    data, start = write_labelled(tmp_path / "data"), write_teacher(tmp_path)
    done, _ = fine_tune(tmp_path / "run", data, start, check=False, **options)
    assert done.returncode != 0 and message in done.stdout, done.stdout[-1500:]


def test_a_teacher_of_another_sample_rate_is_refused(tmp_path):
    """Its frames are of as many samples as the encoder's, but it has never heard such waves."""
    teacher = read_checkpoint(write_teacher(tmp_path, sample_rate=8000))
    with pytest.raises(UserError, match="has sample_rate=8000, the encoder of model.init 16000"):
        check_teacher(teacher, teacher.config.with_settings(sample_rate=16_000))
    assert check_teacher(teacher, teacher.config) is None
