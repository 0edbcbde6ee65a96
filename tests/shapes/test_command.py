"""`fairseq-distill shapes`: what it prints, and that what it prints trains."""

import json
import shlex

import pytest
import torch
from fairseq import tasks
from hydra.experimental import compose, initialize_config_dir
from omegaconf import OmegaConf

from fairseq_distill.checkpoints.reading import load_encoder
from fairseq_distill.cli.configs import find_recipes
from fairseq_distill.cli.main import main
from fairseq_distill.cli.shapes import RECIPES
from fairseq_distill.encoder.size import count_parameters, count_size

from ..builders import LARGE, SMALL, write_teacher

SHAPE = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")
ROW = ("layers", "width", "ffn", "heads")


def shapes(capsys, *arguments):
    assert main(["shapes", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def build_student(recipe, overrides, teacher):
    """The student that a recipe makes with these overrides, through hydra and the task."""
    given = [f"task.teacher={teacher}", "task.data=none", 'criterion.groups="[[1]]"', *overrides]
    with initialize_config_dir(config_dir=str(find_recipes())):
        run = compose(config_name=recipe, overrides=given)
    sections = ("task", "model", "criterion")
    run = OmegaConf.create({name: OmegaConf.to_container(run[name], resolve=True) for name in sections})
    return tasks.setup_task(run.task).build_model(run.model)


@pytest.mark.parametrize("kind", [{}, {**LARGE, "activation_fn": "gelu_accurate"}], ids=["post-norm", "pre-norm"])
def test_every_stack_of_a_teacher_trains_from_its_overrides(tmp_path, capsys, kind):
    teacher = write_teacher(tmp_path, **kind)
    options = ["--params", "40%", "--teacher", teacher, "--tolerance", "40%", "--limit", 0]
    found = json.loads(shapes(capsys, *options, "--json"))
    chosen = {row["stack"]: row for row in found["shapes"]}
    assert set(chosen) == {"whole", "half", "quarter"}
    for number, row in enumerate(chosen.values()):
        student = build_student(RECIPES[number % 2], row["overrides"], teacher)
        assert count_parameters(student)["encoder"] == row["parameters"]
        assert count_size(student.cfg).macs_per_second == row["macs_per_second"]
        assert [getattr(student.cfg, name) for name in SHAPE] == [row[key] for key in ROW]
        settings = {"layer_norm_first": False, "extractor_mode": "default", "activation_fn": "gelu", "conv_bias": False}
        settings.update(kind, conv_pos=SMALL["conv_pos"], conv_pos_groups=SMALL["conv_pos_groups"])
        assert {name: getattr(student.cfg, name) for name in settings} == settings


def test_both_recipes_have_the_same_keys_of_the_shape():
    sections = [OmegaConf.load(find_recipes() / f"{name}.yaml").model for name in RECIPES]
    for section in sections:
        assert section.like_init == "front" and set(SHAPE) <= set(section)
    assert set(sections[0]) == set(sections[1])


def test_a_row_for_the_shell_is_that_of_the_json(capsys):
    rows = json.loads(shapes(capsys, "--params", "25M", "--json"))["shapes"]
    number = next(row["row"] for row in rows if row["stack"] == "thin")
    line = shapes(capsys, "--params", "25M", "--overrides", number)
    assert line.count("\n") == 1 and shlex.split(line) == rows[number - 1]["overrides"]
    plain = next(row for row in rows if row["stack"] == "whole")
    assert plain["overrides"] == [f"model.{name}={plain[key]}" for name, key in zip(SHAPE, ROW)]


def test_shares_are_of_the_teacher(tmp_path, capsys):
    path = write_teacher(tmp_path)
    teacher = load_encoder(path)
    options = ["--params", "50%", "--macs", "60%", "--teacher", path, "--seconds", 2, "--tolerance", "0.3"]
    found = json.loads(shapes(capsys, *options, "--json"))
    assert found["teacher"]["parameters"] == count_parameters(teacher)["encoder"]
    assert found["budget"]["parameters"] == count_parameters(teacher)["encoder"] / 2
    assert found["budget"]["macs_per_second"] == pytest.approx(0.6 * count_size(teacher.cfg, 2.0).macs_per_second)
    assert found["layers"] == [2, 3] and found["macs_wave_seconds"] == 2.0
    assert found["fitting"] == len(found["shapes"]) + found["left_out"] > 0


def test_table_has_names_and_says_what_is_left_out(capsys):
    out = shapes(capsys, "--params", "27M", "--limit", 7)
    row = next(line for line in out.splitlines() if line.endswith("12-L HALF, LightHuBERT Small"))
    assert row.split()[1:9] == ["12", "384", "1536", "6", "whole", "26.87", "M", "3.81"]
    fitting = json.loads(shapes(capsys, "--params", "27M", "--limit", 0, "--json"))["fitting"]
    assert f"7 of {fitting} shapes that fit; {fitting - 7} more are left out" in out
    assert "MACs        of one wave of 10 s" in out and "RTF" not in out


def test_measured_times_are_of_rows_and_teacher(tmp_path, capsys):
    options = ["--params", "50%", "--teacher", write_teacher(tmp_path), "--tolerance", "0.3", "--seconds", 1]
    options += ["--limit", 2]
    found = json.loads(shapes(capsys, *options, "--measure", "--json"))
    times = [row["real_time_factor"] for row in found["shapes"]] + [found["teacher"]["real_time_factor"]]
    assert all(0 < time < 5 for time in times) and found["threads"] == torch.get_num_threads()
    assert main(["shapes", *map(str, options), "--measure"]) == 0
    printed = capsys.readouterr()
    assert f"{torch.get_num_threads()} thread" in printed.out and "timing" in printed.err
    assert len(next(line for line in printed.out.splitlines() if line.startswith("   1")).split()) == 11


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "there is no budget"),
        (["--params", "25%"], "give --teacher too"),
        (["--params", "1k"], "the nearest has 289.41 k parameters"),
        (["--params", "25M", "--layers", "0-3"], "--layers 0-3"),
        (["--params", "25M", "--limit", "-1"], "--limit -1"),
        (["--params", "25M", "--seconds", "inf"], "--seconds inf"),
        (["--params", "25M", "--seconds", "0.02"], "--seconds 0.02: give from 0.025"),
        (["--params", "25M", "--overrides", "99"], "there are rows 1 to 24"),
        (["--params", "25M", "--overrides", "1", "--measure"], "leave --measure out"),
        (["--params", "25M", "--teacher", "/none.pt"], "no such file"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(capsys, arguments, sentence):
    assert main(["shapes", *arguments]) == 1
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err
