"""Cutting closed gates out changes no feature: every unit alone, all together, every family, whole layers, twice."""

from dataclasses import replace

import pytest
import torch

from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.errors import UserError
from fairseq_distill.pruning.gates import add_gates
from fairseq_distill.pruning.surgery import prune_encoder

from ..builders import KINDS, PARTS, TINY, UNITS, build_gated, make_waves, relative_error, spread_gates
from .helpers import build_plain, list_units, open_all, set_gate

LIMIT = 1e-5


def cut(encoder) -> SpeechEncoder:
    """The smaller network, built from nothing but the settings and weights that the surgery returns."""
    pruned = prune_encoder(encoder)
    small = SpeechEncoder(pruned.config).eval()
    small.load_state_dict(pruned.weights)
    return small


def close(encoder, kind, layer, unit) -> None:
    gates = encoder.gates.kinds[kind]
    with torch.no_grad():
        gates.log_alpha.split(gates.sizes)[layer][unit] = -20.0


def count_units(cfg):
    return {"conv": [out for out, _, _ in cfg.conv_layers], "heads": cfg.heads, "ffn": cfg.ffn_dims}


@pytest.mark.parametrize("kind", KINDS)
def test_every_unit_alone(kind):
    encoder = build_gated(**KINDS[kind], prune=UNITS + PARTS)
    full = count_units(encoder.cfg)
    units = list_units(encoder)
    assert len(units) == (11 if kind == "no projection" else 18) + 2 * (3 + 5 + 2)
    for name, layer, unit in units:
        open_all(encoder)
        close(encoder, name, layer, unit)
        small = cut(encoder)
        expected = {key: list(values) for key, values in full.items()}
        if name in UNITS:
            expected[name][layer] -= 1
        else:
            expected[{"attention_layers": "heads", "ffn_layers": "ffn"}[name]][layer] = 0
        assert count_units(small.cfg) == expected, (name, layer, unit)
        assert relative_error(encoder, small) < LIMIT, (name, layer, unit)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("prune", [UNITS, UNITS + PARTS], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_all_together(kind, prune, seed):
    encoder = build_gated(**KINDS[kind], prune=prune, encoder_layers=3)
    spread_gates(encoder, mean=0.0, std=2.0, seed=seed)
    small = cut(encoder)
    assert relative_error(encoder, small) < LIMIT
    before, after = count_units(encoder.cfg), count_units(small.cfg)
    assert all(sum(after[name]) < sum(before[name]) for name in UNITS)
    assert relative_error(build_plain(encoder), small) > 0.01, "the gates do something"


@pytest.mark.parametrize("kind", KINDS)
def test_with_exact_padding_too(kind):
    """Norms that leave padding out read the same channels as those that do not."""
    encoder = build_gated(**KINDS[kind], prune=UNITS + PARTS, encoder_layers=3)
    spread_gates(encoder, mean=0.0)
    plainly = encoder(*make_waves(batch=2, samples=1200, padded=True)).x
    small = cut(encoder)
    encoder.exact_padding = small.exact_padding = True
    assert relative_error(encoder, small) < LIMIT
    exactly = encoder(*make_waves(batch=2, samples=1200, padded=True)).x
    assert not torch.equal(exactly, plainly), "exact padding does something"


@pytest.mark.parametrize("prune", [["conv"], ["heads"], ["ffn"], ["attention_layers"], ["ffn_layers"]], ids="+".join)
@pytest.mark.parametrize("kind", ["hubert", "wavlm large"])
def test_one_kind_of_gates(kind, prune):
    encoder = build_gated(**KINDS[kind], prune=prune)
    spread_gates(encoder, std=1.0)
    close(encoder, prune[0], 1, 0)
    small = cut(encoder)
    before, after = count_units(encoder.cfg), count_units(small.cfg)
    changed = [name for name in UNITS if before[name] != after[name]]
    assert changed == [{"attention_layers": "heads", "ffn_layers": "ffn"}.get(prune[0], prune[0])]
    assert relative_error(encoder, small) < LIMIT


@pytest.mark.parametrize("by", ["units", "parts"])
@pytest.mark.parametrize("gone", ["heads", "ffn", "both", "all heads", "all units"])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_parts(kind, gone, by):
    encoder = build_gated(**KINDS[kind], prune=UNITS if by == "units" else UNITS + PARTS)
    open_all(encoder)
    closed = {
        "heads": [("heads", 0)],
        "ffn": [("ffn", 1)],
        "both": [("heads", 0), ("ffn", 0)],
        "all heads": [("heads", 0), ("heads", 1)],
        "all units": [("ffn", 0), ("ffn", 1)],
    }[gone]
    for name, layer in closed:
        if by == "units":
            set_gate(encoder, name, layer, [-20.0] * len(encoder.gates.draw()[name, layer]))
        else:
            set_gate(encoder, {"heads": "attention_layers", "ffn": "ffn_layers"}[name], layer, [-20.0])
    small = cut(encoder)
    sizes = {"heads": small.cfg.heads, "ffn": small.cfg.ffn_dims}
    for name, full in (("heads", 3), ("ffn", 5)):
        assert sizes[name] == [0 if (name, layer) in closed else full for layer in range(2)]
    assert relative_error(encoder, small) < LIMIT
    for name, layer in closed:
        left = {n for n, _ in small.encoder.layers[layer].named_parameters()}
        part, norm = {"heads": ("self_attn.", "self_attn_layer_norm."), "ffn": ("fc", "final_layer_norm.")}[name]
        assert {n for n in left if n.startswith(part)} == {"self_attn.out_proj.bias" if name == "heads" else "fc2.bias"}
        assert any(n.startswith(norm) for n in left) == (not encoder.cfg.layer_norm_first)


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_convolution_that_keeps_one_channel(kind, layer):
    encoder = build_gated(**KINDS[kind])
    open_all(encoder)
    size = encoder.gates.kinds["conv"].sizes[layer]
    if not size:
        assert kind == "no projection" and layer == 2
        return
    set_gate(encoder, "conv", layer, [-20.0] * (size - 2) + [0.9, -20.0])
    small = cut(encoder)
    assert small.cfg.conv_layers[layer][0] == 1
    assert relative_error(encoder, small) < LIMIT


@pytest.mark.parametrize("kind", ["hubert", "large", "wavlm"])
def test_last_convolution_ends_as_wide_as_the_layers(kind):
    """By its widths alone such a network would have no projection."""
    encoder = build_gated(**KINDS[kind], conv_feature_layers="[(6,10,5), (5,3,2), (15,2,2)]")
    open_all(encoder)
    set_gate(encoder, "conv", 2, [-20.0] * 3 + [2.0] * 12)
    small = cut(encoder)
    assert small.cfg.conv_layers[-1][0] == small.cfg.encoder_embed_dim == 12
    assert small.cfg.project_features and small.post_extract_proj.weight.shape == (12, 12)
    assert relative_error(encoder, small) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_again(kind):
    """WavLM's heads must keep their numbers of the shared bias through both cuts."""
    encoder = build_gated(**KINDS[kind], encoder_layers=3, encoder_attention_heads=4, encoder_ffn_embed_dim=9)
    open_all(encoder)
    set_gate(encoder, "heads", 0, [-20.0, 2.0, -20.0, 3.0])
    set_gate(encoder, "heads", 1, [-20.0, 2.0, 1.5, 3.0])
    set_gate(encoder, "heads", 2, [-20.0] * 4)
    set_gate(encoder, "ffn", 0, [-20.0, 2.0] * 4 + [-20.0])
    set_gate(encoder, "conv", 0, [-20.0, 2.0, 2.5, -20.0, 3.0, 1.5])
    first = cut(encoder)
    again = SpeechEncoder(replace(first.cfg, prune=UNITS + PARTS)).eval()
    again.load_state_dict(first.state_dict())
    torch.manual_seed(1)
    add_gates(again)
    assert again.gates.kinds["heads"].sizes == [2, 3, 0] and again.gates.kinds["attention_layers"].sizes == [1, 1, 0]
    open_all(again)
    set_gate(again, "heads", 0, [2.0, -20.0])
    set_gate(again, "heads", 1, [-20.0, 1.4, 2.0])
    set_gate(again, "ffn", 0, [-20.0, 2.0, 1.4, -20.0])
    set_gate(again, "conv", 0, [2.0, -20.0, 3.0, -20.0])
    second = cut(again.eval())
    assert second.cfg.heads == [1, 2, 0] and second.cfg.ffn_dims[0] == 2 and second.cfg.conv_layers[0][0] == 2
    if second.cfg.relative_position_embedding:
        assert second.cfg.head_numbers == [[1], [2, 3], []]
    assert relative_error(encoder, first) < LIMIT and relative_error(again, second) < LIMIT


def test_the_network_is_smaller_and_soft_gates_are_in_the_weights():
    encoder = build_gated(**KINDS["wavlm large"], conv_bias=True)
    open_all(encoder)
    set_gate(encoder, "conv", 0, [-20.0, 1.0, -20.0, 2.0, 3.0, -20.0])
    set_gate(encoder, "conv", 2, [-20.0, -20.0, -20.0, 2.0, 1.0, 3.0, 2.0])
    set_gate(encoder, "heads", 1, [1.0, -20.0, 2.0])
    set_gate(encoder, "ffn", 0, [-20.0, 1.0, -20.0, -20.0, 2.0])
    old, new = encoder.state_dict(), prune_encoder(encoder).weights

    def soft(*values):
        return torch.sigmoid(1.2 * torch.tensor(values))

    shapes = {
        "feature_extractor.conv_layers.0.0.weight": (3, 1, 10),
        "feature_extractor.conv_layers.0.0.bias": (3,),
        "feature_extractor.conv_layers.0.2.1.weight": (3,),
        "feature_extractor.conv_layers.1.0.weight": (5, 3, 3),
        "feature_extractor.conv_layers.2.0.weight": (4, 5, 2),
        "layer_norm.bias": (4,),
        "post_extract_proj.weight": (12, 4),
        "encoder.layers.1.self_attn.q_proj.weight": (8, 12),
        "encoder.layers.1.self_attn.k_proj.bias": (8,),
        "encoder.layers.1.self_attn.v_proj.weight": (8, 12),
        "encoder.layers.1.self_attn.out_proj.weight": (12, 8),
        "encoder.layers.1.self_attn.grep_a": (1, 2, 1, 1),
        "encoder.layers.0.self_attn.q_proj.weight": (12, 12),
        "encoder.layers.0.fc1.weight": (2, 12),
        "encoder.layers.0.fc2.weight": (12, 2),
        "encoder.relative_attention_bias.weight": (32, 3),
    }
    assert {key: tuple(new[key].shape) for key in shapes} == shapes
    name = "post_extract_proj.weight"
    torch.testing.assert_close(new[name], old[name][:, 3:] * soft(2.0, 1.0, 3.0, 2.0))
    name = "encoder.layers.0.fc2.weight"
    torch.testing.assert_close(new[name], old[name][:, [1, 4]] * soft(1.0, 2.0))
    name = "encoder.layers.1.self_attn.out_proj.weight"
    torch.testing.assert_close(
        new[name], old[name][:, [0, 1, 2, 3, 8, 9, 10, 11]] * soft(1.0, 2.0).repeat_interleave(4)
    )
    assert not any(key.startswith("gates") for key in new)
    stored = sum(value.untyped_storage().nbytes() for value in new.values())
    assert stored == sum(4 * value.numel() for value in new.values()), "views carry whole tensors into the file"


@pytest.mark.parametrize("kind", ["hubert", "large"])
def test_the_gated_encoder_is_left_as_it_was(kind):
    encoder = build_gated(**KINDS[kind])
    spread_gates(encoder)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    for value in prune_encoder(encoder).weights.values():
        value.add_(1)  # nothing is shared
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    assert encoder.cfg.prune == UNITS and encoder.cfg.conv_feature_layers == TINY["conv_feature_layers"]


def test_nothing_left_to_run_is_refused_with_the_reason():
    encoder = build_gated(prune=UNITS + PARTS)
    open_all(encoder)
    set_gate(encoder, "conv", 1, [-20.0] * 5)
    with pytest.raises(
        UserError, match="convolution 1 would keep no channel.* lower model.target_sparsity, or without conv"
    ):
        prune_encoder(encoder)
    open_all(encoder)
    for layer, (attention, units) in enumerate(((3, 5), (3, 5))):
        set_gate(encoder, "heads", layer, [-20.0] * attention)
        set_gate(encoder, "ffn", layer, [-20.0] * units)
    with pytest.raises(UserError, match="no layer would keep a head or a neuron.* lower model.target_sparsity"):
        prune_encoder(encoder)
    set_gate(encoder, "ffn", 1, [-20.0] * 4 + [1.0])
    assert relative_error(encoder, cut(encoder)) < LIMIT, "one unit is enough"
