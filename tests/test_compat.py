"""Repairs of fairseq that are not tested where they are used."""

import os
import shutil

import pytest
from fairseq import checkpoint_utils

import fairseq_distill  # noqa: F401


def test_a_copy_that_is_interrupted_leaves_what_was_there(tmp_path, monkeypatch):
    """fairseq copies each checkpoint onto checkpoint_last.pt; a kill in the middle must leave the one before."""
    new, last = tmp_path / "checkpoint_1_4.pt", tmp_path / "checkpoint_last.pt"
    new.write_bytes(b"new" * 1000)
    last.write_bytes(b"old")

    def copy_half(source, target, *args, **kwargs):
        with open(source, "rb") as one, open(target, "wb") as other:
            other.write(one.read(100))
        raise KeyboardInterrupt

    copy = checkpoint_utils.PathManager.copy
    with monkeypatch.context() as context:
        context.setattr(shutil, "copyfile", copy_half)
        context.setattr(shutil, "copyfileobj", lambda one, other, *args: copy_half(one.name, other.name))
        context.setattr("fairseq.file_io.IOPathManager", None)
        with pytest.raises(KeyboardInterrupt):
            copy(str(new), str(last), overwrite=True)
    assert last.read_bytes() == b"old" and sorted(path.name for path in tmp_path.iterdir()) == [new.name, last.name]
    assert copy(str(new), str(last), overwrite=True)
    assert last.read_bytes() == new.read_bytes() and len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A power failure after a rename that the disk has, and contents that it has not, leaves an empty file."""
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: events.append(os.readlink(f"/proc/self/fd/{number}")) or fsync(number)
    )
    monkeypatch.setattr(os, "replace", lambda old, new: events.append("rename") or replace(old, new))
    path = tmp_path / "checkpoint_1_2.pt"
    checkpoint_utils.torch_persistent_save({"model": 1}, str(path))
    assert events == [f"{path}.tmp", "rename", str(tmp_path)] and path.stat().st_size > 0
    events.clear()
    checkpoint_utils.PathManager.copy(str(path), str(tmp_path / "checkpoint_last.pt"), overwrite=True)
    assert len(events) == 3 and events[1:] == ["rename", str(tmp_path)] and "checkpoint_last.pt." in events[0]
