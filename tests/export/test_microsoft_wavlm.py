"""`export --format wavlm`: Microsoft's layout, read by torchaudio's WavLM and by us."""

import json

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.cli.main import main

from ..builders import make_waves
from ..checkpoints import layouts
from .students import KINDS, write_student

WAVLMS = {name: settings for name, (settings, chosen) in KINDS.items() if chosen == "wavlm"}


@pytest.mark.parametrize("kind", WAVLMS)
@torch.no_grad()
def test_it_is_the_layout_that_microsoft_ships(kind, tmp_path, capsys):
    source, output = tmp_path / "student.pt", tmp_path / "WavLM.pt"
    write_student(source, sample_rate=8_000, **WAVLMS[kind])
    assert main(["export", str(source), str(output), "--format", "wavlm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "WavLM" and found["left_out"] == ["prediction_head (2)"] and "final_proj" not in found
    assert 0 <= found["largest_difference"]["alone"] < 1e-6 and found["largest_difference"]["padded"] == 0.0
    state = torch.load(output, weights_only=True)
    assert set(state) == {"cfg", "model"} and all(isinstance(v, (int, float, str)) for v in state["cfg"].values())
    names = set(layouts.make_wavlm_state("large" in kind))
    shape = {name.replace("encoder.layers.2.", "encoder.layers.1.") for name in names}  # the student has one layer less
    assert set(state["model"]) == {name for name in shape if "projection" not in kind or "post_extract" not in name}
    checkpoint, before = read_checkpoint(output), load_encoder(source)
    assert checkpoint.name == "wavlm" and checkpoint.sample_rate == 8_000
    assert checkpoint.config.normalize is before.cfg.normalize
    waves, mask = make_waves(padded=True)
    ours, theirs = load_encoder(output)(waves, padding_mask=mask), before(waves, padding_mask=mask)
    assert all(torch.equal(a, b) for a, b in zip([*ours.hidden, ours.x], [*theirs.hidden, theirs.x]))


def test_without_torchaudio_it_says_what_is_missing(tmp_path, capsys, monkeypatch):
    write_student(tmp_path / "student.pt", **WAVLMS["wavlm"])
    monkeypatch.setitem(__import__("sys").modules, "torchaudio.models", None)
    assert main(["export", str(tmp_path / "student.pt"), str(tmp_path / "out.pt"), "--format", "wavlm"]) == 1
    assert "pip install torchaudio" in capsys.readouterr().err and not (tmp_path / "out.pt").exists()


@torch.no_grad()
def test_an_export_is_exported_again(tmp_path, capsys):
    write_student(tmp_path / "student.pt", **WAVLMS["wavlm"])
    assert main(["export", str(tmp_path / "student.pt"), str(tmp_path / "one.pt"), "--format", "wavlm"]) == 0
    assert main(["export", str(tmp_path / "one.pt"), str(tmp_path / "two.pt"), "--format", "wavlm"]) == 0
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert one["cfg"] == two["cfg"] and "written to" in capsys.readouterr().out
    assert all(torch.equal(one["model"][key], value) for key, value in two["model"].items())
