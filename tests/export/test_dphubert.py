"""`export --format dphubert`: students of any heads and neurons, read back; what the format has no place for."""

import json

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.cli.main import main

from ..builders import LARGE, WAVLM, make_waves
from .students import write_student

UNEVEN = dict(layer_heads=[0, 3], layer_ffn_dims=[7, 0])
SHAPES = {
    "hubert": {},
    "large": dict(LARGE, normalize=True),
    "wav2vec2": dict(family="wav2vec2", conv_bias=True),
    "wavlm": WAVLM,
    "wavlm large": dict(WAVLM, **LARGE),
    "no projection": dict(encoder_embed_dim=32),
    "head width": dict(head_dim=5),
    "scaled features": dict(scale_features=True),
    "uneven": UNEVEN,
    "uneven large": {**UNEVEN, **LARGE},
    "uneven the other way": dict(layer_heads=[2, 0], layer_ffn_dims=[0, 9], **LARGE),
    "uneven wavlm": {**UNEVEN, **WAVLM},
    "wavlm's heads by number": dict(WAVLM, layer_heads=[2, 1], layer_head_numbers="[[3,1],[2]]"),
}


@pytest.mark.parametrize("kind", SHAPES)
@torch.no_grad()
def test_it_is_read_back_with_the_same_features(kind, tmp_path, capsys):
    source, output = tmp_path / "student.pt", tmp_path / "student.pth"
    write_student(source, sample_rate=8_000, **SHAPES[kind])
    assert main(["export", str(source), str(output), "--format", "dphubert", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_difference"]["alone"] < 1e-6 and found["largest_difference"]["padded"] < 1e-6
    before, after = load_encoder(source), load_encoder(output)
    assert after.cfg.sample_rate == 8_000 and after.cfg.family == before.cfg.family
    assert after.normalize_input == before.normalize_input
    waves, mask = make_waves(padded=True)
    ours, theirs = (encoder(waves, padding_mask=mask) for encoder in (after, before))
    valid = ~theirs.padding_mask
    for a, b in zip([*ours.hidden, ours.x], [*theirs.hidden, theirs.x]):
        assert float((a - b)[valid].norm() / b[valid].norm()) < 1e-6


def test_names_and_settings_are_those_that_dphubert_builds_its_model_of(tmp_path, capsys):
    write_student(tmp_path / "s.pt", layer_heads=[4, 0], layer_ffn_dims=[7, 0])
    assert main(["export", str(tmp_path / "s.pt"), str(tmp_path / "o.pth"), "--format", "dphubert"]) == 0
    state = torch.load(tmp_path / "o.pth", weights_only=True)
    config, weights = state["config"], state["state_dict"]
    assert config["extractor_conv_layer_config"] == [(24, 10, 5), (24, 3, 2), (24, 3, 2), (32, 2, 2)]
    assert (config["encoder_num_heads"], config["encoder_head_dim"]) == ([4, 1], 12)
    # a bias that is not 0 needs a head, or a neuron, without effect
    assert config["encoder_use_attention"] == config["encoder_use_feed_forward"] == [True, True]
    assert config["encoder_ff_interm_features"] == [7, 1]
    layer = "encoder.transformer.layers.1"
    assert weights[f"{layer}.attention.out_proj.weight"].shape == (48, 12)
    assert not weights[f"{layer}.feed_forward.output_dense.weight"].any()
    assert weights["feature_extractor.dummy_weight"].tolist() == [1.0] * 32
    assert weights["encoder.transformer.pos_conv_embed.conv.weight_g"].shape == (1, 1, 16)
    assert "written to" in capsys.readouterr().out


def test_parts_without_effect_are_left_out(tmp_path):
    write_student(tmp_path / "s.pt", layer_heads=[4, 0], layer_ffn_dims=[7, 0])
    state = torch.load(tmp_path / "s.pt", weights_only=False)
    for name in ("self_attn.out_proj.bias", "fc2.bias"):
        state["model"][f"encoder.layers.1.{name}"].zero_()
    torch.save(state, tmp_path / "s.pt")
    assert main(["export", str(tmp_path / "s.pt"), str(tmp_path / "o.pth"), "--format", "dphubert"]) == 0
    state = torch.load(tmp_path / "o.pth", weights_only=True)
    assert state["config"]["encoder_use_attention"] == state["config"]["encoder_use_feed_forward"] == [True, False]
    assert not [key for key in state["state_dict"] if ".layers.1.attention" in key or ".layers.1.feed_forward" in key]
    assert read_checkpoint(tmp_path / "o.pth").config.layer_heads == [4, 0]


REFUSED = {
    "time reduction": (dict(time_reduction=2), "time_reduction=2"),
    "maps reused": (dict(reuse_attention=[2]), "reuse_attention=[2]"),
    "data2vec": (dict(family="data2vec", pos_conv_depth=3), "family=data2vec"),
    "batch norm": (dict(conv_pos_batch_norm=True), "conv_pos_batch_norm=True"),
    "activation": (dict(activation_fn="relu"), "activation_fn=relu"),
    "bias without gate": (dict(WAVLM, gru_rel_pos=False), "gru_rel_pos=False"),
    "heads of a WavLM": (dict(WAVLM, head_dim=5), "head_dim=5"),
    "gates": (dict(prune=["heads"], target_sparsity=0.1), "prune=['heads']; cut the gates first"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_place_is_refused_by_name(case, tmp_path, capsys):
    settings, sentence = REFUSED[case]
    write_student(tmp_path / "s.pt", **settings)
    assert main(["export", str(tmp_path / "s.pt"), str(tmp_path / "o.pth"), "--format", "dphubert"]) == 1
    assert sentence in capsys.readouterr().err and not (tmp_path / "o.pth").exists()
