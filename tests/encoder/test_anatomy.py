"""The table of an encoder's tensors against the networks that are built, for every family and shape."""

import pytest
import torch

from fairseq_distill.encoder.anatomy import (
    BIAS_HEADS,
    EXTRAS,
    GROUPED,
    NORM_OF_V,
    STRETCHES,
    WIDTH,
    Axis,
    count_uses,
    find_conv_axis,
    list_rows,
    select_tensors,
)
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.pruning.gates import add_gates
from fairseq_distill.pruning.surgery import prune_encoder

from ..builders import KINDS, PARTS, SHAPES, SMALL, UNITS, build_gated, make_waves, spread_gates

PRUNE = [[], UNITS, UNITS + PARTS, ["ffn", "attention_layers"]]


def compare(encoder, classes=()):
    """The rows, once compared with the network: each tensor has one, each row a tensor, each dimension its length."""
    rows = list_rows(encoder.cfg, classes)
    tensors = [row for row in rows if row.kind != "product"]
    assert len({row.name for row in rows}) == len(rows)
    found = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert found == {row.name: tuple(dim.length for dim in row.dims) for row in tensors}
    parameters = {name for name, _ in encoder.named_parameters()}
    assert parameters == {row.name for row in tensors if row.kind == "parameter"}
    return rows


@pytest.mark.parametrize("prune", PRUNE, ids=lambda prune: "+".join(prune) or "no gates")
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tensor_has_a_row_and_every_row_a_tensor(shape, prune):
    if "reuse_attention" in SHAPES[shape]:
        prune = [name for name in prune if name not in ("heads", "attention_layers")]
    encoder = SpeechEncoder(EncoderConfig.from_settings({**SMALL, **SHAPES[shape], "prune": prune}))
    add_gates(encoder)
    rows = compare(encoder)
    parameters = sum(value.numel() for value in encoder.parameters())
    assert sum(row.size for row in rows if row.kind == "parameter") == parameters


@pytest.mark.parametrize("settings", [{}, dict(target_glu=True), dict(untie_final_proj=True, final_dim=0)], ids=str)
def test_masked_prediction_has_rows(settings):
    encoder = SpeechEncoder(EncoderConfig.from_settings({**SMALL, **settings}), dictionaries=[range(12), range(7)])
    rows = compare(encoder, (12, 7))
    assert any(row.part == EXTRAS[1] for row in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_every_axis_is_as_long_wherever_it_occurs(kind):
    """And its places are those of the settings."""
    cfg = EncoderConfig.from_settings({**SMALL, **KINDS[kind], "prune": UNITS + PARTS})
    lengths = {}
    for row in list_rows(cfg):
        for dim in row.dims:
            for axis, count in zip(dim.axes, dim.counts):
                assert lengths.setdefault(axis, count) == count, (row.name, axis)
    expected = {Axis("heads", i): n for i, n in enumerate(cfg.heads)}
    expected.update({Axis("ffn", i): n for i, n in enumerate(cfg.ffn_dims)})
    expected.update({find_conv_axis(cfg, i): n for i, (n, _, _) in enumerate(cfg.conv_layers)})
    expected.update({Axis(name, i): 1 for name in PARTS for i in range(cfg.encoder_layers)})
    expected[WIDTH] = cfg.encoder_embed_dim
    if cfg.relative_position_embedding:
        expected[BIAS_HEADS] = cfg.encoder_attention_heads
    assert lengths == expected


def test_what_reads_an_axis_with_gates_is_one_tensor():
    """The gate of a channel, head or neuron is a factor on exactly one weight."""
    for kind, settings in KINDS.items():
        cfg = EncoderConfig.from_settings({**SMALL, **settings, "prune": UNITS})
        readers = {}
        for row in list_rows(cfg):
            if row.reads is not None:
                (axis,) = row.dims[row.reads].axes
                readers.setdefault(axis, []).append(row.name)
        gated = {axis for row in list_rows(cfg) if row.part == EXTRAS[2] for dim in row.dims for axis in dim.axes}
        assert gated and all(len(readers[axis]) == 1 for axis in gated), kind
        assert set(readers) == gated, kind


def test_exceptions_are_the_known_ones():
    rules = {}
    for settings in KINDS.values():
        for row in list_rows(EncoderConfig.from_settings({**SMALL, **settings})):
            if row.rule:
                rules.setdefault(row.rule, set()).add(row.name.split(".")[-2] + "." + row.name.split(".")[-1])
    assert rules[NORM_OF_V] == {"0.weight_g"} and rules[GROUPED] == {"0.weight_v", "0.weight", "1.weight"}
    assert rules[STRETCHES] == {"grep_linear.weight", "grep_linear.bias", "self_attn.grep_a"} and len(rules) == 3


def test_frames_that_use_each_place_are_those_of_a_wave():
    cfg = EncoderConfig.from_settings({**SMALL, "time_reduction": 2})
    uses = count_uses(cfg, 4000)
    x = torch.randn(1, 4000).unsqueeze(1)
    encoder = SpeechEncoder(cfg).eval()
    for index, block in enumerate(encoder.feature_extractor.conv_layers):
        x = block(x)
        assert uses[f"conv {index}"] == x.size(2)
    assert uses["features"] == x.size(2) and uses["positions"] == x.size(2) + 1
    assert uses["frames"] == encoder(torch.randn(1, 4000)).x.size(1) and uses["pairs"] == uses["frames"] ** 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizers_state_is_cut_as_its_weights(kind):
    """Each number of the state names the number of the weight that it belongs to, before and after the cut."""
    encoder = build_gated(**KINDS[kind], prune=UNITS + PARTS)
    spread_gates(encoder)
    with torch.no_grad():  # gates of 0 and 1, so that weights are cut and not scaled
        for log_alpha in encoder.gates.parameters():
            log_alpha.copy_(torch.where(log_alpha > 0, 100.0, -100.0))
        encoder.gates.kinds["conv"].log_alpha[[0, 6, -1]] = 100.0
    keep = {axis: gate.nonzero().flatten() for axis, gate in encoder.gates.eval().draw().items()}
    waves, _ = make_waves(samples=1200)
    optimizer = torch.optim.Adam([p for n, p in encoder.named_parameters() if not n.startswith("gates.")])
    encoder(waves).x.pow(2).mean().backward()
    optimizer.step()
    names = {p: n for n, p in encoder.named_parameters()}
    rows = list_rows(encoder.cfg)
    with torch.no_grad():  # a code in place of each weight and of each state
        state = {names[p]: entry["exp_avg"].copy_(codes(p, names[p])) for p, entry in optimizer.state.items()}
        for parameter, name in names.items():
            if name in state:
                parameter.copy_(codes(parameter, name))
    pruned = prune_encoder(encoder)
    cut = select_tensors(rows, state, keep)
    assert len(cut) > 20
    for name, value in cut.items():
        torch.testing.assert_close(value, pruned.weights[name], msg=name)
        assert value.numel() <= state[name].numel()
    assert sum(v.numel() for v in cut.values()) < 0.95 * sum(v.numel() for v in state.values())


def codes(tensor, name):
    """Numbers that no other place of any tensor has."""
    generator = torch.Generator().manual_seed(len(name))
    return torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)


@pytest.mark.parametrize("prune", PRUNE[1:3], ids="+".join)
def test_gates_are_cut_with_what_they_are_on(prune):
    encoder = build_gated(prune=prune)
    rows = [row for row in list_rows(encoder.cfg) if row.part == EXTRAS[2]]
    state = {row.name: encoder.state_dict()[row.name] for row in rows}
    keep = {
        Axis("conv", 1): torch.tensor([0, 3]),
        Axis("heads", 0): torch.tensor([2]),
        Axis("ffn", 1): torch.tensor([], dtype=int),
    }
    cut = select_tensors(list_rows(encoder.cfg), state, keep)
    log_alpha = state["gates.kinds.conv.log_alpha"]
    assert torch.equal(cut["gates.kinds.conv.log_alpha"], torch.cat([log_alpha[:6], log_alpha[[6, 9]], log_alpha[11:]]))
    log_alpha = state["gates.kinds.heads.log_alpha"]
    assert torch.equal(cut["gates.kinds.heads.log_alpha"], log_alpha[[2, 3, 4, 5]])
    assert torch.equal(cut["gates.kinds.ffn.log_alpha"], state["gates.kinds.ffn.log_alpha"][:5])


def test_a_tensor_without_a_row_is_refused():
    encoder = build_gated()
    with pytest.raises(ValueError, match="no row for prediction_head.weight"):
        select_tensors(list_rows(encoder.cfg), {"prediction_head.weight": torch.ones(2)}, {})
