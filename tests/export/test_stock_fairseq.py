"""`export --format fairseq`: what stock fairseq, torchaudio, RVC's and s3prl's calls make of the file, without us."""

import importlib.util
import json

import pytest
import torch
from fairseq.models.hubert.hubert import HubertModel
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.cli.main import main
from fairseq_distill.export import stock_fairseq

from ..builders import LARGE, build_multitask
from ..checkpoints import layouts
from .students import KINDS, run_without_plugin, save_expected, write_student

STOCK = {name: settings for name, (settings, chosen) in KINDS.items() if chosen == "fairseq"}


def export(source, output, capsys, chosen="fairseq"):
    """What the command prints as JSON."""
    assert main(["export", str(source), str(output), "--format", chosen, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", STOCK)
@torch.no_grad()
def test_stock_models_give_the_same_to_the_last_bit(kind, tmp_path, capsys):
    source, output = tmp_path / "student.pt", tmp_path / "stock.pt"
    write_student(source, **STOCK[kind])
    found = export(source, output, capsys)
    bar = 1e-6 if kind == "data2vec" else 0.0  # its norm without weights is another kernel
    assert all(0 <= value <= bar for value in found["largest_difference"].values())
    # not the reader of the command: the class built by hand, from the file's own settings
    state = torch.load(output, weights_only=True)
    model_settings = {key: value for key, value in state["cfg"]["model"].items() if key != "_name"}
    if found["model"] == "hubert":
        cfg = layouts.HubertConfig(**model_settings)
        model = HubertModel(cfg, layouts.SimpleNamespace(**state["cfg"]["task"]), state["task_state"]["dictionaries"])
    elif found["model"] == "wav2vec2":
        model = Wav2Vec2Model(layouts.Wav2Vec2Config(**model_settings))
    else:
        model = layouts.build_data2vec(**model_settings)
    assert found["model"] == state["cfg"]["model"]["_name"]
    model.load_state_dict(state["model"], strict=True)
    encoder = load_encoder(source)
    for samples in (61, 101, 1713, 4000):  # one frame, two, odd and even numbers
        wave = torch.randn(1, samples, generator=torch.Generator().manual_seed(samples))
        prepared = torch.nn.functional.layer_norm(wave, wave.shape) if encoder.normalize_input else wave
        states = stock_fairseq.run_stock(model.eval(), prepared, None)
        out = encoder(wave)
        for theirs, ours in zip(states, [*out.hidden, out.x]):
            assert theirs.shape == ours.shape and (theirs - ours).norm() <= bar * ours.norm()


READ_WITH_STOCK = """
import importlib, sys, torch
from fairseq import checkpoint_utils
importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")
for path in sys.argv[1:]:
    expected = torch.load(path + ".expected")
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], suffix="")
    name = type(model.eval()).__name__
    wave = expected["waves"][1][None]
    wave = torch.nn.functional.layer_norm(wave, wave.shape) if cfg.task.normalize else wave
    with torch.no_grad():
        if name == "HubertModel":  # as RVC and so-vits-svc call it
            x, mask = model.extract_features(source=wave, padding_mask=torch.zeros_like(wave).bool(), output_layer=9)
            assert torch.equal(x, expected["alone"][-2]) and torch.equal(model.final_proj(x), x)
            x, _ = model.extract_features(source=wave, output_layer=1)
            assert torch.equal(x, expected["alone"][1])
            x, _ = model.extract_features(source=wave)
        else:
            x = model.extract_features(source=wave, padding_mask=None)["x"]
            assert torch.equal(model.final_proj(x), x)
        difference = (x - expected["alone"][-1]).norm() / x.norm()
        assert difference <= (1e-6 if name == "Data2VecAudioModel" else 0), (path, difference)
        if model.post_extract_proj is not None and name != "Data2VecAudioModel":  # torchaudio knows no other
            from torchaudio.models.wav2vec2.utils import import_fairseq_model
            hidden, _ = import_fairseq_model(model).eval().extract_features(wave)
            assert len(hidden) == 2 and all(torch.equal(a, b) for a, b in zip(hidden, expected["alone"][1:]))
    print(name, type(task).__name__, cfg.task.sample_rate)
"""


def test_files_open_without_the_plugin(tmp_path, capsys):
    """In stock fairseq, in torchaudio's importer, and by the calls of RVC."""
    models = {
        "hubert": "HubertModel HubertPretrainingTask 8000",
        "large": "HubertModel HubertPretrainingTask 16000",
        "wav2vec2": "Wav2Vec2Model AudioPretrainingTask 16000",
        "data2vec": "Data2VecAudioModel AudioPretrainingTask 16000",
        "no projection": "HubertModel HubertPretrainingTask 16000",
    }
    for kind, names in models.items():
        write_student(tmp_path / "student.pt", **STOCK[kind], sample_rate=int(names.split()[-1]))
        export(tmp_path / "student.pt", tmp_path / kind, capsys)
        save_expected(tmp_path / f"{kind}.expected", load_encoder(tmp_path / "student.pt"))
    printed = run_without_plugin(READ_WITH_STOCK, *(tmp_path / kind for kind in models))
    assert [line for line in printed.splitlines() if "Model " in line] == list(models.values())


READ_WITH_S3PRL = """
import sys, types, torch, torchaudio
for name in ("set_audio_backend", "sox_effects"):  # s3prl asks older torchaudios for them
    if not hasattr(torchaudio, name):
        setattr(torchaudio, name, lambda *arguments: None)
sys.modules.setdefault("torchaudio.sox_effects", types.SimpleNamespace())
from s3prl.upstream.hubert.hubconf import hubert_custom
from s3prl.upstream.wav2vec2.hubconf import wav2vec2_custom
from s3prl.upstream.wavlm.hubconf import wavlm_local
for path in sys.argv[1:]:
    expected = torch.load(path + ".expected")
    if "wavlm" in path:
        upstreams = [wavlm_local(path)]
    else:
        custom = wav2vec2_custom if "wav2vec2" in path else hubert_custom
        upstreams = [custom(path, legacy=True), custom(path, fairseq=True)]
    valid = ~expected["frame_mask"]
    for upstream in upstreams:
        with torch.no_grad():
            hidden = upstream.eval()(expected["waves"])["hidden_states"]
        ours = [*expected["padded"][:-2], expected["padded"][-1]]  # the final output is in the last layer's place
        assert len(hidden) == len(ours) == 3
        for a, b in zip(hidden, ours):
            difference = (a[:, : valid.size(1)][valid] - b[valid]).norm() / b[valid].norm()
            # waves are normalised in another order, and Microsoft's attention is written out
            assert difference <= (1e-5 if "wavlm" in path else 1e-6 if "large" in path else 0), (path, difference)
    print("ways", len(upstreams))
"""


def test_s3prl_reads_files_in_each_of_its_ways(tmp_path, capsys):
    if importlib.util.find_spec("s3prl") is None:
        pytest.skip("s3prl is not installed")
    kinds = ["hubert", "large", "wav2vec2", "wavlm", "wavlm large"]
    for kind in kinds:
        settings, chosen = KINDS[kind]
        write_student(tmp_path / "student.pt", **settings)
        export(tmp_path / "student.pt", tmp_path / f"{kind}.pt", capsys, chosen)
        save_expected(tmp_path / f"{kind}.pt.expected", load_encoder(tmp_path / "student.pt"))
    printed = run_without_plugin(READ_WITH_S3PRL, *(tmp_path / f"{kind}.pt" for kind in kinds))
    assert [line for line in printed.splitlines() if line.startswith("ways")] == ["ways 2"] * 3 + ["ways 1"] * 2


def test_the_file_says_what_the_student_says(tmp_path, capsys):
    source, output = tmp_path / "student.pt", tmp_path / "stock.pt"
    write_student(source, sample_rate=8_000, label_rate=100.0, dropout=0.2, encoder_layerdrop=0.05, normalize=True)
    found = export(source, output, capsys)
    assert (found["sample_rate"], found["normalize"], found["layers"], found["width"]) == (8_000, True, 2, 48)
    assert found["left_out"] == ["prediction_head (2)"] and found["final_proj"].startswith("identity")
    before, after = read_checkpoint(source), read_checkpoint(output)
    assert after.name == "hubert" and after.sample_rate == 8_000 and after.config.normalize
    heads = {"final_dim": 48, "latent_temp": after.config.latent_temp, "required_seq_len_multiple": 1}
    kept = {key: value for key, value in vars(before.config).items() if key not in ("_name", *heads)}
    assert {key: value for key, value in vars(after.config).items() if key in kept} == kept
    assert after.settings["task"]["label_rate"] == after.settings["model"]["label_rate"] == 100.0
    for key, value in load_encoder(source).state_dict().items():
        assert torch.equal(after.weights[key], value), key


@pytest.mark.parametrize("family", ["hubert", "wav2vec2"])
def test_fine_tuning_takes_it(family, tmp_path, capsys):
    source, output = tmp_path / "student.pt", tmp_path / "stock.pt"
    write_student(source, family=family)
    export(source, output, capsys)
    name = {"hubert": "hubert_ctc", "wav2vec2": "wav2vec_ctc"}[family]
    settings = {**layouts.fine_tuned_settings(name, False, None), "w2v_path": str(output), "ddp_backend": "c10d"}
    task = {"hubert": layouts.hubert_task(False), "wav2vec2": {"_name": "audio_finetuning", "labels": "ltr"}}[family]
    state = {"target_dictionary": layouts.build_dictionary(9)}
    cfg = layouts.OmegaConf.merge(layouts.OmegaConf.structured(layouts.MODEL_DATACLASS_REGISTRY[name]), {})
    with layouts.open_dict(cfg):
        cfg.update(settings)
    setup = {"data": "/nowhere", "sample_rate": 16_000, "normalize": False, **task, "fine_tuning": family == "hubert"}
    if family == "wav2vec2":
        del setup["fine_tuning"]
    stock_task = layouts.tasks.setup_task(layouts.OmegaConf.create(setup))
    stock_task.load_state_dict(state)
    model = {"hubert": layouts.HubertCtc, "wav2vec2": layouts.Wav2VecCtc}[family].build_model(cfg, stock_task)
    inner = model.w2v_encoder.w2v_model
    weight = "encoder.layers.1.fc2.weight"
    assert torch.equal(inner.state_dict()[weight], load_encoder(source).state_dict()[weight])
    waves = torch.randn(2, 4000)
    out = model.eval()(source=waves, padding_mask=torch.zeros(2, 4000, dtype=torch.bool))["encoder_out"]
    assert out.shape == (99, 2, len(state["target_dictionary"]))


TEACHERS = {
    "HuBERT": (lambda: layouts.build_hubert(), layouts.write_hubert, "hubert", "of the checkpoint"),
    "wav2vec 2.0, argparse": (
        lambda: layouts.build_wav2vec2(**LARGE),
        layouts.write_argparse_wav2vec2,
        "wav2vec2",
        "of the checkpoint",
    ),
    "data2vec": (lambda: layouts.build_data2vec(), layouts.write_data2vec, "data2vec_audio", "of the checkpoint"),
    "hubert_ctc": (lambda: layouts.build_hubert(), layouts.write_hubert_ctc, "hubert", "identity"),
}


@pytest.mark.parametrize("kind", TEACHERS)
@torch.no_grad()
def test_teachers_and_fine_tuned_models_are_written_without_their_heads(kind, tmp_path, capsys):
    build, write, name, projection = TEACHERS[kind]
    model = build()
    source, output = write(tmp_path / "teacher.pt", model, False), tmp_path / "stock.pt"
    found = export(source, output, capsys)
    assert found["model"] == name and found["final_proj"].startswith(projection)
    state = torch.load(output, weights_only=True)["model"]
    if projection == "of the checkpoint":
        assert torch.equal(state["final_proj.weight"], model.final_proj.weight)
        assert not any(left.startswith("final_proj") for left in found["left_out"])
    waves, mask = torch.randn(2, 4000), torch.arange(4000) >= torch.tensor([[4000], [2500]])
    ours, theirs = (load_encoder(path)(waves, padding_mask=mask) for path in (output, source))
    assert all(torch.equal(a, b) for a, b in zip(ours.hidden, theirs.hidden))
    if kind == "hubert_ctc":
        assert "w2v_encoder.proj (2)" in found["left_out"]


def test_a_multitask_model_gives_its_encoder(tmp_path, capsys):
    source, output = tmp_path / "multitask.pt", tmp_path / "stock.pt"
    model = build_multitask()
    saved = layouts.hydra_cfg("speech_multitask", model.cfg, {"_name": "speech_multitask", "normalize": False})
    layouts.write_fairseq(source, model.state_dict(), cfg=saved)
    found = export(source, output, capsys)
    assert found["model"] == "hubert" and "heads" in found["left_out"][1]
    weights = torch.load(output, weights_only=True)["model"]
    assert torch.equal(weights["encoder.layers.0.fc1.weight"], model.encoder.encoder.layers[0].fc1.weight)
    adapted = layouts.hydra_cfg("speech_multitask", model.cfg, {"normalize": False}, adapter=8)
    layouts.write_fairseq(source, model.state_dict(), cfg=adapted)
    assert main(["export", str(source), str(tmp_path / "adapted.pt"), "--format", "fairseq"]) == 1
    assert "model.adapter=8" in capsys.readouterr().err and not (tmp_path / "adapted.pt").exists()


def test_its_size_is_that_of_its_weights(tmp_path, capsys):
    """Weights are mapped from the source: none may bring the whole file, and data2vec's average is the encoder's."""
    for kind in ("hubert", "data2vec"):
        source, output = tmp_path / "student.pt", tmp_path / f"{kind}.pt"
        write_student(source, **STOCK[kind])
        export(source, output, capsys)
        weights = torch.load(output, weights_only=True)["model"]
        expected = sum(4 * value.numel() for key, value in weights.items() if key != "_ema")
        assert expected < output.stat().st_size < 1.1 * expected + 50_000
