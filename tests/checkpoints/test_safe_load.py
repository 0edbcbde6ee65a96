"""Reading a file runs nothing that it carries: torch's weights_only reader, and the one for older torch."""

import argparse
import pickle
import subprocess
import sys
import types

import numpy as np
import omegaconf
import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints import safe_load
from fairseq_distill.errors import UserError

from . import hostile, layouts


@pytest.fixture(params=["weights_only", "restricted"])
def reader(request, monkeypatch):
    """Both readers, whatever torch is installed."""
    if request.param == "weights_only" and not safe_load._HAS_NAMED_ALLOW_LIST:
        pytest.skip("torch before 2.6 has no allow-list by name")
    monkeypatch.setattr(safe_load, "_HAS_NAMED_ALLOW_LIST", request.param == "weights_only")
    return request.param


def put(bad, place, hubert):
    """A checkpoint with `bad` somewhere in it."""
    if place == "whole file":
        return bad
    cfg = layouts.hydra_cfg("hubert", hubert.cfg, layouts.hubert_task(False))
    state = {"args": None, "cfg": cfg, "model": hubert.state_dict(), "extra_state": {}}
    if place == "cfg":
        cfg["model"]["dropout"] = bad
    elif place == "weights":
        state["model"]["mask_emb"] = bad
    else:
        state["extra_state"]["best"] = bad
    return state


@pytest.fixture(scope="module")
def hubert():
    return layouts.build_hubert(encoder_layers=1)


@pytest.mark.parametrize("kind", hostile.ACTING)
def test_what_a_file_asks_for_is_refused_by_name_and_not_run(kind, reader, hubert, tmp_path):
    marker = tmp_path / "marker"
    make, name = hostile.ACTING[kind]
    path = tmp_path / "hostile.pt"
    for place in ("whole file", "cfg", "weights", "extra_state"):
        for zipped in (True, False):
            torch.save(put(make(str(marker)), place, hubert), path, _use_new_zipfile_serialization=zipped)
            with pytest.raises(UserError, match="is refused: it asks for .*which no checkpoint of fairseq") as refusal:
                load_encoder(path)
            assert name in str(refusal.value) and str(path) in str(refusal.value)
            assert not marker.exists() and "this" not in sys.modules


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_refused(protocol, reader, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "hostile.pt"
    for content in (hostile.Call(eval, f"open({str(marker)!r}, 'w')"), [hostile.SetsState(str(marker))]):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(UserError, match="builtins.eval|hostile.SetsState|copyreg._reconstructor"):
            load_encoder(path)
        assert not marker.exists()


@pytest.mark.parametrize("kind", hostile.MISUSING)
def test_allowed_names_cannot_be_misused(kind, reader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    acted = []
    register = getattr(OmegaConf, "register_new_resolver", None) or OmegaConf.register_resolver
    register("acting", acted.append)
    path = hostile.write_legacy(tmp_path / "hostile.pt", hostile.MISUSING[kind])
    try:
        with pytest.raises(UserError, match="hostile.pt"):
            load_encoder(path)
    finally:
        OmegaConf.clear_resolvers()
    assert not acted
    assert not hasattr(argparse.Namespace, "exploit") and not hasattr(torch._utils._rebuild_tensor_v2, "exploit")
    assert not any(hasattr(kind, "exploit") for kind in safe_load._STAND_INS.values())
    assert [file.name for file in tmp_path.iterdir()] == ["hostile.pt"]


def test_numpy_arrays_of_addresses_are_not_built(reader, tmp_path):
    addresses = hostile.Call(np.ndarray, (2,), np.dtype("O"), b"not a valid pointer.")
    path = tmp_path / "hostile.pt"
    torch.save({"model": {}, "extra": addresses, "best": np.float64(1.5)}, path)
    state = safe_load.read_pickled(path)
    assert isinstance(state["extra"], safe_load.Stored) and isinstance(state["best"], safe_load.Stored)


def test_scripted_programs_are_refused(reader, tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    with pytest.raises(UserError, match="TorchScript program"):
        load_encoder(path)


def test_real_settings_come_out_as_plain_values(reader, tmp_path):
    inner = argparse.Namespace(arch="wav2vec2", lr=[5e-4], betas=(0.9, 0.98))
    cfg = OmegaConf.create({"a": {"b": [1, {"c": None}], "later": "${a.b}"}, "f": 0.5, "t": True, "missing": "???"})
    torch.save(
        {"cfg": cfg, "args": argparse.Namespace(w2v_args=inner, data="/nowhere"), "again": [inner, inner]},
        tmp_path / "x",
    )
    state = safe_load.read_pickled(tmp_path / "x")
    assert safe_load.to_plain(state["cfg"]) == OmegaConf.to_container(cfg, resolve=False)
    expected = {"arch": "wav2vec2", "lr": [5e-4], "betas": [0.9, 0.98]}
    assert safe_load.to_plain(state["args"]) == {"w2v_args": expected, "data": "/nowhere"}
    assert safe_load.to_plain(state["again"]) == [expected, expected]


def test_small_files_of_endless_settings_end(reader, tmp_path):
    bomb = []
    for _ in range(9):
        bomb = [bomb] * 10  # a thousand million entries, if each were visited
    bomb[0].append(bomb)
    torch.save(
        {"model": {"mask_emb": torch.zeros(2)}, "cfg": {"model": {"_name": "hubert", "dropout": bomb}}}, tmp_path / "x"
    )
    with pytest.raises(UserError, match="dropout"):
        load_encoder(tmp_path / "x")


def test_the_allow_list_is_ours_alone_and_the_others_is_kept(tmp_path):
    if not safe_load._HAS_NAMED_ALLOW_LIST:
        pytest.skip("torch before 2.6 has no allow-list by name")
    path, marker = tmp_path / "hostile.pt", tmp_path / "marker"
    torch.save(hostile.Call(subprocess.Popen, ["touch", str(marker)]), path)
    with torch.serialization.safe_globals([subprocess.Popen]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(UserError, match="subprocess.Popen"):
            safe_load.read_pickled(path)
        assert set(torch.serialization.get_safe_globals()) == before and subprocess.Popen in before
    assert not marker.exists()


def test_the_list_for_stock_fairseq_holds_nothing_that_acts(tmp_path):
    if not safe_load._HAS_NAMED_ALLOW_LIST:
        pytest.skip("torch before 2.6 has no allow-list by name")
    allowed = torch.serialization.get_safe_globals()
    kinds = {kind if not isinstance(kind, tuple) else kind[0] for kind in allowed}
    for dangerous in (np.ndarray, type, object, getattr, type(np.dtype("O")), type(np.dtype("V8")), str, bytes):
        assert dangerous not in kinds
    assert {omegaconf.DictConfig, argparse.Namespace} <= kinds
    torch.save(hostile.Call(np.ndarray, (2,), np.dtype("O"), b"not a valid pointer."), tmp_path / "x")
    with pytest.raises(pickle.UnpicklingError, match="numpy.ndarray"):
        torch.load(tmp_path / "x", weights_only=True)


CONV_LAYERS = [
    "__import__('os').system('touch MARKER')",
    "[(16,10,5)] + [open('MARKER', 'w') and (1,1,1)]",
    "[(1,1,1) for _ in [open('MARKER', 'w')]]",
    "[(1,1,1)] * 10**9",
    "[(1,1,1)] * 1000000000",
    "[(1,1,1)] * 100 * 100",
    "(" * 4000,
    "-" * 9000 + "1",
    "[(1,1,1)]" + "+[(1,1,1)]" * 900,
    ["touch MARKER"],
    None,
]


@pytest.mark.parametrize("spec", CONV_LAYERS, ids=lambda spec: str(spec)[:30])
def test_convolution_layers_are_not_evaluated(spec, hubert, tmp_path):
    marker = tmp_path / "marker"
    spec = spec.replace("MARKER", str(marker)) if isinstance(spec, str) else spec
    cfg = layouts.hydra_cfg("hubert", hubert.cfg, layouts.hubert_task(False), conv_feature_layers=spec)
    path = layouts.write_fairseq(tmp_path / "hubert.pt", hubert.state_dict(), cfg=cfg)
    with pytest.raises(UserError, match="hubert.pt.*(conv_feature_layers|conv_layers)"):
        load_encoder(path)
    assert not marker.exists()


def test_convolution_layers_are_not_evaluated_by_the_registered_model(tmp_path):
    marker = tmp_path / "marker"
    spec = f"[(16,10,5)] + [open({str(marker)!r}, 'w') and (16,2,2)]"
    cfg = OmegaConf.create({"_name": "speech_student", "conv_feature_layers": spec})
    task = types.SimpleNamespace(cfg=types.SimpleNamespace(normalize=False), state=types.SimpleNamespace())
    with pytest.raises(UserError, match="conv_feature_layers"):
        build_model(cfg, task)
    assert not marker.exists()
