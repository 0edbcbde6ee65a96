"""Our encoder against stock fairseq on the same random weights (WavLM: tests/checkpoints/test_layouts.py)."""

import numpy as np
import pytest
import torch

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder

from ..builders import KINDS, SMALL, build_dictionary, build_stock_hubert, build_stock_wav2vec2, make_waves

SHAPES = {
    **{kind: KINDS[kind] for kind in ("hubert", "large", "no projection")},
    "odd kernel": dict(conv_pos=15),
}


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["hubert", "wav2vec2"])
@torch.no_grad()
def test_hidden_states_equal_stock_fairseq(family, shape, padded):
    stock = (build_stock_hubert if family == "hubert" else build_stock_wav2vec2)(**SHAPES[shape])
    cfg = EncoderConfig.from_settings({**SMALL, **SHAPES[shape], "family": family})
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
        assert_close(
            ours_l[valid], theirs_l.transpose(0, 1)[:, :frames][valid]
        )  # stock pads to an even number of frames
    if family == "hubert":  # stock wav2vec 2.0 hands out the features before their projection
        assert_close(out.features[valid], theirs["features"][valid])


def test_masked_prediction_equals_stock_hubert(monkeypatch):
    # fairseq draws the spans from a generator that it seeds anew at each call
    spans = np.random.default_rng(3).random((3, 200)) < 0.4
    monkeypatch.setattr(
        "fairseq.models.hubert.hubert.compute_mask_indices", lambda shape, *a, **k: spans[:, : shape[1]]
    )
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


@pytest.mark.parametrize("shape", ["hubert", "large"])
@torch.no_grad()
def test_hooks_on_layers_see_what_those_of_stock_layers_see(shape):
    """Tools such as s3prl and espnet tap (frames, batch, width) there, with no look at the shape."""
    stock = build_stock_hubert(**SHAPES[shape])
    ours = SpeechEncoder(EncoderConfig.from_settings({**SMALL, **SHAPES[shape]})).eval()
    ours.load_state_dict({key: stock.state_dict()[key] for key in ours.state_dict()})
    waves, mask = make_waves(padded=True)
    seen = []
    for model in (stock, ours):
        taps = []
        for layer in model.encoder.layers:
            layer.register_forward_hook(lambda module, inputs, output, taps=taps: taps.append((inputs[0], output[0])))
        _, frame_mask = model.extract_features(waves, padding_mask=mask)
        seen.append([x.transpose(0, 1)[:, : frame_mask.size(1)][~frame_mask] for pair in taps for x in pair])
    assert len(seen[0]) == len(seen[1]) == 6
    for mine, theirs in zip(seen[1], seen[0]):
        assert_close(mine, theirs)


@pytest.mark.parametrize("shape", ["hubert", "large"])
@pytest.mark.parametrize("output_layer", [0, 3, 4, 12])
@torch.no_grad()
def test_an_output_layer_that_does_not_exist_is_the_last_as_in_stock_fairseq(shape, output_layer):
    stock = build_stock_hubert(**SHAPES[shape])
    ours = SpeechEncoder(EncoderConfig.from_settings({**SMALL, **SHAPES[shape]})).eval()
    ours.load_state_dict({key: stock.state_dict()[key] for key in ours.state_dict()})
    waves, mask = make_waves(padded=True)
    theirs, their_mask = stock.extract_features(waves, padding_mask=mask, output_layer=output_layer)
    mine, my_mask = ours.extract_features(waves, padding_mask=mask, output_layer=output_layer)
    assert torch.equal(my_mask, their_mask)
    assert_close(mine[~my_mask], theirs[~their_mask])
