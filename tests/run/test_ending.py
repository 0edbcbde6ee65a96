"""Runs of fairseq-hydra-train that cannot go on: a sentence, the exit code by convention, nothing half written."""

import errno
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_distill.checkpoints.resuming import check_intact
from fairseq_distill.errors import UserError
from fairseq_distill.output.memory import explain_memory
from fairseq_distill.run import ending

from ..builders import write_data, write_teacher
from ..runs import distil_line, environment, last

EVERY = {"checkpoint__save_interval_updates": 2, "optimization__max_update": 6, "checkpoint__keep_interval_updates": -1}
# what happens to torch.save at the second checkpoint
DISK_FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))"
CTRL_C = "file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"
AT_SECOND_SAVE = """
import os, resource, signal, time, torch
save, saved = torch.save, []
def save_in_vain(state, file):
    saved.append(file)
    if len(saved) > 1:
        {}
    save(state, file)
torch.save = save_in_vain
"""
IN_FORWARD = """
import numpy, torch
from fairseq import tasks
step, steps = tasks.FairseqTask.train_step, []
def train_step(self, *args, **kwargs):
    steps.append(1)
    if len(steps) in {}:
        {}
    return step(self, *args, **kwargs)
tasks.FairseqTask.train_step = train_step
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and a teacher."""
    folder = tmp_path_factory.mktemp("endings")
    write_data(folder / "data")
    write_teacher(folder)
    return folder


def run(folder, out, before="", **overrides):
    """A run as users start it, in a process in which `before` was done first."""
    line = distil_line(out, folder / "data", str(folder / "teacher.pt"), **EVERY, **overrides)
    line[line.index("-c") + 1] = f"{before}\n{line[line.index('-c') + 1]}"
    env = {key: value for key, value in environment().items() if key != "HYDRA_FULL_ERROR"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stdout + done.stderr, (done.stdout + done.stderr)[-5000:]
    return done


def os_error(number):
    raise OSError(number, os.strerror(number))


def list_files(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_a_full_disk_names_the_file_and_leaves_the_last_checkpoint(folder, tmp_path):
    done = run(folder, tmp_path, AT_SECOND_SAVE.format(DISK_FULL))
    assert done.returncode == 1
    assert re.search(
        r"checkpoints/checkpoint\w+.pt cannot be written: File too large. Checkpoints that were there are as they were",
        done.stderr,
    )
    assert not [name for name in list_files(tmp_path) if not name.endswith(".pt")]
    assert check_intact(last(tmp_path)) == 2


def test_ctrl_c_in_a_checkpoint_is_one_line_and_130(folder, tmp_path):
    done = run(folder, tmp_path, AT_SECOND_SAVE.format(CTRL_C))
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == (
        "training: interrupted; nothing is half written, and the same command goes on from the last checkpoint"
    )
    assert not [name for name in list_files(tmp_path) if not name.endswith(".pt")]
    assert check_intact(last(tmp_path)) == 2


def test_too_little_memory_names_the_settings_and_is_1(folder, tmp_path):
    done = run(folder, tmp_path, IN_FORWARD.format([3], "torch.empty(1 << 55)"))
    assert done.returncode == 1
    told = re.search(r"out of memory \((.*)\): (.*)", done.stderr)
    assert "can't allocate memory: you tried to allocate 144115188075855872 bytes" in told[1]
    assert "enforce fail" not in told[1] and told[2].startswith("a lower dataset.max_tokens")
    assert "checkpoint_last.pt" in list_files(tmp_path) and check_intact(last(tmp_path)) == 2


def test_batches_that_fit_no_gpu_are_left_out_and_counted(folder, tmp_path):
    """fairseq leaves them out; here their number is told."""
    fault = "raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB.')"
    done = run(folder, tmp_path, IN_FORWARD.format([2, 4], fault))
    assert done.returncode == 0 and check_intact(last(tmp_path)) == 6
    assert "out of memory in 1 batches so far" in done.stdout and "out of memory in 2 batches so far" in done.stdout
    assert "out of memory in 3 batches" not in done.stdout


def test_what_the_user_can_mend_is_a_sentence_without_a_traceback(folder, tmp_path):
    done = run(folder, tmp_path, criterion__groups="[[1],[2],[9]]")
    assert done.returncode == 1 and "criterion.groups=[[1],[2],[9]]" in done.stderr


def test_other_errors_are_not_hidden_by_hydra(folder, tmp_path):
    """hydra 1.0 on Python 3.10 failed while it printed them."""
    line = distil_line(tmp_path, folder / "data", str(folder / "teacher.pt"))
    line[line.index("-c") + 1] = IN_FORWARD.format([1], "raise KeyError('the real error')") + line[line.index("-c") + 1]
    env = {key: value for key, value in environment().items() if key != "HYDRA_FULL_ERROR"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "KeyError: 'the real error'" in done.stderr and "etype" not in done.stderr
    assert "in train_step" in done.stderr, "with where it was"


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.empty(1 << 55),
        lambda: np.empty(1 << 55),
        lambda: bytearray(1 << 60),
        lambda: os_error(errno.ENOMEM),
    ],
    ids=["torch", "numpy", "python", "system"],
)
def test_memory_runs_out_in_many_words(fail):
    with pytest.raises(UserError, match=r"^out of memory \(.+\): do less$"), explain_memory("do less"):
        fail()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full"), UserError("x")])
def test_other_errors_are_not_taken_for_memory(error):
    with pytest.raises(type(error)) as caught, explain_memory("do less"):
        raise error
    assert caught.value is error


def test_a_checkpoint_that_is_tried_again_begins_anew(tmp_path, monkeypatch):
    """fairseq's second try goes on behind the first, and what it leaves cannot be read."""
    save, tries = torch.save, []

    def save_at_last(state, file):
        tries.append(1)
        if len(tries) < 3:
            file.write(b"x" * 1000)
            raise OSError(errno.EIO, "Input/output error")
        save(state, file)

    monkeypatch.setattr(torch, "save", save_at_last)
    monkeypatch.setattr(ending, "_PAUSE", 0)
    checkpoint_utils.torch_persistent_save({"model": torch.arange(3)}, str(tmp_path / "checkpoint_last.pt"))
    written = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert len(tries) == 3 and written["model"].tolist() == [0, 1, 2]

    def fail(state, file):
        file.write(b"x" * 1000)
        raise RuntimeError("unexpected pos 64 vs 0") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match="checkpoint_1_2.pt cannot be written: No space left on device"):
        checkpoint_utils.torch_persistent_save({}, str(tmp_path / "checkpoint_1_2.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_last.pt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_is_told_once_for_a_log_file(monkeypatch, capsys):
    monkeypatch.setattr(logging.FileHandler, "handleError", ending.tell_once)
    handler = logging.FileHandler("/dev/full")
    for number in range(3):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "line %d", (number,), None))
    assert capsys.readouterr().err == "/dev/full cannot be written: No space left on device; the run goes on\n"


def test_a_folder_for_checkpoints_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="checkpoint.save_dir=.*file/checkpoints cannot be written: Not a directory"):
        checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "file" / "checkpoints"))


def test_exit_hook_is_left_alone_outside_of_training():
    code = "import sys, fairseq_distill; print(sys.excepthook is sys.__excepthook__)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment(), capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "True"
