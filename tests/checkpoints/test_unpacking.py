"""Encoders inside other models, behind wrappers, in other tools' files and saved again by other hands."""

import copy
from argparse import Namespace

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.cli.info import describe
from fairseq_distill.errors import UserError

from ..builders import LARGE
from . import layouts
from .comparing import assert_same

BUILD = {"hubert": layouts.build_hubert, "wav2vec2": layouts.build_wav2vec2, "data2vec_audio": layouts.build_data2vec}
TASKS = {
    "hubert": layouts.hubert_task(True),
    "wav2vec2": {"_name": "audio_pretraining", "normalize": True},
    "data2vec_audio": {"_name": "audio_pretraining", "normalize": True},
}


def make_cfg(name, model):
    """A run's settings; waves are normalised, so that a lost task section shows."""
    return layouts.hydra_cfg(name, model.cfg, TASKS[name])


def left_out(path, caplog):
    with caplog.at_level("INFO", logger="fairseq_distill"):
        load_encoder(path)
    return [record.getMessage().split("left out: ") for record in caplog.records][-1][1]


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "model.",
        "model.module.",
        "_forward_module.model.",
        "speech.front.",
    ],
)
@torch.no_grad()
def test_wrapped_weights_with_the_settings_of_the_model_inside(prefix, tmp_path, caplog):
    model = layouts.build_wav2vec2(**LARGE)
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    around = "" if set(prefix.strip(".").split(".")) <= {"module", "_orig_mod"} else "layer_norm (1), "
    if around:  # what is called as a part of the encoder, and stands beside it
        weights["layer_norm.weight"] = torch.full((7,), 3.0)
    path = layouts.write_fairseq(tmp_path / "wrapped.pt", weights, cfg=make_cfg("wav2vec2", model))
    assert left_out(path, caplog) == f"final_proj (2), {around}project_q (2), quantizer (3)"
    assert_same(load_encoder(path), model, True, padded=True)


@torch.no_grad()
def test_wrappers_inside_names(tmp_path):
    """torch.compile and sharding of single layers, DataParallel around the encoder of a fine-tuned model."""
    model = layouts.build_hubert()
    path = layouts.write_hubert_ctc(tmp_path / "ctc.pt", model)
    state = torch.load(path, weights_only=False)
    renamed = {}
    for key, value in state["model"].items():
        key = key.replace("layers.1.", "layers.1._fsdp_wrapped_module._checkpoint_wrapped_module.")
        renamed[key.replace("w2v_model.", "module.w2v_model._orig_mod.")] = value
    torch.save({**state, "model": renamed}, path)
    assert_same(load_encoder(path), model, False, padded=True)
    twice = {**renamed, "w2v_encoder.w2v_model.mask_emb": torch.zeros(48)}
    torch.save({**state, "model": twice}, path)
    with pytest.raises(UserError, match=r"holds w2v_encoder.w2v_model.mask_emb twice"):
        load_encoder(path)


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize(
    "place", ["encoder.w2v_model.", "w2v_encoder.w2v_model.", "encoder.w2v_encoder.w2v_model.", "front.deep.net."]
)
@torch.no_grad()
def test_an_encoder_inside_another_model_has_the_settings_inside(place, name, tmp_path, caplog):
    """`wav2vec_seq2seq`, CTC, `xm_transformer`, `audio_classification`, and what people build."""
    model = BUILD[name](**LARGE)
    inner = make_cfg(name, model)
    kept = {key: value for key, value in model.state_dict().items() if key != "_ema"}
    weights = {place + key: value for key, value in kept.items()}
    weights.update({"decoder.embed_tokens.weight": torch.zeros(2, 3), "encoder.proj.weight": torch.zeros(2, 2)})
    where = {"w2v_args": inner} if "w2v" in place else {"parts": {"audio": {"d2v": inner}}, "encoder_layers": 9}
    outer = {"_name": "wav2vec_seq2seq", "normalize": False, "layer_norm_first": False, **where}
    cfg = {"model": outer, "task": {"_name": "audio_finetuning", "normalize": False}}
    path = layouts.write_fairseq(tmp_path / "outer.pt", weights, cfg=cfg)
    assert left_out(path, caplog).startswith("decoder (1), encoder.proj (1), final_proj (2)")
    checkpoint = read_checkpoint(path)
    assert checkpoint.name == name and checkpoint.settings["task"]["_name"] == inner["task"]["_name"]
    assert_same(load_encoder(path), model, True, padded=True)
    parameters = sum(value.numel() for value in weights.values())
    assert describe(str(path))["parameters"]["with_heads"] == parameters  # what is around counts too


@torch.no_grad()
def test_layers_that_fine_tuning_adds_to_an_encoder_of_the_argparse_era(tmp_path):
    """fairseq hands `layer_type` on to the encoder inside, whose settings are one namespace."""
    model = layouts.build_wav2vec2(**LARGE)
    path = layouts.write_wav2vec_ctc(tmp_path / "ctc.pt", model, True, argparse_era=True)
    state = torch.load(path, weights_only=False)
    state["args"].layer_type = "transformer"
    torch.save(state, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.settings == {} and "context_window" not in checkpoint.unknown
    assert_same(load_encoder(path), model, True, padded=True)
    state["args"].layer_type = "trf_adp"
    torch.save(state, path)
    with pytest.raises(UserError, match="layer_type=trf_adp is not supported"):
        load_encoder(path)


def test_several_encoders_are_ambiguous_and_several_settings_too(tmp_path):
    model = layouts.build_hubert()
    weights = {place + key: value for place in ("student.", "teacher.") for key, value in model.state_dict().items()}
    path = layouts.write_fairseq(tmp_path / "two.pt", weights, cfg=make_cfg("hubert", model))
    with pytest.raises(UserError, match=r"holds 2 encoders, under student\., teacher\.: save the one that you mean"):
        load_encoder(path)
    one = {key: value for key, value in weights.items() if key.startswith("student.")}
    settings = {"_name": "pair", "one": make_cfg("hubert", model), "two": make_cfg("hubert", model)}
    layouts.write_fairseq(path, one, cfg={"model": settings, "task": {}})
    with pytest.raises(UserError, match=r"lacks the settings of the encoder inside it .*whose weights are student\.\*"):
        load_encoder(path)


@pytest.mark.parametrize("average", ["ema.", "model_ema.", "ema_model.module."])
@torch.no_grad()
def test_a_moving_average_beside_the_model_is_left_out(average, tmp_path, caplog):
    model, other = layouts.build_hubert(), layouts.build_hubert(mask_prob=0.1)
    for parameter in other.parameters():
        parameter.zero_()
    count = len(other.state_dict())
    for place in ("", "model."):
        weights = {place + key: value for key, value in model.state_dict().items()}
        weights.update({average + key: value for key, value in other.state_dict().items()})
        path = layouts.write_fairseq(tmp_path / "average.pt", weights, cfg=make_cfg("hubert", model))
        assert f"{average.split('.')[0]} ({count})" in left_out(path, caplog)
        assert_same(load_encoder(path), model, True, padded=False)


@torch.no_grad()
def test_the_average_that_fairseq_keeps_in_its_extra_state(tmp_path, caplog):
    """`ema.store_ema`: fairseq loads the model's own weights, and so do we."""
    model = layouts.build_hubert()
    path = layouts.write_hubert(tmp_path / "ema.pt", model, True)
    state = torch.load(path, weights_only=False)
    count = len(state["model"])
    for place, name in ((state["extra_state"], "ema"), (state, "model_ema")):
        place[name] = {key: torch.zeros_like(value) for key, value in state["model"].items()}
    torch.save(state, path)
    averages = f"extra_state.ema ({count}), final_proj (2), label_embs_concat (1), model_ema ({count})"
    assert left_out(path, caplog) == averages
    assert_same(load_encoder(path), model, True, padded=True)


@pytest.mark.parametrize("half", [False, True])
@torch.no_grad()
def test_weight_norm_that_was_taken_away(half, tmp_path):
    model = layouts.build_hubert()
    plain = copy.deepcopy(model)
    torch.nn.utils.remove_weight_norm(plain.encoder.pos_conv[0])
    plain.encoder.pos_conv[0].weight[:, :, 3] = 0  # a position that counts for nothing has no direction
    model.encoder.pos_conv[0].weight_g[:, :, 3] = 0
    assert "encoder.pos_conv.0.weight" in plain.state_dict()
    weights = plain.state_dict()
    if half:
        weights["encoder.pos_conv.0.weight"] = weights["encoder.pos_conv.0.weight"].half()
    path = layouts.write_fairseq(tmp_path / "plain.pt", weights, cfg=make_cfg("hubert", model))
    encoder = load_encoder(path)
    if not half:
        assert_same(encoder, model, True, padded=True)
    made = torch._weight_norm(*(encoder.state_dict()[f"encoder.pos_conv.0.weight_{kind}"] for kind in "vg"), 2)
    torch.testing.assert_close(made, weights["encoder.pos_conv.0.weight"].float(), rtol=1e-5, atol=1e-6)
    assert made[:, :, 3].abs().max() == 0 < made.abs().max()


@pytest.mark.parametrize("name", BUILD)
@torch.no_grad()
def test_the_form_that_s3prl_converts_to(name, tmp_path):
    model = BUILD[name](**LARGE)
    cfg = make_cfg(name, model)
    state = {"task_cfg": cfg["task"], "model_cfg": cfg["model"], "model_weight": model.state_dict()}
    if name == "hubert":
        state["dictionaries_symbols"] = [layouts.build_dictionary(12).symbols]
    torch.save(state, tmp_path / "converted.pt")
    checkpoint = read_checkpoint(tmp_path / "converted.pt")
    assert checkpoint.name == name and checkpoint.settings["model"]["_name"] == name
    assert_same(load_encoder(tmp_path / "converted.pt"), model, True, padded=True)


@pytest.mark.parametrize("where", ["cfg", "args", "hyper_parameters", "hyper_parameters.cfg"])
@torch.no_grad()
def test_lightning_files(where, tmp_path):
    model = layouts.build_wav2vec2(**LARGE)
    settings = make_cfg("wav2vec2", model)
    if where == "args":
        settings = layouts.argparse_settings(model, True)
    state = {"epoch": 3, "state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}}
    outer, _, inner = where.partition(".")
    state[outer] = {inner: settings, "lr": 1e-4} if inner else settings
    torch.save(state, tmp_path / "lightning.ckpt")
    assert_same(load_encoder(tmp_path / "lightning.ckpt"), model, True, padded=True)


WITHOUT_SETTINGS = {
    "bare": lambda weights: weights,
    "under model": lambda weights: {"model": weights},
    "under state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "under state_dict, other settings": lambda weights: {"state_dict": weights, "hyper_parameters": {"lr": 0.1}},
    "settings empty": lambda weights: {"model": weights, "args": Namespace(), "cfg": None},
}


@pytest.mark.parametrize("kind", WITHOUT_SETTINGS)
@torch.no_grad()
def test_weights_without_settings_are_refused_with_the_way_out(kind, tmp_path):
    model = layouts.build_hubert(**LARGE)
    path = tmp_path / "bare.pt"
    torch.save(WITHOUT_SETTINGS[kind](model.state_dict()), path)
    with pytest.raises(
        UserError, match=r"Weights do not tell _name, encoder_attention_heads, layer_norm_first"
    ) as refusal:
        load_encoder(path)
    assert "docs/checkpoints.md" in str(refusal.value) and len(str(refusal.value)) < 600
    cfg = make_cfg("hubert", model)
    torch.save({"cfg": {"model": cfg["model"], "task": {"normalize": True}}, "model": model.state_dict()}, path)
    assert_same(load_encoder(path), model, True, padded=True)
