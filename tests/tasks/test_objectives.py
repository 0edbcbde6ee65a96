"""Objectives beside the distances of features, each in a run of fairseq-hydra-train."""

import math

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.cli import main
from fairseq_distill.encoder.conv_spec import count_frames

from ..builders import write_data, write_teacher
from ..runs import distil, validate

OFF = {"criterion.l1": 0, "criterion.log_sigmoid_cosine": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data and a teacher."""
    folder = tmp_path_factory.mktemp("objectives")
    write_data(folder / "data")
    write_teacher(folder)
    return folder


def run(folder, out, check=True, **overrides):
    return distil(out, folder / "data", str(folder / "teacher.pt"), check=check, **{**OFF, **overrides})


def test_relations_of_star_train_without_distances_of_features(folder, tmp_path):
    names = ("temporal_relations", "layer_relations", "attention_maps")
    overrides = {"model.prediction_head": "none", "optimization.max_update": 8}
    _, logs = run(folder, tmp_path, **{f"+criterion.{name}": 1.0 for name in names}, **overrides)
    steps = [values for name, values in logs if name == "train_inner"]
    assert len(steps) == 8
    assert all(math.isfinite(float(step["loss"])) for step in steps)
    for name in names[:2]:
        assert 0 < float(steps[7][f"{name}_3"]) != float(steps[0][f"{name}_3"])
    assert any(float(steps[7][f"attention_maps_{layer}"]) > 0 for layer in (1, 2, 3))
    expected = sum(float(steps[0][f"{name}_{layer}"]) for name in names for layer in (1, 2, 3)) / 3
    assert float(steps[0]["loss"]) == pytest.approx(expected, abs=2e-4 * len(names))


def test_masking_distillation_with_hints(folder, tmp_path):
    overrides = {
        "+criterion.masking": "true",
        "criterion.mse": 1.0,
        "+criterion.hint": 0.1,
        "+criterion.reduce_groups": "sum",
    }
    _, logs = run(folder, tmp_path, **overrides, **{"+model.mask_prob": 0.8, "+model.mask_length": 2})
    step = [values for name, values in logs if name == "train_inner"][0]
    expected = 0.1 * (float(step["mse_1"]) + float(step["mse_2"])) + float(step["mse_3"])
    assert float(step["loss"]) == pytest.approx(expected, abs=3e-4)


def test_time_reduction_predicts_every_frame_of_padded_batches(folder, tmp_path):
    overrides = {"criterion.mse": 1.0, "+model.time_reduction": 2, "optimization.max_update": 4}
    _, logs = run(folder, tmp_path, **overrides)
    steps = [values for name, values in logs if name == "train_inner"]
    assert all(math.isfinite(float(step["mse_3"])) and float(step["mse_3"]) > 0 for step in steps)
    cfg = load_encoder(folder / "teacher.pt").cfg
    frames = 2 * sum(count_frames(samples, cfg.conv_layers) for samples in (9000, 8000, 7000, 8000))  # an epoch
    assert sum(float(step["wpb"]) for step in steps) == pytest.approx(frames, abs=2 * 8)  # up to two at each wave's end
    with torch.no_grad():
        student = load_encoder(tmp_path / "checkpoints" / "checkpoint_last.pt")
        assert (
            student(torch.randn(1, 9000)).x.size(1)
            == load_encoder(folder / "teacher.pt")(torch.randn(1, 9000)).x.size(1) // 2
        )


@pytest.fixture(scope="module")
def units(folder):
    """Labels of the data, six units of the teacher's second layer."""
    manifests = [str(folder / "data" / f"{split}.tsv") for split in ("train", "valid")]
    out = folder / "units"
    assert (
        main.main(
            ["units", str(folder / "teacher.pt"), *manifests, "--layer", "2", "--clusters", "6", "--out", str(out)]
        )
        == 0
    )
    return out


def test_masked_prediction_beside_features(folder, units, tmp_path):
    overrides = {
        "criterion.l1": 1.0,
        "+criterion.masked_prediction": 0.5,
        "+task.label_dir": units,
        "+model.mask_length": 2,
        "optimization.max_update": 12,
    }
    _, logs = run(folder, tmp_path, **overrides)
    steps = [values for name, values in logs if name == "train_inner"]
    features = sum(float(steps[0][f"l1_{layer}"]) for layer in (1, 2, 3)) / 3
    first = float(steps[0]["masked_prediction"])
    assert float(steps[0]["loss"]) == pytest.approx(features + 0.5 * first, abs=2e-4)
    assert float(steps[-1]["masked_prediction"]) < first
    assert all(0 <= float(step["unit_accuracy"]) <= 1 for step in steps)
    checkpoint = tmp_path / "checkpoints" / "checkpoint_last.pt"
    again = [validate(checkpoint, folder / "data") for _ in range(2)]
    assert again[0]["valid_masked_prediction"] == again[1]["valid_masked_prediction"]  # the same frames are masked
    assert load_encoder(checkpoint).depth == 3


def test_each_of_two_teachers_has_its_heads(folder, tmp_path):
    other = write_teacher(folder, "other.pt", seed=7)
    overrides = {
        "criterion.l1": 1.0,
        "task.teacher": f"'{folder / 'teacher.pt'},{other}'",
        "+task.combine_teachers": "heads",
        "criterion.groups": "[[1],[3]]",
        "+criterion.hint": 0.1,
        "+criterion.reduce_groups": "sum",
    }
    _, logs = run(folder, tmp_path, **overrides)
    step = [values for name, values in logs if name == "train_inner"][0]
    value = {name: float(step[f"l1_{name}"]) for name in ("1_teacher1", "3_teacher1", "1_teacher2", "3_teacher2")}
    assert value["3_teacher1"] != value["3_teacher2"]
    expected = 0.1 * (value["1_teacher1"] + value["1_teacher2"]) + value["3_teacher1"] + value["3_teacher2"]
    assert float(step["loss"]) == pytest.approx(expected, abs=3e-4)
    student = torch.load(tmp_path / "checkpoints" / "checkpoint_last.pt", weights_only=False)["model"]
    assert sum(key.startswith("prediction_head.projections.") and key.endswith("weight") for key in student) == 4


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        ({"+criterion.layer_relations": 1.0}, "nothing would train the heads"),
        ({"model.prediction_head": "none", "criterion.l1": 1.0}, "compares features at the teacher's width"),
        (
            {"criterion.l1": 1.0, "+criterion.layer_relations": 1.0, "+model.time_reduction": 2},
            "model.time_reduction=2 must be 1",
        ),
        ({"criterion.l1": 1.0, "+criterion.masked_prediction": 1.0}, "fairseq-distill units makes the folder"),
        (
            {"criterion.l1": 1.0, "+criterion.layer_relations": 1.0, "criterion.predict_from": "last"},
            "compares layer to layer",
        ),
        (
            {"criterion.l1": 1.0, "+criterion.layer_relations": 1.0, "+criterion.masking": "true"},
            "compares whole utterances",
        ),
        (
            {"criterion.l1": 1.0, "+criterion.attention_maps": 1.0, "criterion.groups": "[[0],[3]]"},
            "leave it out of criterion.groups",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(folder, tmp_path, overrides, sentence):
    done, _ = run(folder, tmp_path, check=False, **overrides)
    assert done.returncode != 0 and sentence in done.stdout
