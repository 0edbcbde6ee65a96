"""`fairseq-distill prune` on students written as fairseq writes them: what it prints, writes, draws and refuses."""

import dataclasses
import json
import os

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints import saving
from fairseq_distill.checkpoints.safe_load import read_pickled
from fairseq_distill.cli import prune as prune_command
from fairseq_distill.cli.main import main
from fairseq_distill.encoder.size import count_parameters, count_size
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig

from ..builders import KINDS, PARTS, TINY, UNITS, make_waves, randomize, relative_error, spread_gates
from .helpers import open_all, set_gate

HEADS = dict(
    prediction_groups="[[f],[1],[2]]", prediction_layers="[[f],[1],[2]]", prediction_dim=9, share_heads="layers"
)


def plain(value):
    return getattr(value, "value", value)


def write_student(path, change=spread_gates, normalize=False, task="speech_distillation", **settings) -> SpeechStudent:
    """A student of TINY shape after stage 1, its gates set by `change`, in the layout of fairseq's trainer."""
    torch.manual_seed(0)
    cfg = SpeechStudentConfig(
        **{**TINY, **HEADS, "prune": UNITS, "target_sparsity": 0.5, "normalize": normalize, **settings}
    )
    student = randomize(SpeechStudent(cfg))
    if change is not None:
        change(student)
    model = {f.name: plain(getattr(cfg, f.name)) for f in dataclasses.fields(cfg) if f.name != "latent_temp"}
    model = {name: 0 if isinstance(value, str) and value.startswith("${") else value for name, value in model.items()}
    sections = {
        "model": {**model, "_name": "speech_student"},
        "task": {
            "_name": task,
            "data": "/nowhere",
            "teacher": "/nowhere.pt",
            "normalize": normalize,
            "sample_rate": 16000,
        },
        "criterion": {"_name": "speech_distillation", "groups": "[[f],[1],[2]]"},
        "optimizer": {"_name": "adam"},
    }
    history = [{"criterion_name": "SpeechDistillationCriterion", "optimizer_name": "FairseqAdam", "num_updates": 7}]
    state = {"args": None, "cfg": sections, "model": student.state_dict(), "optimizer_history": history}
    torch.save({**state, "extra_state": {"epoch": 2}, "last_optimizer_state": {"state": {}}}, path)
    return student


def close_some(encoder) -> None:
    """A known number of every kind of unit, and the whole attention of layer 2."""
    open_all(encoder)
    set_gate(encoder, "conv", 1, [2.0, -20.0, 3.0, -20.0, 2.5])
    set_gate(encoder, "heads", 0, [-20.0, 2.0, 1.5])
    set_gate(encoder, "heads", 1, [-20.0] * 3)
    set_gate(encoder, "ffn", 1, [-20.0, 2.0, -20.0, 1.5, -20.0])


def test_prints_what_is_left(tmp_path, capsys):
    source, out = tmp_path / "stage1.pt", tmp_path / "new" / "pruned.pt"
    write_student(source, close_some)
    assert main(["prune", str(source), str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "conv 0      6 of 6 channels",
        "conv 1      3 of 5 channels",
        "conv 2      7 of 7 channels",
        "layer 1     2 of 3 heads, 5 of 5 FFN neurons",
        "layer 2     0 of 3 heads, 2 of 5 FFN neurons",
    ]
    before, after = load_encoder(source), load_encoder(out)
    old, new = (count_parameters(e)["encoder"] for e in (before, after))
    assert lines[5].startswith("parameters") and lines[5].endswith(f"sparsity {1 - new / old:.3f}")
    macs = 1 - count_size(after.cfg).macs_per_second / count_size(before.cfg).macs_per_second
    assert lines[6].startswith("MACs/s") and lines[6].endswith(f"sparsity {macs:.3f}")
    assert str(out) in lines[-1]
    capsys.readouterr()
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["encoder"] == new < old


@pytest.mark.parametrize("kind", KINDS)
def test_written_student_loads_everywhere_and_equals_the_gated_one(kind, tmp_path):
    source, out = tmp_path / "stage1.pt", tmp_path / "pruned.pt"
    gated_student = write_student(source, normalize=kind == "large", **KINDS[kind], prune=UNITS + PARTS)
    assert main(["prune", str(source), str(out)]) == 0
    gated, small = load_encoder(source), load_encoder(out)
    assert gated.gates is not None and small.gates is None
    assert small.normalize_input == gated.normalize_input == (kind == "large")
    assert relative_error(gated, small) < 1e-5
    (student,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(out)])
    assert isinstance(student, SpeechStudent) and student.gates is None and student.size_loss is None
    assert list(cfg.model.layer_heads) == small.cfg.heads and not cfg.model.prune
    assert cfg.task.normalize == (kind == "large") and type(task).__name__ == "SpeechDistillationTask"
    waves, mask = make_waves(samples=1200, padded=True)
    if kind != "large":  # fairseq normalises waves outside of the model
        features, frames = student.eval().extract_features(waves, padding_mask=mask)
        expected = gated_student.encode(waves, mask).x
        assert (features - expected)[~frames].norm() < 1e-5 * expected[~frames].norm()
        predictions = [
            s.eval()(waves, padding_mask=mask, predict=True).states.predictions for s in (student, gated_student)
        ]
        for a, b in zip(*predictions):
            torch.testing.assert_close(a[~frames], b[~frames], rtol=1e-4, atol=1e-5)
    saved, before = read_pickled(out), gated_student.state_dict()
    heads = [key for key in before if key.startswith("prediction_head.")]
    assert len(heads) == 4 and all(torch.equal(saved["model"][key], before[key]) for key in heads)
    assert not any(key.startswith(("gates.", "size_loss.")) for key in saved["model"])
    assert set(saved["model"]) == set(student.state_dict())
    assert saved["cfg"]["criterion"]["groups"] == "[[f],[1],[2]]" and saved["last_optimizer_state"] is None
    assert sorted(os.listdir(tmp_path)) == ["pruned.pt", "stage1.pt"]


def test_half_precision_student(tmp_path):
    source, out = tmp_path / "stage1.pt", tmp_path / "pruned.pt"
    write_student(source, lambda student: (spread_gates(student), student.half()))
    state = read_pickled(source)["model"]
    assert (
        state["gates.kinds.ffn.log_alpha"].dtype == torch.float32 and state["layer_norm.weight"].dtype == torch.float16
    )
    assert main(["prune", str(source), str(out)]) == 0
    assert relative_error(load_encoder(source), load_encoder(out)) < 1e-5


def test_picture(tmp_path, capsys):
    image = pytest.importorskip("matplotlib.image")
    source = tmp_path / "stage1.pt"
    pixels = {}
    for name, change in (("some", close_some), ("none", open_all)):
        write_student(source, change)
        path = tmp_path / f"{name}.png"
        assert main(["prune", str(source), str(tmp_path / "pruned.pt"), "--plot", str(path)]) == 0
        assert f"drawn in {path}" in capsys.readouterr().out
        assert path.stat().st_size > 5000
        pixels[name] = torch.as_tensor(image.imread(path))
    height, width, _ = pixels["some"].shape
    assert width > height > 200 and len(pixels["some"].flatten(0, 1).unique(dim=0)) > 10
    assert pixels["some"].shape != pixels["none"].shape or not torch.equal(pixels["some"], pixels["none"])
    blue = {name: int((p[..., 2] - p[..., 0] > 0.4).sum()) for name, p in pixels.items()}
    assert 0 < blue["some"] < blue["none"], "less is left, so the bars are smaller"
    assert main(["prune", str(source), str(tmp_path / "pruned.pt"), "--plot", str(tmp_path / "picture.xyz")]) == 1
    assert "picture.xyz cannot be written" in capsys.readouterr().err


def refuse(line, capsys) -> str:
    """Run a command that must fail with one sentence; returns it."""
    assert main([str(word) for word in line]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    (sentence,) = [row for row in captured.err.splitlines() if row.startswith("fairseq-distill prune: ")]
    return sentence


def test_without_gates(tmp_path, capsys):
    source = tmp_path / "student.pt"
    write_student(source, None, prune=[])
    sentence = refuse(["prune", source, tmp_path / "out.pt"], capsys)
    assert str(source) in sentence and "has no gates to cut" in sentence and "model.prune" in sentence
    assert "no such file" in refuse(["prune", tmp_path / "nothing.pt", tmp_path / "out.pt"], capsys)
    assert os.listdir(tmp_path) == ["student.pt"]


def test_never_over_its_own_input(tmp_path, capsys):
    source = tmp_path / "stage1.pt"
    write_student(source)
    content = source.read_bytes()
    link = tmp_path / "link.pt"
    link.symlink_to(source)
    for out in (source, tmp_path / "." / "stage1.pt", link):
        assert "is the file that is being pruned" in refuse(["prune", source, out], capsys)
        assert source.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["link.pt", "stage1.pt"] and link.is_symlink()


@pytest.mark.parametrize("error", [OSError("no space left"), RuntimeError("unexpected pos"), KeyboardInterrupt()])
def test_interrupted_write_leaves_nothing_and_keeps_an_older_result(tmp_path, capsys, monkeypatch, error):
    source, out = tmp_path / "stage1.pt", tmp_path / "pruned.pt"
    write_student(source)
    out.write_bytes(b"older")

    def write_half(state, path):
        with open(path, "wb") as file:
            file.write(b"half")
        raise error

    monkeypatch.setattr(saving.torch, "save", write_half)
    if isinstance(error, KeyboardInterrupt):
        assert main(["prune", str(source), str(out)]) == 130
    else:
        assert f"{out} cannot be written: {error}" in refuse(["prune", source, out], capsys)
    assert sorted(os.listdir(tmp_path)) == ["pruned.pt", "stage1.pt"] and out.read_bytes() == b"older"


@pytest.mark.parametrize("damage", [1.5, float("nan")])
@pytest.mark.parametrize("part", ["encoder.layers.1.fc2", "post_extract_proj", "feature_extractor.conv_layers.1.0"])
def test_features_that_differ_are_not_written(tmp_path, capsys, monkeypatch, part, damage):
    source, out = tmp_path / "stage1.pt", tmp_path / "pruned.pt"
    write_student(source)
    cut = prune_command.prune_encoder

    def cut_badly(encoder):
        pruned = cut(encoder)
        pruned.weights[f"{part}.weight"] *= damage
        return pruned

    monkeypatch.setattr(prune_command, "prune_encoder", cut_badly)
    sentence = refuse(["prune", source, out], capsys)
    assert "pruned features differ from the gated ones" in sentence and "is not written" in sentence
    assert os.listdir(tmp_path) == ["stage1.pt"]


def test_nothing_left_names_the_file(tmp_path, capsys):
    source = tmp_path / "stage1.pt"
    write_student(source, lambda student: set_gate(student, "conv", 0, [-20.0] * 6))
    sentence = refuse(["prune", source, tmp_path / "out.pt"], capsys)
    assert str(source) in sentence and "convolution 0 would keep no channel" in sentence


def test_student_of_masked_prediction_is_written_for_distillation(tmp_path):
    """Its labels are not needed to load what is left."""
    source, out = tmp_path / "stage1.pt", tmp_path / "pruned.pt"
    write_student(source, task="hubert_pretraining")
    assert main(["prune", str(source), str(out)]) == 0
    (student,), cfg, _ = checkpoint_utils.load_model_ensemble_and_task([str(out)])
    assert cfg.task._name == "speech_distillation" and cfg.task.sample_rate == 16_000
    assert relative_error(load_encoder(source), student.eval()) < 1e-5


def test_fine_tuned_student_is_pruned_without_its_recogniser(tmp_path):
    """fairseq's CTC model has the student inside, without the distillation heads that it dropped."""
    source, out = tmp_path / "ctc.pt", tmp_path / "pruned.pt"
    write_student(tmp_path / "stage1.pt")
    state = read_pickled(tmp_path / "stage1.pt")
    kept = {
        key: value for key, value in state["model"].items() if not key.startswith(("prediction_head.", "size_loss."))
    }
    weights = {f"w2v_encoder.w2v_model.{key}": value for key, value in kept.items()}
    weights["w2v_encoder.proj.weight"] = torch.ones(5, 12)
    model = {"_name": "hubert_ctc", "w2v_path": "/nowhere.pt", "w2v_args": state["cfg"]}
    torch.save({**state, "cfg": {"model": model, "task": {"_name": "audio_finetuning"}}, "model": weights}, source)
    assert main(["prune", str(source), str(out)]) == 0
    assert relative_error(load_encoder(source), load_encoder(out)) < 1e-5
    (student,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(out)])
    assert relative_error(load_encoder(source), student.eval()) < 1e-5
