"""criterion.groups=auto and criterion.groups_file in whole runs: clusters of the teacher's layers as targets."""

import json

import pytest
import torch

from fairseq_distill.checkpoints.safe_load import read_pickled
from fairseq_distill.cli.main import main
from fairseq_distill.layer_clusters.storage import read_clusters

from ..builders import SMALL, write_data, write_teacher
from ..runs import FAST_GATES, last, train

DEPTH = 5
AUTO = {"criterion.groups": "auto", "criterion.clusters": 3, "task.cluster_seconds": 3}
RATES = {key: value for key, value in FAST_GATES.items() if not key.startswith("criterion")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data and a teacher of DEPTH layers, and SKILL's stage 1 in `auto`."""
    folder = tmp_path_factory.mktemp("skill")
    write_data(folder / "data")
    write_teacher(folder, encoder_layers=DEPTH)
    skill(folder, folder / "auto")
    return folder


def skill(folder, out, recipe="skill", check=True, **overrides):
    """Train with groups=auto; `train` sets groups for a teacher of three layers, which these replace."""
    settings = {**AUTO, **RATES} if recipe == "skill" else {"criterion.groups": "auto"}
    settings.update(
        {"optimization.max_update": 4, **{key.replace("__", "."): value for key, value in overrides.items()}}
    )
    return train(out, folder / "data", str(folder / "teacher.pt"), recipe, check, **settings)


def model_settings(checkpoint):
    return read_pickled(checkpoint)["cfg"]["model"]


def test_groups_are_found_logged_kept_and_stored_in_the_student(folder):
    found = read_clusters(folder / "auto" / "checkpoints" / "clusters.json")
    assert len(found.groups) == 3 and sorted(sum(found.groups, [])) == list(range(1, DEPTH + 1))
    assert found.about["request"]["clusters"] == 3 and len(found.about["request"]["weights_sha256"]) == 1
    stored = model_settings(last(folder / "auto"))
    assert json.loads(stored["prediction_groups"]) == found.groups
    assert json.loads(stored["prediction_layers"]) == found.groups, "mean over the student's layers of the same group"
    weights = read_pickled(last(folder / "auto"))["model"]
    assert sum(key.startswith("prediction_head.projections") for key in weights) == 2 * 3


def test_resume_takes_the_groups_that_are_there_and_refuses_other_settings(folder, tmp_path):
    skill(folder, tmp_path / "run", optimization__max_update=2)
    done, _ = skill(folder, tmp_path / "run")
    assert "groups of checkpoints/clusters.json" in done.stdout and "layers clustered into" not in done.stdout
    done, _ = skill(folder, tmp_path / "run", check=False, criterion__clusters=2)
    assert done.returncode != 0 and "was made for other settings (clusters differ): remove it" in done.stdout


def test_a_file_of_the_same_clusters_gives_the_same_training(folder, tmp_path):
    file = tmp_path / "clusters.json"
    manifest = folder / "data" / "train.tsv"
    line = ["clusters", folder / "teacher.pt", manifest, "--clusters", 3, "--seconds", 3, "--out", file]
    assert main([str(word) for word in line]) == 0
    options = {"criterion.groups": "[[1]]", "criterion.groups_file": file}
    train(
        tmp_path / "file",
        folder / "data",
        str(folder / "teacher.pt"),
        "skill",
        **{**AUTO, **RATES, "optimization.max_update": 4, **options},
    )
    one, other = (read_pickled(last(path))["model"] for path in (folder / "auto", tmp_path / "file"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_pruned_student_goes_on_with_its_groups(folder, tmp_path):
    pruned = tmp_path / "pruned.pt"
    assert main(["prune", str(last(folder / "auto")), str(pruned)]) == 0
    done, _ = skill(folder, tmp_path / "stage2", "skill_stage2", model__init=pruned)
    assert "the groups that" in done.stdout and not (tmp_path / "stage2" / "checkpoints" / "clusters.json").exists()
    names = ("prediction_groups", "prediction_layers")
    stage1, stage2 = model_settings(last(folder / "auto")), model_settings(last(tmp_path / "stage2"))
    assert [stage2[name] for name in names] == [stage1[name] for name in names]


def test_two_teachers_and_a_student_of_fewer_layers(folder, tmp_path):
    second = write_teacher(tmp_path, encoder_layers=DEPTH, encoder_ffn_embed_dim=SMALL["encoder_ffn_embed_dim"] // 2)
    options = {
        **AUTO,
        **RATES,
        "task.teacher": f"'{folder / 'teacher.pt'},{second}'",
        "model.init": folder / "teacher.pt",
    }
    options.update({"model.like_init": "layers", "+model.encoder_layers": 2, "optimization.max_update": 2})
    train(tmp_path / "run", folder / "data", "", "skill", **options)
    stored = model_settings(last(tmp_path / "run"))
    groups, layers = json.loads(stored["prediction_groups"]), json.loads(stored["prediction_layers"])
    assert layers == [sorted({-(-layer * 2 // DEPTH) for layer in group}) for group in groups]
    assert (
        len(read_clusters(tmp_path / "run" / "checkpoints" / "clusters.json").about["request"]["weights_sha256"]) == 2
    )


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        ({"criterion__clusters": "null"}, "criterion.groups=auto needs criterion.clusters"),
        ({"criterion__clusters": 9}, "criterion.clusters=9 must be from 1 to 5, the layers"),
        ({"criterion.groups_file": "/nowhere.json"}, "criterion.groups_file"),
    ],
)
def test_what_makes_no_groups_is_refused(folder, tmp_path, overrides, sentence):
    done, _ = skill(folder, tmp_path, check=False, **overrides)
    assert done.returncode != 0 and sentence in done.stdout
