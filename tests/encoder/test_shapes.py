"""Shapes that stock fairseq does not have: uneven layers, absent parts, free head widths; precision; export."""

import copy

import pytest
import torch

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder, normalize_wave

from ..builders import KINDS, LARGE, SMALL, build_encoder, make_waves


def head_slices(key, value, heads, head_dim):
    """Weight `key` of an attention with fewer heads: the first `heads` of the full one."""
    inner = heads * head_dim
    if "grep_a" in key:
        return value[:, :heads]
    if any(f"{name}_proj" in key for name in "qkv"):
        return value[:inner]
    return value[:, :inner] if "out_proj.weight" in key else value


@pytest.mark.parametrize("kind", ["hubert", "large", "wavlm", "wavlm large"])
@torch.no_grad()
def test_fewer_heads_and_units_equal_the_full_network_with_theirs_silenced(kind):
    full = build_encoder(**KINDS[kind])
    heads, units, dim = [1, 4, 0], [80, 0, 30], 12
    small = build_encoder(**KINDS[kind], layer_heads=heads, layer_ffn_dims=units)
    state = full.state_dict()
    for key in small.state_dict():
        value = state[key]
        if key.startswith("encoder.layers."):
            number = int(key.split(".")[2])
            value = head_slices(key, value, heads[number], dim)
            if ".fc1." in key:
                value = value[: units[number]]
            if key.endswith("fc2.weight"):
                value = value[:, : units[number]]
        small.state_dict()[key].copy_(value)
    for layer, h, f in zip(full.encoder.layers, heads, units):
        layer.self_attn.out_proj.weight[:, h * dim :] = 0
        layer.fc2.weight[:, f:] = 0
    waves, mask = make_waves(padded=True)
    ours, theirs = small(waves, padding_mask=mask), full(waves, padding_mask=mask)
    valid = ~ours.padding_mask
    for a, b in zip(ours.hidden, theirs.hidden):
        torch.testing.assert_close(a[valid], b[valid], rtol=1e-4, atol=1e-4)
    assert len(list(small.parameters())) < len(list(full.parameters()))


@torch.no_grad()
def test_head_dim_is_free():
    encoder = build_encoder(head_dim=7, layer_heads=[3, 5, 2])
    assert encoder.encoder.layers[1].self_attn.q_proj.weight.shape == (35, 48)
    assert encoder(make_waves()[0]).x.shape == (3, encoder(make_waves()[0]).features.size(1), 48)


@torch.no_grad()
def test_padding_changes_no_feature_of_a_layer_norm_extractor():
    """With group norm the padding is in the statistics of the first convolution, in stock fairseq as here."""
    encoder = build_encoder(**LARGE, normalize=True)
    encoder.normalize_input = True
    waves, mask = make_waves(padded=True)
    waves = (waves * 3 + 0.5).masked_fill(mask, 0.0)
    padded = encoder(waves, padding_mask=mask)
    for index in range(3):
        length = int((~mask[index]).sum())
        alone = encoder(waves[index : index + 1, :length]).features[0]
        frames = int((~padded.padding_mask[index]).sum()) - 1  # the last frame may reach into the padding
        assert frames > 10
        torch.testing.assert_close(padded.features[index, :frames], alone[:frames], rtol=1e-4, atol=1e-4)


def test_exact_padding_keeps_gradients_and_the_factor_on_them():
    """Those of a padded wave in a batch are those of the wave alone, times feature_grad_mult in the convolutions."""
    waves = torch.randn(2, 1500, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(1500)[None, :] >= torch.tensor([1500, 437])[:, None]
    gradients = []
    for factor, padded in ((0.1, True), (1.0, False)):
        encoder = build_encoder(feature_grad_mult=factor)
        encoder.exact_padding = True
        out = (
            encoder(waves.masked_fill(mask, 0.0), mask).features[1] if padded else encoder(waves[1:, :437]).features[0]
        )
        frames = encoder.feature_extractor.count_frames(torch.tensor(437))
        out[:frames].pow(2).sum().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        factor = 0.1 if name.startswith("feature_extractor") else 1.0
        torch.testing.assert_close(gradient, factor * gradients[1][name], rtol=1e-3, atol=1e-4)
    encoder = build_encoder(feature_grad_mult=0.0)
    encoder.exact_padding = True
    encoder(waves, mask).x.sum().backward()
    assert all(p.grad is None for p in encoder.feature_extractor.parameters())


@torch.no_grad()
def test_normalize_wave_is_fairseqs_normalisation_before_padding():
    waves, mask = make_waves(padded=True)
    waves = waves * 2 + 1
    normalized = normalize_wave(waves, mask)
    for index in range(3):
        length = int((~mask[index]).sum())
        expected = torch.nn.functional.layer_norm(waves[index, :length], (length,))
        torch.testing.assert_close(normalized[index, :length], expected, rtol=1e-4, atol=1e-5)
        assert not normalized[index, length:].any()


@torch.no_grad()
def test_run_stops_after_the_last_layer_asked_for():
    encoder = build_encoder()
    encoder.encoder.layers[2].forward = None  # would fail if it ran
    out = encoder.encode(make_waves()[0], layers=[0, 2])
    assert [h is not None for h in out.hidden] == [True, False, True, False]
    assert out.x is None
    with pytest.raises(ValueError, match=r"\[4\] do not exist"):
        encoder.encode(make_waves()[0], layers=[4])


@torch.no_grad()
def test_the_mask_may_be_given_by_position():
    encoder, (waves, mask) = build_encoder(), make_waves(padded=True)
    torch.testing.assert_close(encoder(waves, mask).x, encoder(waves, padding_mask=mask).x)


def test_layerdrop_never_touches_hidden_states_asked_for():
    encoder = build_encoder(encoder_layerdrop=1.0).train()
    waves, _ = make_waves()
    with torch.no_grad():
        reference = encoder.eval()(waves).hidden
        assert all(torch.equal(a, b) for a, b in zip(encoder.train()(waves).hidden, reference))
        dropped, _ = encoder.train().extract_features(waves, mask=False)
    torch.testing.assert_close(dropped, reference[0])  # all layers dropped


def test_activation_checkpointing_gives_the_same_gradients():
    waves, _ = make_waves()
    gradients = []
    for checkpointed in (False, True):
        encoder = build_encoder(checkpoint_activations=checkpointed).train()
        encoder(waves).x.pow(2).mean().backward()
        gradients.append(encoder.encoder.layers[0].fc1.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("kind", ["hubert", "large", "wavlm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_follows_float32(kind, dtype):
    encoder = build_encoder(**KINDS[kind])
    waves, mask = make_waves(padded=True)
    expected = encoder(waves, padding_mask=mask)
    got = encoder.to(dtype)(waves.to(dtype), padding_mask=mask)
    valid = ~expected.padding_mask
    assert got.x.dtype == dtype
    error = (got.x.float() - expected.x)[valid].norm() / expected.x[valid].norm()
    assert error < (0.05 if dtype == torch.bfloat16 else 0.01)


def test_encoder_can_be_deep_copied():
    encoder = build_encoder()
    waves, _ = make_waves()
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(encoder)(waves).x, encoder(waves).x)


@pytest.mark.parametrize("kind", ["hubert", "large", "wavlm"])
def test_export_with_free_batch_and_length(kind):
    encoder = build_encoder(**KINDS[kind])
    shapes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    program = torch.export.export(encoder, (torch.randn(2, 4000),), dynamic_shapes={"source": shapes}, strict=False)
    for batch, samples in ((1, 4000), (3, 7043)):
        waves = torch.randn(batch, samples)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(waves).x, encoder(waves).x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings, word",
    [
        (dict(layer_heads=[1, 2]), "layer_heads has 2 entries"),
        (dict(layer_ffn_dims=[1, 2, -3]), "layer_ffn_dims has an entry that is not from 0"),
        (dict(encoder_attention_heads=5), "set head_dim"),
        (dict(conv_pos_groups=7), "conv_pos_groups=7"),
        (dict(layer_type="conformer"), "layer_type=conformer"),
        (dict(family="mert"), "family=mert"),
        (dict(extractor_mode="none"), "extractor_mode=none"),
    ],
)
def test_impossible_settings_are_named(settings, word):
    with pytest.raises(ValueError, match=word):
        SpeechEncoder(EncoderConfig.from_settings({**SMALL, **settings}))


@pytest.mark.parametrize("settings", [{}, dict(time_reduction=2)], ids=str)
def test_a_wave_shorter_than_a_frame_is_a_sentence(settings):
    encoder = build_encoder(**settings)
    least = encoder.cfg.shortest_wave
    with pytest.raises(ValueError, match=f"waves of {least - 1} samples: one frame takes at least {least}"):
        encoder(torch.randn(1, least - 1))
    assert encoder(torch.randn(1, least)).x.size(1) == 1
