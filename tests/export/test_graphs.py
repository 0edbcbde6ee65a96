"""`export --format onnx | pt2 | torchscript`: students of every shape, run without this package, beside it."""

import json

import numpy as np
import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.cli.main import main
from fairseq_distill.export import onnx_file, torchscript

from ..builders import LARGE, WAVLM
from .students import run_without_plugin, write_student

UNEVEN = dict(layer_heads=[0, 3], layer_ffn_dims=[7, 0])
SHAPES = {
    "hubert": {},
    "normalised large": dict(LARGE, normalize=True),
    "wav2vec2": dict(family="wav2vec2", conv_bias=True),
    "data2vec": dict(family="data2vec", pos_conv_depth=3, extractor_mode="layer_norm"),
    "batch norm": dict(conv_pos_batch_norm=True),
    "uneven wavlm": {**UNEVEN, **WAVLM},
    "time reduction": dict(time_reduction=3),
    "maps reused": dict(reuse_attention=[2], **LARGE),
}
# exports take some ten seconds each: what makes graphs differ most
DYNAMIC = {
    "uneven wavlm": dict(UNEVEN, normalize=True, **WAVLM),
    "time reduction and maps reused": dict(time_reduction=3, reuse_attention=[2]),
}
LENGTHS = [[1501], [3712, 2000, 1307]]
RUN = {
    "onnx": """
import sys, numpy as np, onnxruntime
path, given, out = sys.argv[1:]
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
given = np.load(given)
results = {}
for index in range(2):
    feed = {name: given[f"{name}{index}"] for name in ("waves", "lengths") if index or name == "waves"}
    for name, value in zip(["x", "hidden"], session.run(None, feed)):
        results[f"{name}{index}"] = value
np.savez(out, **results)
assert "torch" not in sys.modules
""",
    "pt2": """
import sys, numpy as np, torch
path, given, out = sys.argv[1:]
program, given, results = torch.export.load(path).module(), np.load(given), {}
for index in range(2):
    states = program(*(torch.from_numpy(given[f"{name}{index}"]) for name in ("waves", "lengths")))
    for name, value in zip(["x", "hidden"], states):
        results[f"{name}{index}"] = value.detach().numpy()
np.savez(out, **results)
""",
    "torchscript": """
import sys, numpy as np, torch
path, given, out = sys.argv[1:]
waves = torch.from_numpy(np.load(given)["waves0"])
with torch.no_grad():
    x, hidden = torch.jit.load(path)(waves)
np.savez(out, x0=x.numpy(), hidden0=hidden.numpy())
""",
}


def need_onnx():
    """Skip where what writes and runs ONNX is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name}, which --format onnx needs, is not installed")


def export(source, output, chosen, *options):
    """The command's exit code."""
    return main(["export", str(source), str(output), "--format", chosen, *options])


@torch.no_grad()
def check_runtime(chosen, source, output, tmp_path, bar, lengths=LENGTHS):
    """Run the file in a process without this package: each wave gives what it gives our encoder alone."""
    generator = np.random.default_rng(0)
    given = {}
    for index, counts in enumerate(lengths):
        waves = 3 + generator.standard_normal((len(counts), max(counts))).astype(np.float32)
        for wave, count in zip(waves, counts):
            wave[count:] = 100  # padding may hold anything
        given.update({f"waves{index}": waves, f"lengths{index}": np.array(counts)})
    np.savez(tmp_path / "given.npz", **given)
    run_without_plugin(RUN[chosen], output, tmp_path / "given.npz", tmp_path / "out.npz")
    out, encoder = np.load(tmp_path / "out.npz"), load_encoder(source)
    for index, counts in enumerate(lengths):
        for row, count in enumerate(counts):
            alone = encoder(torch.from_numpy(given[f"waves{index}"][row : row + 1, :count]))
            frames = alone.x.size(1)
            theirs = [out[f"x{index}"][row, :frames], *out[f"hidden{index}"][:, row, :frames]]
            for a, b in zip(theirs, [alone.x, *alone.hidden]):
                assert np.linalg.norm(a - b[0].numpy()) <= bar * float(b.norm())


@pytest.mark.parametrize("kind", SHAPES)
def test_torchscript_gives_the_same_bits_at_any_length(kind, tmp_path, capsys):
    write_student(tmp_path / "s.pt", **SHAPES[kind])
    assert export(tmp_path / "s.pt", tmp_path / "s.ts", "torchscript", "--hidden-states", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_difference"] == {"alone": 0.0, "padded": None}
    assert found["bytes"] == (tmp_path / "s.ts").stat().st_size > 100_000
    encoder, program = load_encoder(tmp_path / "s.pt"), torch.jit.load(str(tmp_path / "s.ts"))
    for batch, samples in ((1, encoder.cfg.shortest_wave), (3, 3333)):
        waves = 3 + torch.randn(batch, samples, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            (x, hidden), ours = program(waves), encoder(waves)
        assert torch.equal(x, ours.x) and torch.equal(hidden, torch.stack(ours.hidden))


def test_torchscript_runs_without_this_package(tmp_path):
    write_student(tmp_path / "s.pt", **SHAPES["uneven wavlm"])
    assert export(tmp_path / "s.pt", tmp_path / "s.ts", "torchscript", "--hidden-states") == 0
    check_runtime("torchscript", tmp_path / "s.pt", tmp_path / "s.ts", tmp_path, 1e-6, LENGTHS[:1])


@pytest.mark.parametrize("kind", DYNAMIC)
def test_pt2_takes_any_batch_and_length(kind, tmp_path, capsys):
    write_student(tmp_path / "s.pt", **DYNAMIC[kind])
    assert export(tmp_path / "s.pt", tmp_path / "s.pt2", "pt2", "--hidden-states", "--json") == 0
    found = json.loads(capsys.readouterr().out)["largest_difference"]
    assert 0 <= found["alone"] < 1e-5 and 0 <= found["padded"] < 1e-5
    check_runtime("pt2", tmp_path / "s.pt", tmp_path / "s.pt2", tmp_path, 1e-5)


@pytest.mark.parametrize("kind", DYNAMIC)
def test_onnx_takes_any_batch_and_length_in_onnxruntime(kind, tmp_path, capsys):
    need_onnx()
    write_student(tmp_path / "s.pt", **DYNAMIC[kind])
    assert export(tmp_path / "s.pt", tmp_path / "s.onnx", "onnx", "--hidden-states", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["opset"] == 20 and all(0 <= value < 1e-5 for value in found["largest_difference"].values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.onnx", "s.pt"], "one file"
    check_runtime("onnx", tmp_path / "s.pt", tmp_path / "s.onnx", tmp_path, 1e-5)


def test_int8_is_smaller_and_says_how_far_it_is(tmp_path, capsys):
    need_onnx()
    import onnx

    wide = dict(encoder_layers=1, encoder_embed_dim=96, encoder_ffn_embed_dim=512, prediction_layers="[[1]]")
    write_student(tmp_path / "s.pt", **wide)
    sizes, kinds = {}, {}
    for options in ([], ["--quantize", "int8"]):
        assert export(tmp_path / "s.pt", tmp_path / "s.onnx", "onnx", "--json", *options) == 0
        found = json.loads(capsys.readouterr().out)
        sizes[found["quantized"]], difference = found["bytes"], found["largest_difference"]["alone"]
        nodes = onnx.load(tmp_path / "s.onnx").graph.node
        kinds[found["quantized"]] = {node.op_type for node in nodes}
    assert sizes["int8"] < 0.7 * sizes[None] and 1e-4 < difference < 0.5
    assert "MatMulInteger" in kinds["int8"] and not {"ConvInteger", "MatMulInteger"} & kinds[None]
    assert "Conv" in kinds["int8"] and "ConvInteger" not in kinds["int8"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.onnx", "s.pt"]


@pytest.mark.parametrize("chosen", ["onnx", "pt2", "torchscript"])
def test_gates_that_are_not_cut_are_refused(chosen, tmp_path, capsys):
    write_student(tmp_path / "s.pt", prune=["heads"], target_sparsity=0.1)
    assert export(tmp_path / "s.pt", tmp_path / "out", chosen) == 1
    assert "prune=['heads']; cut the gates first" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_options_of_other_formats_and_missing_libraries_are_named(tmp_path, capsys, monkeypatch):
    write_student(tmp_path / "s.pt")
    assert export(tmp_path / "s.pt", tmp_path / "out", "fairseq", "--hidden-states") == 1
    assert "--hidden-states is no option of --format fairseq" in capsys.readouterr().err
    assert export(tmp_path / "s.pt", tmp_path / "out", "pt2", "--quantize", "int8") == 1
    assert "--quantize is no option of --format pt2" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert export(tmp_path / "s.pt", tmp_path / "out", "onnx") == 1
    assert "pip install 'fairseq-distill[export]'" in capsys.readouterr().err
    monkeypatch.setattr(onnx_file, "_LARGEST_FILE", 1000)
    assert export(tmp_path / "s.pt", tmp_path / "out", "onnx") == 1
    assert "an ONNX file holds 2.1" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["s.pt"]


def test_a_program_that_differs_is_not_put_in_place(tmp_path, capsys, monkeypatch):
    write_student(tmp_path / "s.pt")
    write = torchscript.write

    def write_wrong(source, path):
        bias = source.encoder.encoder.layers[1].fc2.bias
        with torch.no_grad():
            bias[0] += 0.01
            write(source, path)
            bias[0] -= 0.01

    monkeypatch.setattr(torchscript, "write", write_wrong)
    assert export(tmp_path / "s.pt", tmp_path / "out.ts", "torchscript") == 1
    error = capsys.readouterr().err
    assert "it differs from" in error and "more than 0" in error and "padded" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["s.pt"]
