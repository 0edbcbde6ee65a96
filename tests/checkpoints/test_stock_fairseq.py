"""Side by side with stock fairseq: it reads its own files again; on a real teacher our reader gives what it gives."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from fairseq import checkpoint_utils
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints import safe_load
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig

from ..builders import LARGE
from . import layouts, make_fixtures
from .comparing import assert_same, run_stock

FIXTURES = sorted(make_fixtures.FOLDER.glob("*.pt"))
READ = """
import sys
from fairseq import checkpoint_utils
for path in sys.argv[1:]:
    state = checkpoint_utils.load_checkpoint_to_cpu(path)
    print("read", state["cfg"].model._name, len(state["model"]))
"""


def run_python(program, *arguments):
    """Run a program on this checkout."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_importing_the_plugin_lets_stock_fairseq_read_its_own_files(tmp_path):
    hubert = layouts.write_hubert(tmp_path / "hubert.pt", layouts.build_hubert())
    ctc = layouts.write_wav2vec_ctc(tmp_path / "ctc.pt", layouts.build_wav2vec2())
    plugged = run_python("import fairseq_distill" + READ, hubert, ctc, *FIXTURES[:1])
    assert plugged.returncode == 0, plugged.stderr
    assert [line.split()[1] for line in plugged.stdout.splitlines()] == ["hubert", "wav2vec_ctc", "wav2vec_ctc"]
    unsafe = "weights_only=False" in inspect.getsource(checkpoint_utils.load_checkpoint_to_cpu)
    if torch.__version__ >= (2, 6) and not unsafe:
        alone = run_python(READ, hubert)
        assert alone.returncode != 0 and "Unsupported global" in alone.stderr


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("reader", ["weights_only", "restricted"])
@torch.no_grad()
def test_settings_pickled_by_any_omegaconf_are_read(path, reader, monkeypatch):
    monkeypatch.setattr(
        safe_load, "_HAS_NAMED_ALLOW_LIST", safe_load._HAS_NAMED_ALLOW_LIST and reader == "weights_only"
    )
    state = safe_load.read_pickled(path)
    cfg = safe_load.to_plain(state["cfg"])
    assert cfg["model"]["w2v_args"]["task"]["labels"] == ["ltr", "wrd"]
    assert "2.0" not in path.stem or cfg["optimizer"] == {"lr": [1e-4], "optimizer": "adam"}
    encoder = load_encoder(path)
    model = Wav2Vec2Model(Wav2Vec2Config(quantize_targets=True, **make_fixtures.SHAPE)).eval()
    prefix = "w2v_encoder.w2v_model."
    weights = {key[len(prefix) :]: value for key, value in state["model"].items() if key.startswith(prefix)}
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    for padded in (False, True):
        assert_same(encoder, model, False, padded)


def test_both_omegaconfs_are_there():
    assert [path.stem.split("_")[-1][:3] for path in FIXTURES] == ["2.0", "2.3"]


@torch.no_grad()
def test_a_student_of_ours(tmp_path, caplog):
    groups = dict(prediction_groups="[[1],[2]]", prediction_layers="[[1],[2]]", prediction_dim=20)
    shape = dict(layouts.SMALL, encoder_layers=2, head_dim=6, layer_heads=[8, 3], layer_ffn_dims=[80, 11])
    cfg = SpeechStudentConfig(family="wav2vec2", normalize=True, **LARGE, **shape, **groups)
    student = layouts.randomize(SpeechStudent(cfg))
    task = {"_name": "speech_distillation", "normalize": True, "teacher": "/nowhere/teacher.pt"}
    saved = layouts.hydra_cfg("speech_student", cfg, task)
    path = layouts.write_fairseq(tmp_path / "student.pt", student.state_dict(), cfg=saved)
    with caplog.at_level("INFO", logger="fairseq_distill"):
        encoder = load_encoder(path)
    assert "left out: prediction_head (4)" in caplog.text
    assert encoder.cfg.family == "wav2vec2" and encoder.cfg.heads == [8, 3] and encoder.cfg.ffn_dims == [80, 11]
    assert encoder.normalize_input
    student.normalize_input = True
    waves = torch.randn(2, 4000)
    mask = torch.arange(4000) >= torch.tensor([[4000], [2500]])
    ours, theirs = encoder(waves, padding_mask=mask), student.encode(waves, mask)
    for one, other in zip(ours.hidden, theirs.hidden):
        assert torch.equal(one, other)


@torch.no_grad()
def test_a_real_teacher_equals_stock_fairseq(shared_data):
    path = shared_data / "teacher" / "hubert_small.pt"
    state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    config = layouts.HubertConfig(**{key: value for key, value in state["cfg"]["model"].items() if key != "_name"})
    stock = layouts.HubertModel(config, state["cfg"]["task"], state["task_state"]["dictionaries"]).eval()
    stock.load_state_dict({key: value.float() for key, value in state["model"].items()})
    encoder = load_encoder(path)
    manifest = shared_data / "speech" / "manifest" / "librispeech" / "test.tsv"
    root, *rows = manifest.read_text().splitlines()
    wave = torch.from_numpy(soundfile.read(manifest.parent / root / rows[0].split("\t")[0], dtype="float32")[0])[None]
    x, _, hidden = run_stock(stock, wave, None, normalize=state["cfg"]["task"]["normalize"])
    out = encoder(wave)
    for ours, theirs in zip([out.x, *out.hidden], [x, *hidden]):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert read_checkpoint(path).config.encoder_layers == len(hidden) - 1 == 12
