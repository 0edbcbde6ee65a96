"""The task's settings: what it takes over from the teacher, and contradictions that it refuses before training."""

import pytest
import torch
from fairseq import tasks
from omegaconf import OmegaConf

from fairseq_distill.encoder.size import frame_rate
from fairseq_distill.errors import UserError

from ..builders import LARGE, SMALL, write_data, write_teacher


def make_run(tmp_path, teacher, task=None, model=None, criterion=None):
    """A run's config as fairseq-hydra-train hands it to the task, before defaults are merged."""
    model = {
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_attention_heads": 4,
        "conv_pos_groups": 4,
        **(model or {}),
    }
    model.setdefault("conv_feature_layers", SMALL["conv_feature_layers"])
    return OmegaConf.create(
        {
            "task": {"_name": "speech_distillation", "data": str(tmp_path), "teacher": teacher, **(task or {})},
            "model": {"_name": "speech_student", **model},
            "criterion": {"_name": "speech_distillation", "groups": "[[1],[f,3]]", **(criterion or {})},
        }
    )


def build(run):
    task = tasks.setup_task(run.task)
    return task, task.build_model(run.model)


def test_what_the_teacher_decides_is_written_into_the_run(tmp_path):
    run = make_run(tmp_path, write_teacher(tmp_path, normalize=True, **LARGE))
    task, model = build(run)
    assert run.task.normalize is True and run.model.normalize is True and task.cfg.normalize is True
    assert run.model.prediction_groups == "[[1],[f,3]]"
    assert run.model.prediction_layers == "[[1],[2]]" and run.model.prediction_dim == 48
    assert model.plan.student_groups == [[1], [2]]
    assert not model.mask_emb.requires_grad and model.encoder.layer_norm.weight.requires_grad


def test_groups_given_by_a_rule_are_written_out_for_the_teachers_depth(tmp_path, caplog):
    run = make_run(tmp_path, write_teacher(tmp_path), criterion={"groups": "f, every 2"})
    with caplog.at_level("INFO"):
        task, model = build(run)
    assert run.model.prediction_groups == "[[f],[2],[3]]" and run.model.prediction_layers == "[[f],[2],[2]]"
    assert task.plan.names == ["f", "2", "3"] and len(model.prediction_head.projections) == 3
    assert "model.prediction_groups=[[f],[2],[3]] (from criterion.groups and the teacher)" in caplog.messages
    assert "task.normalize=False (as the teacher was trained)" in caplog.messages


def test_every_trainable_parameter_gets_a_gradient(tmp_path):
    """Else DistributedDataParallel stops."""
    teacher = write_teacher(tmp_path, **LARGE)
    for predict_from in ("layers", "last"):
        for kind in ({}, {"layer_norm_first": True}):
            _, model = build(make_run(tmp_path, teacher, model=kind, criterion={"predict_from": predict_from}))
            predictions = model(torch.randn(2, 4000), predict=True).states.predictions
            sum(p.pow(2).sum() for p in predictions).backward()
            without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert without == [], (predict_from, kind)


@pytest.mark.parametrize("groups, trained", [("[[1]]", 1), ("[[f]]", 0), ("[[f],[2]]", 2)])
def test_layers_behind_all_taps_are_frozen_with_a_warning(tmp_path, caplog, groups, trained):
    run = make_run(tmp_path, write_teacher(tmp_path), criterion={"groups": groups})
    _, model = build(run)
    sum(p.pow(2).sum() for p in model(torch.randn(2, 4000), predict=True).states.predictions).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    alive = [any(p.requires_grad for p in layer.parameters()) for layer in model.encoder.layers]
    assert alive == [number <= trained for number in (1, 2)]
    assert ("predict nothing" in caplog.text) == (trained < 2)


def test_a_loaded_student_can_be_validated_again(tmp_path):
    """As fairseq-validate does: the task comes from the checkpoint, and the criterion asks it for targets."""
    run = make_run(tmp_path, write_teacher(tmp_path))
    build(run)
    task = tasks.setup_task(run.task, from_checkpoint=True)
    model = task.build_model(run.model, from_checkpoint=True)
    loss, frames, _ = task.build_criterion(run.criterion)(model, {"net_input": {"source": torch.randn(2, 4000)}})
    assert torch.isfinite(loss) and int(frames) > 0 and task.plan.groups == [[1], ["f", 3]]


@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_student_and_teacher_are_told_once_what_the_objective_captures(tmp_path, from_checkpoint):
    run = make_run(tmp_path, write_teacher(tmp_path), criterion={"groups": "[[1],[3]]", "layer_relations": 1.0})
    task, model = build(run)
    if from_checkpoint:
        task = tasks.setup_task(run.task, from_checkpoint=True)
        model = task.build_model(run.model, from_checkpoint=True)
    assert model.plan == task.plan and model.plan.captures == {"inputs", "outputs"}
    waves = torch.randn(1, 4000)
    for states in (model(waves, predict=True).states, task.compute_targets(waves)):
        assert len(states.inputs) == len(states.outputs) == 2 and not states.maps
    _, _, log = task.build_criterion(run.criterion)(model, {"net_input": {"source": waves}})
    assert log["distance/layer_relations_3"] > 0


def test_loading_a_student_touches_no_teacher(tmp_path):
    run = make_run(tmp_path, write_teacher(tmp_path))
    build(run)
    run.task.teacher = str(tmp_path / "gone.pt")
    task = tasks.setup_task(run.task, from_checkpoint=True)
    model = task.build_model(run.model, from_checkpoint=True)
    assert model.plan.student_groups == [[1], [2]]
    assert task.source_dictionary is None and task.target_dictionary is None


def test_several_teachers_are_read_from_commas_or_a_list(tmp_path):
    one, two = write_teacher(tmp_path, "1.pt"), write_teacher(tmp_path, "2.pt", seed=1)
    for given in (f"{one},{two}", [one, two]):
        task, _ = build(make_run(tmp_path, given))
        assert task.teacher_paths() == [one, two]
    assert len(task.compute_targets(torch.randn(1, 4000)).hidden) == 2
    narrow = write_teacher(tmp_path, "3.pt", encoder_embed_dim=32)
    with pytest.raises(UserError, match="has encoder_embed_dim=48, .* has 32"):
        build(make_run(tmp_path, [one, narrow]))


@pytest.mark.parametrize(
    "section, setting, sentence",
    [
        ("task", {"normalize": True}, "trained with normalize=False: leave task.normalize out"),
        ("task", {"sample_rate": 8000}, "task.sample_rate=8000, but .* at 16000 Hz"),
        ("task", {"teacher": "nowhere.pt"}, "task.teacher=nowhere.pt: no such file"),
        ("criterion", {"groups": "[[1],[7]]"}, "the teacher has layers 0 to 3 and f, not 7"),
        ("model", {"prediction_head": "split"}, "split makes all predictions from one layer"),
        ("model", {"conv_feature_layers": "[(24,10,5)]"}, "a frame every 5 samples, .* every 40"),
    ],
)
def test_contradictions_are_sentences(tmp_path, section, setting, sentence):
    run = make_run(tmp_path, write_teacher(tmp_path), **{section: {}})
    run[section].update(setting)
    with pytest.raises(UserError, match=sentence):
        build(run)


def test_a_teacher_of_another_rate_gives_its_rate_to_the_student(tmp_path):
    run = make_run(tmp_path, write_teacher(tmp_path, sample_rate=8000), task={"sample_rate": 8000})
    _, model = build(run)
    assert run.model.sample_rate == model.cfg.sample_rate == 8000 and frame_rate(model.cfg) == 200


@pytest.mark.parametrize("given", ["teacher", "one of several", "init", "init of the same shape"])
def test_checkpoints_of_another_rate_than_the_task_are_refused_by_name(tmp_path, given):
    """Each learns from, or starts from, a network that heard 8 kHz, in a run that reads 16 kHz."""
    teacher, other = write_teacher(tmp_path), write_teacher(tmp_path, "8k.pt", seed=1, sample_rate=8000)
    like = "all" if given == "init of the same shape" else "none"
    run, sentence = {
        "teacher": (make_run(tmp_path, other), "task.sample_rate=16000, but task.teacher=.*8k.pt .* at 8000 Hz: give"),
        "one of several": (make_run(tmp_path, [teacher, other]), "has sample_rate=16000, .*8k.pt has 8000; several"),
    }.get(
        given,
        (
            make_run(tmp_path, teacher, model={"init": other, "like_init": like}),
            r"task.sample_rate=16000, but model.init=.*8k.pt .* at 8000 Hz: give task.sample_rate=8000 .*-ar 8000",
        ),
    )
    with pytest.raises(UserError, match=sentence):
        build(run)


def test_data_are_cropped_or_padded_and_too_short_waves_left_out(tmp_path):
    data = write_data(tmp_path / "data", lengths=(9000, 6000, 59), copies=1, splits=("train",))
    for padding in (True, False):
        run = make_run(data, write_teacher(tmp_path), task={"enable_padding": padding})
        task, _ = build(run)
        task.load_dataset("train")
        dataset = task.dataset("train")
        assert len(dataset) == 2, "59 samples are less than the receptive field of 60"
        batch = dataset.collater([dataset[0], dataset[1]])["net_input"]
        assert batch["source"].shape == (2, 9000 if padding else 6000)
        assert ("padding_mask" in batch) == padding
