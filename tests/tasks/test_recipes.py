"""Recipes: the student's parameters against its paper's count, as the paper counts; and a few updates of each."""

import math

import pytest
import torch
import yaml

from fairseq_distill import load_encoder
from fairseq_distill.encoder.layer_groups import parse_groups
from fairseq_distill.encoder.size import count_parameters
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig

from ..builders import write_data, write_teacher
from ..runs import ROOT, STUDENT_SHAPE, distil

RECIPES = ROOT / "config" / "distill"
TEACHER_WIDTH = 768  # HuBERT Base, which all of them have as teacher
# recipe -> millions of encoder parameters, and of what the published figure counts where that is more
PUBLISHED = {
    "distilhubert": (23.49, 27.04),
    "ensemble": (23.49, None),
    "deep_12x384": (26.87, None),
    "dicehubert": (26.87, None),
    "wide_3x768": (30.58, None),
    "deep_6x384": (16.23, None),
    "deep_3x384": (10.90, None),
    "deep_12x192": (9.93, None),
    "armhubert_s": (18.40, 22.39),
    "star": (22.31, 22.31),
}


def build(name):
    """The student of a recipe with a teacher of Base size, without weights."""
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    settings = {k: v for k, v in recipe["model"].items() if k not in ("_name", "init", "like_init", "init_layers")}
    criterion = recipe["criterion"]
    if "groups" in criterion:
        settings.update(prediction_groups=criterion["groups"], prediction_dim=TEACHER_WIDTH)
        if criterion["predict_from"] == "layers":
            count = len(yaml.safe_load(criterion["groups"]))
            settings["prediction_layers"] = str(
                [[n * settings["encoder_layers"] // count] for n in range(1, count + 1)]
            )
    with torch.device("meta"):
        return SpeechStudent(SpeechStudentConfig(**settings))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    counts = count_parameters(build(name))
    encoder, counted = PUBLISHED[name]
    assert round(counts["encoder"] / 1e6, 2) == encoder
    if counted:
        assert round((counts["encoder"] + counts["heads"]) / 1e6, 2) == counted


def test_fithubert_counts_its_last_head_and_an_upsampler_that_nothing_uses():
    """22.49 M = the encoder, an upsampler beside the twelve heads, and the last of these (2207.00555, its code)."""
    student = build("fithubert")
    head = student.prediction_head
    upsampler = sum(p.numel() for p in head.upsamplers["11"].parameters())
    last_head = upsampler + sum(p.numel() for p in head.projections[11].parameters())
    encoder = count_parameters(student)["encoder"]
    assert round(encoder / 1e6, 2) == 21.20
    assert round((encoder + upsampler + last_head) / 1e6, 2) == 22.49


@pytest.mark.parametrize("name", ["dphubert", "dphubert_stage2"])
def test_dphubert_compares_the_features_and_every_fourth_layer_of_any_teacher(name):
    groups = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["criterion"]["groups"]
    assert parse_groups(groups, 12) == [["f"], [4], [8], [12]]
    assert parse_groups(groups, 24) == [["f"], [4], [8], [12], [16], [20], [24]]


@pytest.mark.parametrize("machine", ["cpu", "gpu1", "gpu4"])
def test_machines_are_the_same_for_distillation_and_fine_tuning(machine):
    one, other = (ROOT / "config" / kind / "machine" / f"{machine}.yaml" for kind in ("distill", "finetune"))
    assert one.read_text() == other.read_text() and one.resolve() == other.resolve()


THIN = {
    **STUDENT_SHAPE,
    # the teacher's strides
    "model.conv_feature_layers": "'[(12,10,5), (16,1,1)] + [(16,3,2)] * 2 + [(24,1,1), (24,2,2)]'",
    "criterion.groups": "[[1],[2],[3]]",
}


@pytest.mark.parametrize(
    "name, shape",
    [
        ("fithubert", THIN),
        ("armhubert_s", {**THIN, "model.reuse_attention": "[2]", "model.mask_length": 2}),
        ("star", THIN),
        ("ensemble", {"criterion.groups": "[[1],[3]]"}),
        ("deep_6x384", {**STUDENT_SHAPE, "criterion.groups": "[[1],[3]]"}),
    ],
)
def test_recipes_run_with_a_small_teacher(name, shape, tmp_path):
    data, teacher = write_data(tmp_path / "data"), write_teacher(tmp_path)
    if name == "ensemble":
        teacher = f"'{teacher},{write_teacher(tmp_path, 'other.pt', seed=5)}'"
    overrides = {"optimization.max_update": 3, "optimization.update_freq": "[1]", "task.max_sample_size": 9000}
    _, logs = distil(tmp_path / "run", data, teacher, recipe=name, shape=shape, **overrides)
    losses = [float(values["loss"]) for logger, values in logs if logger == "train_inner"]
    assert len(losses) == 3 and all(map(math.isfinite, losses)) and losses[0] > 0
    assert (
        load_encoder(tmp_path / "run" / "checkpoints" / "checkpoint_last.pt")(torch.randn(1, 4000)).x.isfinite().all()
    )
