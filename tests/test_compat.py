"""Repairs of fairseq that are not tested where they are used."""

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
