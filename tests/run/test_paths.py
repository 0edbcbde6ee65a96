"""Relative paths mean the folder the command was started in, wherever hydra went since."""

import pytest

from fairseq_distill.errors import UserError
from fairseq_distill.run.paths import find_checkpoint, find_file, make_absolute


def test_without_hydra_paths_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make_absolute("a/../b.pt") == str(tmp_path / "b.pt")
    assert make_absolute("/x/y") == "/x/y"


def test_a_spawned_process_finds_the_start_in_the_runs_folder(tmp_path, monkeypatch):
    start, run = tmp_path / "start", tmp_path / "outputs" / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  runtime:\n    cwd: {start}\n")
    monkeypatch.chdir(run)
    assert make_absolute("teacher.pt") == str(start / "teacher.pt")


def test_a_missing_file_is_named_with_its_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"task.teacher=t.pt: no such file .*{tmp_path}/t.pt"):
        find_file("t.pt", "task.teacher")
    (tmp_path / "t.pt").touch()
    assert find_file("t.pt", "task.teacher") == str(tmp_path / "t.pt")


def test_a_folder_with_a_config_is_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf").mkdir()
    with pytest.raises(UserError, match="task.teacher=hf: no such file"):
        find_checkpoint("hf", "task.teacher")
    (tmp_path / "hf" / "config.json").touch()
    assert find_checkpoint("hf", "task.teacher") == str(tmp_path / "hf")
    with pytest.raises(UserError, match="task.noise=hf: no such file"):
        find_file("hf", "task.noise")
