"""Which checkpoint a run goes on from, whatever has happened to the last one."""

import os
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from fairseq_distill.checkpoints import resuming
from fairseq_distill.checkpoints.resuming import check_intact, find_replacement
from fairseq_distill.errors import UserError


def save(path, updates=4):
    """A training checkpoint as fairseq lays it out, a few kB."""
    state = {
        "args": None,
        "cfg": {"task": {"_name": "speech_distillation"}},
        "model": {"weight": torch.randn(40, 50, generator=torch.Generator().manual_seed(updates))},
        "optimizer_history": [{"num_updates": updates, "lr_scheduler_state": {}}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": updates}},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.ones(40, 50)}}},
    }
    torch.save(state, path)
    return path


def flip(path, place):
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 16]))


def cut(path, share):
    os.truncate(path, int(share * path.stat().st_size))


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_link(path):
    path.unlink()
    path.symlink_to("nowhere.pt")


DAMAGE = {
    "cut to a half": lambda path: cut(path, 0.5),
    "cut at the end": lambda path: cut(path, 0.99),
    "empty": lambda path: cut(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "zeros at the end": lambda path: path.write_bytes(path.read_bytes()[:4096].ljust(path.stat().st_size, b"\0")),
    "a bit of a weight": lambda path: flip(path, path.read_bytes().index(torch.ones(8).numpy().tobytes()) + 3),
    "a bit of the pickle": lambda path: flip(path, path.read_bytes().index(b"num_updates") + 2),
    "text": lambda path: path.write_text("<html>gone</html>"),
    "another file": lambda path: torch.save({"weights": torch.ones(3)}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "a folder": replace_by_folder,
    "a link to nothing": replace_by_link,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_newest_intact_checkpoint_stands_in_for_a_damaged_last_one(tmp_path, caplog, kind):
    last = save(tmp_path / "checkpoint_last.pt", 6)
    for name, updates in (("checkpoint1.pt", 3), ("checkpoint_2_5.pt", 5), ("checkpoint_2_4.pt", 4)):
        save(tmp_path / name, updates)
    save(tmp_path / "crash.pt", 9)
    assert find_replacement(tmp_path) is None and not caplog.records and check_intact(last) == 6
    DAMAGE[kind](last)
    assert find_replacement(tmp_path) == tmp_path / "checkpoint_2_5.pt"
    assert "checkpoint_last.pt" in caplog.text and "goes on from" in caplog.text and "at update 5" in caplog.text
    flip(tmp_path / "checkpoint_2_5.pt", 2000)
    assert find_replacement(tmp_path) == tmp_path / "checkpoint_2_4.pt" and "passed over" in caplog.text


def test_every_byte_that_is_read_is_checked(tmp_path):
    """Of a byte changed anywhere, the file is refused, or its contents are what they were."""
    path = save(tmp_path / "checkpoint_last.pt")
    good, whole, refused = path.read_bytes(), torch.load(path, weights_only=False), 0
    for place in range(0, len(good), 97):
        path.write_bytes(good)
        flip(path, place)
        try:
            check_intact(path)
        except UserError:
            refused += 1
        else:
            found = torch.load(path, weights_only=False)
            assert torch.equal(found["model"]["weight"], whole["model"]["weight"]), place
            assert found["optimizer_history"] == whole["optimizer_history"], place
    assert refused > len(good) / 97 / 2


def test_a_run_killed_before_its_first_copy_goes_on_too(tmp_path):
    save(tmp_path / "checkpoint_best.pt", 2)
    assert find_replacement(tmp_path) is None, "a new run beside a model that was kept"
    save(tmp_path / "checkpoint_1_2.pt", 2)
    assert find_replacement(tmp_path) == tmp_path / "checkpoint_1_2.pt"
    assert find_replacement(tmp_path / "nothing") is None


def test_where_nothing_is_intact_a_sentence_says_so(tmp_path):
    for name in ("checkpoint_last.pt", "checkpoint_1_2.pt"):
        cut(save(tmp_path / name), 0.3)
    with pytest.raises(UserError, match=r"checkpoint_last.pt is cut short .*; of the 1 other .* none is"):
        find_replacement(tmp_path)


def build_trainer(folder, monkeypatch, max_update=8):
    """What fairseq's `load_checkpoint` sees of a trainer, and what it was given."""
    trainer = SimpleNamespace(checkpoint_suffix="", given=None, get_num_updates=lambda: 6, extra_state={})
    checkpoint = {"save_dir": str(folder), "restore_file": "checkpoint_last.pt", "no_last_checkpoints": False}
    checkpoint.update({f"reset_{what}": False for what in ("optimizer", "lr_scheduler", "dataloader")})
    optimization = {"max_update": max_update, "max_epoch": 0}
    trainer.cfg = OmegaConf.create({"checkpoint": checkpoint, "optimization": optimization})
    OmegaConf.set_struct(trainer.cfg, True)

    def stock(cfg, trainer):
        trainer.given = cfg.restore_file
        return trainer.extra_state, "batches"

    monkeypatch.setattr(resuming, "_stock_load", stock)
    return trainer


def test_fairseq_is_given_the_replacement_and_saves_its_own_settings(tmp_path, monkeypatch):
    trainer = build_trainer(tmp_path, monkeypatch)
    before = OmegaConf.to_container(trainer.cfg)
    assert checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer) == ({}, "batches")
    assert trainer.given == "checkpoint_last.pt"
    save(tmp_path / "checkpoint_1_2.pt", 2)
    for leftover in ("checkpoint_1_4.pt.tmp", "checkpoint_last.pt.77.partial"):
        (tmp_path / leftover).write_bytes(b"half")
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    assert trainer.given == str(tmp_path / "checkpoint_1_2.pt") and OmegaConf.to_container(trainer.cfg) == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_1_2.pt"]
    trainer.cfg.checkpoint.restore_file = "other.pt"
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    assert trainer.given == "other.pt"


@pytest.mark.parametrize(
    "epoch, done, told",
    [(1, 4, (1, None)), (3, 2, (2, None)), (3, 0, (2, 0.5))],  # in the first, in the third, at the second's end
)
def test_the_schedule_hears_what_it_had_heard(tmp_path, monkeypatch, epoch, done, told):
    """fairseq trains epoch 3 after `lr_step(2, loss)`; resumed, it would do so after `lr_step(3)`."""
    trainer = build_trainer(tmp_path, monkeypatch)
    heard = []
    trainer.lr_step = lambda epoch, loss=None: heard.append((epoch, loss))
    trainer.extra_state = {"train_iterator": {"epoch": epoch, "iterations_in_epoch": done}, "val_loss": 0.5}
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    assert heard == [told]
    trainer.cfg.checkpoint.reset_lr_scheduler = True
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    assert heard == [told]


@pytest.mark.parametrize("max_update, goes_on", [(8, True), (6, False), (5, False), (0, True)])
def test_a_finished_run_begins_no_epoch(tmp_path, monkeypatch, max_update, goes_on):
    trainer = build_trainer(tmp_path, monkeypatch, max_update)
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    last_epoch = trainer.cfg.optimization.max_epoch or 10**9  # as fairseq reads it
    assert (last_epoch >= 1) == goes_on
