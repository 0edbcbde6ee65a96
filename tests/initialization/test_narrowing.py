"""A narrower student computes on the units that it keeps as its source does: exactly, where the others are dead."""

import pytest
import torch

from fairseq_distill.encoder.anatomy import BIAS_HEADS, WIDTH, Axis

from ..builders import KINDS, WAVLM, make_waves, relative_error
from .narrow_models import GROUP_NORM_KINDS, MEASURES, build, narrow

SMALLER = dict(layer_heads=[2, 1], layer_ffn_dims=[5, 0])
KEPT = [1, 3, 4, 5, 6, 9, 10, 11, 13, 14, 16, 17, 18, 20, 22, 23]  # four of six in each of the four groups


def draw(units, count, generator):
    """(units to keep, units to kill), at random, each ascending."""
    order = torch.randperm(units, generator=generator)
    return order[:count].sort().values, order[count:]


@torch.no_grad()
def kill(source, heads, ffn, channels, seed=5):
    """Leave these numbers of units alive in each layer and convolution; returns which, in this order."""
    generator, dim = torch.Generator().manual_seed(seed), source.cfg.attention_head_dim
    alive = [[], [], []]
    for index, layer in enumerate(source.encoder.layers):
        kept, dead = draw(source.cfg.heads[index], heads[index], generator)
        for head in dead.tolist():
            rows = slice(head * dim, head * dim + dim)
            layer.self_attn.v_proj.weight[rows] = 0
            layer.self_attn.v_proj.bias[rows] = 0
        alive[0].append(kept)
        kept, dead = draw(source.cfg.ffn_dims[index], ffn[index], generator)
        layer.fc1.weight[dead] = 0
        layer.fc1.bias[dead] = 0
        alive[1].append(kept)
    for index, block in enumerate(source.feature_extractor.conv_layers):
        kept, dead = draw(len(block.conv.weight), channels[index], generator)
        written = [block.conv] if block.norm is None else [block.norm]  # a norm of each channel by itself
        for tensor in (t for module in written for t in (module.weight, module.bias) if t is not None):
            tensor[dead] = 0
        alive[2].append(kept)
    return alive


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", GROUP_NORM_KINDS)
def test_without_its_dead_units_the_student_is_the_source(kind, measure):
    source = build(**GROUP_NORM_KINDS[kind])
    last = source.cfg.conv_layers[-1][0]
    heads, ffn, conv = kill(source, SMALLER["layer_heads"], SMALLER["layer_ffn_dims"], [7, 6, last])
    smaller = dict(SMALLER, conv_feature_layers=f"[(7,10,5), (6,3,2), ({last},2,2)]")
    student, chosen, _ = narrow(source, measure=measure, **smaller)
    alive = {"heads": heads, "ffn": ffn, "conv": conv}
    for name, kept in alive.items():
        for index, places in enumerate(kept):
            last_of_layers = name == "conv" and index == 2 and not source.cfg.has_projection
            axis = WIDTH if last_of_layers else Axis(name, index)
            assert torch.equal(chosen.keep[axis], places), axis
    assert relative_error(source, student) < 1e-5
    if source.cfg.relative_position_embedding:
        assert student.cfg.head_numbers == [kept.tolist() for kept in heads]


def test_a_smaller_shared_position_bias_keeps_the_same_heads_in_every_layer():
    source = build(**dict(WAVLM, gru_rel_pos=False))
    with torch.no_grad():
        for layer in source.encoder.layers:
            layer.self_attn.v_proj.weight[[*range(6), *range(12, 18)]] = 0  # heads 0 and 2
            layer.self_attn.v_proj.bias[[*range(6), *range(12, 18)]] = 0
    student, chosen, _ = narrow(source, encoder_attention_heads=2)
    assert chosen.keep[BIAS_HEADS].tolist() == [1, 3] and chosen.head_numbers == ""
    assert student.encoder.relative_attention_bias.weight.shape == (32, 2)
    assert relative_error(source, student) < 1e-5
    student, _, copied = narrow(build(**WAVLM), encoder_attention_heads=2)
    assert "attention of layer 1" in copied and "gate of the position bias of layer 1" not in copied
    with torch.no_grad():
        source.encoder.layers[0].self_attn.v_proj.weight[18:] *= 10
    fewer, chosen, _ = narrow(source, encoder_attention_heads=2, layer_heads=[1, 2])
    assert chosen.keep["heads", 0].tolist() == [3] and fewer.cfg.head_numbers == [[1], [0, 1]]


def list_norms(encoder):
    """The norms over the channels of the layers."""
    layers = encoder.encoder.layers
    return [
        encoder.encoder.layer_norm,
        *(n for layer in layers for n in (layer.self_attn_layer_norm, layer.final_layer_norm)),
    ]


@torch.no_grad()
def silence_channels(source, kept):
    """Nothing of `source` writes to other channels than `kept`, nor do its norms; what is left there is zero."""
    dead = [c for c in range(source.cfg.encoder_embed_dim) if c not in kept]
    layers, positions = source.encoder.layers, source.encoder.pos_conv._modules["0"]
    for module in [source.post_extract_proj, *(p for layer in layers for p in (layer.self_attn.out_proj, layer.fc2))]:
        module.weight[dead] = 0
        module.bias[dead] = 0
    positions.weight_v[dead] = 0
    positions.bias[dead] = 0
    for norm in list_norms(source):
        norm.weight[dead] = 0
        norm.bias[dead] = 0


@pytest.mark.parametrize("measure", MEASURES)
def test_before_the_first_norm_zero_channels_change_nothing(measure):
    """In a pre-norm model h[0] is projection and positions alone: this is the grouped convolution, cut exactly."""
    source = build(**KINDS["pre-norm"])
    silence_channels(source, KEPT)
    student, chosen, _ = narrow(source, measure=measure, encoder_embed_dim=16)
    assert chosen.keep[WIDTH].tolist() == KEPT
    waves, _ = make_waves()
    with torch.no_grad():
        ours, theirs = student.encode(waves, layers={0}), source.encode(waves, layers={0})
    torch.testing.assert_close(ours.features, theirs.features[..., KEPT])
    torch.testing.assert_close(ours.hidden[0], theirs.hidden[0][..., KEPT])
    assert theirs.hidden[0].abs().sum((0, 1)).gt(0).nonzero().flatten().tolist() == KEPT


@pytest.mark.parametrize("kind", ["hubert", "pre-norm"])
@torch.no_grad()
def test_zero_channels_change_only_the_scale_of_the_norms(kind):
    """Kept channels come in pairs x and -x, so that they and all channels have mean 0.

    Their variance is 24 / 16 times that over all channels: with this in the norms' weights the student is the source.
    """
    source = build(**KINDS[kind])
    silence_channels(source, KEPT)
    one, other = KEPT[0::2], KEPT[1::2]
    layers, positions = source.encoder.layers, source.encoder.pos_conv._modules["0"]
    positions.weight_g.zero_()  # its GELU makes no pairs
    positions.bias.zero_()
    for module in [source.post_extract_proj, *(p for layer in layers for p in (layer.self_attn.out_proj, layer.fc2))]:
        module.weight[other], module.bias[other] = -module.weight[one], -module.bias[one]
    for norm in list_norms(source):
        norm.weight[other], norm.bias[other] = norm.weight[one], -norm.bias[one]
        norm.eps = 0.0
    student, chosen, _ = narrow(source, encoder_embed_dim=16)
    assert chosen.keep[WIDTH].tolist() == KEPT
    waves, _ = make_waves()
    expected = source.encode(waves)
    before = student.encode(waves)
    for norm in list_norms(student):
        norm.weight *= (24 / 16) ** 0.5
        norm.eps = 0.0
    found = student.encode(waves)
    for ours, theirs in zip([*found.hidden, found.x], [*expected.hidden, expected.x]):
        torch.testing.assert_close(ours, theirs[..., KEPT], rtol=1e-4, atol=1e-5)
    assert (before.x - expected.x[..., KEPT]).norm() > 0.05 * expected.x.norm(), "without it, another scale"
