"""What tools that know fairseq's HuBERT and wav2vec 2.0 ask of a model: ours answers as the stock one."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.stock_face import ExtractedFeatures

from ..builders import (
    LARGE,
    SMALL,
    UNEVEN,
    WAVLM,
    build_encoder,
    build_gated,
    build_stock_hubert,
    build_stock_wav2vec2,
    make_waves,
    spread_gates,
)

SHAPES = {"base": {}, "large": LARGE, "no projection": dict(encoder_embed_dim=32), "masked": dict(mask_prob=0.0)}


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def build_both(family, **settings):
    """(stock model, ours with its weights)."""
    stock = (build_stock_hubert if family == "hubert" else build_stock_wav2vec2)(**settings)
    ours = SpeechEncoder(EncoderConfig.from_settings({**SMALL, **settings, "family": family})).eval()
    state = stock.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    return stock, ours


@pytest.mark.parametrize("layer", [None, 0, 1, 2, 7])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_wav2vec2s_dictionary_is_there_with_the_results_of_every_layer(shape, layer):
    stock, ours = build_both("wav2vec2", **SHAPES[shape])
    waves, mask = make_waves(padded=True)
    theirs = stock.extract_features(waves, mask, layer=layer)
    mine = ours.extract_features(waves, mask, layer=layer)
    frame_mask = theirs["padding_mask"]
    assert torch.equal(mine["padding_mask"], frame_mask) and mine[1] is mine["padding_mask"] and mine[0] is mine["x"]
    assert set(theirs) <= set(mine.keys())
    for name in ("x", "features"):
        assert mine[name].shape == theirs[name].shape
        assert_close(mine[name][~frame_mask], theirs[name][~frame_mask])
    ran = 3 if layer in (None, 7) else layer + 1
    assert len(mine["layer_results"]) == len(theirs["layer_results"]) == ran
    for my_result, their_result in zip(mine["layer_results"], theirs["layer_results"]):
        assert len(my_result) == len(their_result) == 3 and my_result[1] is their_result[1] is None
        for part in (0, 2):  # s3prl's "fairseq_layers" and "fairseq_layers_before_residual"
            assert my_result[part].shape == their_result[part].shape
            assert_close(my_result[part].transpose(0, 1)[~frame_mask], their_result[part].transpose(0, 1)[~frame_mask])


@torch.no_grad()
def test_the_fourth_argument_is_either_models():
    stock, ours = build_both("wav2vec2")
    waves, _ = make_waves()
    theirs = stock.extract_features(waves, None, False, 1)
    assert_close(ours.extract_features(waves, None, False, 1)[0], theirs["x"])
    assert_close(ours(waves, features_only=True, mask=False, layer=1)["x"], theirs["x"])
    stock, ours = build_both("hubert")
    for ret_conv in (True, False):
        theirs, _ = stock.extract_features(waves, None, False, ret_conv, 2)
        assert_close(ours.extract_features(waves, None, False, ret_conv, 2)[0], theirs)
    with pytest.raises(ValueError, match="layer=1 and output_layer=2"):
        ours.extract_features(waves, layer=1, output_layer=2)


def test_features_are_what_they_were_before_masking():
    _, ours = build_both("wav2vec2", encoder_embed_dim=32, mask_prob=0.9, mask_length=3)
    waves, _ = make_waves()
    plain = ours.extract_features(waves)
    masked = ours.extract_features(waves, mask=True)
    assert torch.equal(masked["features"], plain["features"]) and not torch.equal(masked["x"], plain["x"])
    assert ours.dropout_features.kept is None and ours.encoder.results_of_pass is None  # nothing is held on to


def test_layer_results_have_gradients_and_leave_out_dropped_layers():
    encoder = build_encoder(encoder_layerdrop=1.0).train()
    assert encoder.extract_features(make_waves()[0])["layer_results"] == []
    encoder = build_encoder(checkpoint_activations=True).train()
    results = encoder.extract_features(make_waves()[0])["layer_results"]
    results[1][2].sum().backward()
    assert (
        encoder.encoder.layers[1].fc2.weight.grad.abs().sum() > 0 and encoder.encoder.layers[2].fc2.weight.grad is None
    )


PARTS = ["self_attn", "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]


@pytest.mark.parametrize("shape", ["base", "large"])
@torch.no_grad()
def test_hooks_on_parts_of_layers_see_what_those_of_stock_parts_see(shape):
    stock, ours = build_both("hubert", **SHAPES[shape])
    waves, mask = make_waves(padded=True)
    plain = ours.extract_features(waves, mask)[0]
    seen = []
    for model in (stock, ours):
        taps = {}
        for number, layer in enumerate(model.encoder.layers):
            for part in PARTS:

                def tap(module, inputs, output, taps=taps, key=(number, part)):
                    taps[key] = output[0] if key[1] == "self_attn" else output

                getattr(layer, part).register_forward_hook(tap)
        x, frame_mask = model.extract_features(waves, padding_mask=mask)
        seen.append({key: value.transpose(0, 1)[:, : x.size(1)][~frame_mask] for key, value in taps.items()})
        assert all(value.shape[1] == len(waves) for value in taps.values())
    assert_close(x, plain)  # but for rounding, hooks change nothing
    assert len(seen[0]) == 3 * len(PARTS) and seen[0].keys() == seen[1].keys()
    for key, theirs in seen[0].items():
        assert_close(seen[1][key], theirs)


@torch.no_grad()
def test_hooks_on_a_layer_see_the_feed_forward_part_as_stock_ones_do():
    stock, ours = build_both("hubert")
    waves, _ = make_waves()
    seen = []
    for model in (stock, ours):
        model.encoder.layers[1].register_forward_hook(lambda layer, inputs, output: seen.append(output))
        model.extract_features(waves)
    (_, (_, theirs)), (_, (_, mine)) = seen
    frames = 99  # fairseq adds one to make the number even
    assert mine.size(0) == frames and theirs.size(0) == frames + 1
    assert_close(mine, theirs[:frames])


@pytest.mark.parametrize("kind", [UNEVEN, WAVLM, dict(reuse_attention=[2]), dict(UNEVEN, **LARGE)], ids=str)
@torch.no_grad()
def test_hooks_on_parts_change_nothing_in_any_shape(kind):
    encoder = build_encoder(**kind)
    waves, mask = make_waves(padded=True)
    plain = encoder(waves, padding_mask=mask)
    counts = []
    for layer in encoder.encoder.layers:
        for part in PARTS:
            if getattr(layer, part) is not None:
                getattr(layer, part).register_forward_hook(lambda module, inputs, output: counts.append(module))
    hooked = encoder(waves, padding_mask=mask)
    assert len(counts) == sum(getattr(layer, part) is not None for layer in encoder.encoder.layers for part in PARTS)
    for one, other in zip(hooked.hidden, plain.hidden):
        assert_close(one, other)


@torch.no_grad()
def test_hooks_on_parts_change_nothing_with_gates():
    encoder = build_gated()
    spread_gates(encoder)
    waves, _ = make_waves(samples=1200)
    plain = encoder(waves).x
    for layer in encoder.encoder.layers:
        layer.fc2.register_forward_hook(lambda module, inputs, output: None)
        layer.self_attn.register_forward_pre_hook(lambda module, inputs: None)
    assert_close(encoder(waves).x, plain)


@pytest.mark.parametrize("shape", ["base", "large"])
@torch.no_grad()
def test_hooks_on_convolutions_and_their_norms_keep_what_they_saw(shape):
    """What comes after may not compute in their place."""
    stock, ours = build_both("hubert", **SHAPES[shape])
    waves, _ = make_waves()
    seen = []
    for model in (stock, ours):
        taps = {}
        for name, module in model.feature_extractor.named_modules():
            # N.0 is the convolution, N.2 or N.2.1 the norm, in whose place fairseq may have the activation
            numbers = name.split(".")[2:]
            if numbers in (["0"], ["2"], ["2", "1"]) and not isinstance(module, nn.GELU):
                module.register_forward_hook(lambda m, i, output, taps=taps, name=name: taps.update({name: output}))
        model.extract_features(waves)
        seen.append(taps)
    assert len(seen[1]) == (12 if shape == "large" else 5) and seen[0].keys() == seen[1].keys()
    for name, theirs in seen[0].items():
        assert_close(seen[1][name], theirs)


def test_extracted_features_survive_what_is_done_to_tuples_and_dictionaries():
    _, ours = build_both("wav2vec2")
    extracted = ours.eval().extract_features(make_waves(padded=True)[0], torch.zeros(3, 4000, dtype=torch.bool))
    x, frame_mask = extracted
    assert "layer_results" in extracted and "targets" not in extracted and frame_mask in extracted
    assert extracted.get("features") is extracted["features"] and extracted.get("targets") is None
    with pytest.raises(KeyError):
        extracted["targets"]
    for again in (
        pickle.loads(pickle.dumps(ExtractedFeatures((1, 2), {"x": 1}))),
        copy.copy(ExtractedFeatures((1, 2))),
    ):
        assert tuple(again) == (1, 2) and again["x"] == 1
    gathered = type(extracted)(map(torch.cat, zip(extracted, extracted)))  # as torch's DataParallel does
    assert gathered["x"].shape[0] == 2 * len(x) and gathered["padding_mask"] is gathered[1]


@pytest.mark.parametrize("settings", [{}, LARGE, WAVLM, dict(conv_pos_batch_norm=True)], ids=str)
@torch.no_grad()
def test_copies_pickles_and_state_dicts_give_the_same(settings):
    encoder = build_encoder(**settings)
    waves, mask = make_waves(padded=True)
    expected = encoder.extract_features(waves, mask)["x"]
    fresh = SpeechEncoder(encoder.cfg).eval()
    fresh.load_state_dict(encoder.state_dict(), strict=True)
    for again in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder)), fresh):
        assert again is not encoder and torch.equal(again.extract_features(waves, mask)["x"], expected)


@pytest.mark.parametrize("settings", [{}, LARGE, WAVLM], ids=str)
@torch.no_grad()
def test_half_precision_is_near(settings):
    encoder = build_encoder(**settings)
    waves, mask = make_waves(padded=True)
    expected, frame_mask = encoder.extract_features(waves, mask)
    x, _ = encoder.half().extract_features(waves.half(), mask)
    assert x.dtype == torch.float16
    assert (x.float() - expected)[~frame_mask].norm() < 0.02 * expected[~frame_mask].norm()


@torch.no_grad()
def test_what_tools_set_on_the_model_counts():
    """s3prl turns layerdrop and the convolutions' gradients off; others take layers away."""
    _, ours = build_both("hubert")
    waves, _ = make_waves()
    second = ours.extract_features(waves, output_layer=2)[0]
    ours.encoder.layerdrop, ours.feature_grad_mult = 0.0, 0.0
    with torch.enable_grad():
        ours.extract_features(waves)[0].sum().backward()
    assert (
        ours.feature_extractor.conv_layers[0].conv.weight.grad is None
        and ours.post_extract_proj.weight.grad is not None
    )
    ours.encoder.layers = ours.encoder.layers[:2]
    assert torch.equal(ours.extract_features(waves)[0], second)  # post-norm: what the second layer gave
    ours.remove_pretraining_modules()
    assert ours.final_proj is None and torch.equal(ours.extract_features(waves)[0], second)
