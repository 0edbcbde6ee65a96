"""Our encoder against stock fairseq and torchaudio on the same random weights."""

import numpy as np
import pytest
import torch

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder

from .builders import PRE_NORM, SMALL, build_dictionary, build_stock_hubert, build_stock_wav2vec2, make_waves, randomize

KINDS = {"post-norm": {}, "pre-norm": PRE_NORM, "no projection": dict(encoder_embed_dim=32), "odd kernel": dict(conv_pos=15)}


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["hubert", "wav2vec2"])
@torch.no_grad()
def test_hidden_states_equal_stock_fairseq(family, kind, padded):
    stock = (build_stock_hubert if family == "hubert" else build_stock_wav2vec2)(**KINDS[kind])
    cfg = EncoderConfig.from_settings({**SMALL, **KINDS[kind], "family": family})
    ours = SpeechEncoder(cfg).eval()
    state = stock.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})  # their names, no conversion
    waves, mask = make_waves(padded=padded)

    taps = []
    for layer in stock.encoder.layers:  # as s3prl taps them
        layer.register_forward_pre_hook(lambda module, inputs: taps.append(inputs[0]))
    stock.encoder.layers[-1].register_forward_hook(lambda module, inputs, output: taps.append(output[0]))
    theirs = stock(waves, padding_mask=mask, mask=False, features_only=True)
    out = ours(waves, padding_mask=mask)

    frames = theirs["x"].size(1)
    valid = torch.ones(theirs["x"].shape[:2], dtype=torch.bool) if mask is None else ~theirs["padding_mask"]
    if mask is not None:
        assert torch.equal(out.padding_mask, theirs["padding_mask"])
        assert 0 < (~valid).sum() < valid.numel()
    assert_close(out.x[valid], theirs["x"][valid])
    assert len(taps) == len(out.hidden) == 4
    for ours_l, theirs_l in zip(out.hidden, taps):
        assert_close(ours_l[valid], theirs_l.transpose(0, 1)[:, :frames][valid])  # stock pads to an even number of frames
    if family == "hubert":  # stock wav2vec 2.0 hands out the features before their projection
        assert_close(out.features[valid], theirs["features"][valid])


@torch.no_grad()
def test_wavlm_equals_torchaudio():
    wavlm_model = pytest.importorskip("torchaudio.models").wavlm_model
    theirs = wavlm_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(24, 10, 5), (24, 3, 2), (32, 2, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=48,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_num_buckets=32,
        encoder_max_distance=20,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=80,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    ).eval()
    randomize(theirs)
    cfg = EncoderConfig(
        family="wavlm",
        encoder_layers=3,
        encoder_embed_dim=48,
        encoder_ffn_embed_dim=80,
        encoder_attention_heads=4,
        conv_feature_layers="[(24,10,5),(24,3,2),(32,2,2)]",
        conv_pos=16,
        conv_pos_groups=4,
        relative_position_embedding=True,
        num_buckets=32,
        max_distance=20,
        gru_rel_pos=True,
    )
    ours = SpeechEncoder(cfg).eval()
    ours.load_state_dict({"mask_emb": ours.mask_emb, **_to_microsoft_names(theirs.state_dict())})
    waves, _ = make_waves(samples=6000)  # 300 frames: far beyond max_distance
    expected, _ = theirs.extract_features(waves)
    out = ours(waves)
    for ours_l, theirs_l in zip(out.hidden[1:], expected):
        assert_close(ours_l, theirs_l)


def _to_microsoft_names(state):
    """torchaudio's names of WavLM's weights -> Microsoft's."""
    renamed = {}
    for key, value in state.items():
        key = key.replace("encoder.feature_projection.layer_norm", "layer_norm")
        key = key.replace("encoder.feature_projection.projection", "post_extract_proj")
        key = key.replace("encoder.transformer.pos_conv_embed.conv", "encoder.pos_conv.0")
        key = key.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")
        key = key.replace("encoder.transformer", "encoder")
        key = key.replace(".attention.attention.", ".self_attn.").replace(".attention.", ".self_attn.")
        key = key.replace("rel_attn_embed", "relative_attention_bias")
        key = key.replace("gru_rel_pos_linear", "grep_linear").replace("gru_rel_pos_const", "grep_a")
        key = key.replace("feed_forward.intermediate_dense", "fc1").replace("feed_forward.output_dense", "fc2")
        if "encoder.layers" in key:
            key = key.replace(".layer_norm.", ".self_attn_layer_norm.")
        if key.startswith("feature_extractor"):
            key = key.replace(".conv.", ".0.").replace(".layer_norm.", ".2.")
        if "in_proj" in key:
            for name, part in zip("qkv", value.chunk(3)):
                renamed[key.replace("in_proj_", f"{name}_proj.")] = part
        else:
            renamed[key] = value
    return renamed


def test_masked_prediction_equals_stock_hubert(monkeypatch):
    # fairseq draws the spans from a generator that it seeds anew at each call
    spans = np.random.default_rng(3).random((3, 200)) < 0.4
    monkeypatch.setattr("fairseq.models.hubert.hubert.compute_mask_indices", lambda shape, *a, **k: spans[:, : shape[1]])
    dictionary = build_dictionary()
    masking = dict(untie_final_proj=True, mask_prob=0.5, mask_length=4)
    stock = build_stock_hubert([dictionary], **masking)
    cfg = EncoderConfig.from_settings({**SMALL, **masking, "label_rate": 400.0})
    ours = SpeechEncoder(cfg, dictionaries=[dictionary]).eval()
    ours.load_state_dict(stock.state_dict())
    waves, mask = make_waves(padded=True)
    targets = [torch.randint(4, len(dictionary), (3, 4000 // 40))]
    theirs = stock(waves, target_list=targets, padding_mask=mask)
    mine = ours(waves, target_list=targets, padding_mask=mask)
    for part in ("logit_m_list", "logit_u_list"):
        assert len(theirs[part]) == 1 and theirs[part][0].numel() > 0
        assert_close(mine[part][0], theirs[part][0])
    assert_close(mine["features_pen"], theirs["features_pen"])


@torch.no_grad()
def test_extract_features_has_stock_signature():
    stock = build_stock_hubert()
    ours = SpeechEncoder(EncoderConfig.from_settings(SMALL)).eval()
    ours.load_state_dict({key: stock.state_dict()[key] for key in ours.state_dict()})
    waves, mask = make_waves(padded=True)
    for options in (dict(), dict(output_layer=2), dict(ret_conv=True)):
        theirs, their_mask = stock.extract_features(waves, padding_mask=mask, mask=False, **options)
        mine, my_mask = ours.extract_features(waves, padding_mask=mask, mask=False, **options)
        assert torch.equal(my_mask, their_mask)
        assert_close(mine[~my_mask], theirs[~their_mask])
