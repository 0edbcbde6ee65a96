"""The expected size against DPHuBERT's formulas in loops, and against what `info` counts."""

import math

import pytest
import torch

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.size import count_parameters, macs_per_second, measure_parts
from fairseq_distill.pruning.gates import Gates
from fairseq_distill.pruning.size import ExpectedSize
from fairseq_distill.pruning.surgery import prune_encoder

from .helpers import KINDS, PARTS, UNITS, WAVLM, build_gated, by_layer, sigmoid, spread_gates

BIAS = -2 / 3 * math.log(0.1 / 1.1)


def build_empty(**settings) -> SpeechEncoder:
    """An encoder of full size without memory for its weights."""
    with torch.device("meta"):
        return SpeechEncoder(EncoderConfig(**settings))


def expect_units(encoder):
    """(conv channels, heads, units) expected in each layer and the chance that a layer has any head or unit, by loops."""
    cfg, alphas = encoder.cfg, by_layer(encoder)
    p = {name: [[sigmoid(a + BIAS) for a in layer] for layer in layers] for name, layers in alphas.items()}
    channels = [out for out, _, _ in cfg.conv_layers]
    conv = [sum(layer) if layer else full for layer, full in zip(p.get("conv", [[]] * len(channels)), channels)]
    result = [conv]
    for units, part, sizes in (("heads", "attention_layers", cfg.heads), ("ffn", "ffn_layers", cfg.ffn_dims)):
        expected, anything = [], []
        for layer, size in enumerate(sizes):
            whole = sum(p[part][layer]) if part in p else float(size > 0)
            closed = math.prod(1 - q for q in p[units][layer]) if units in p and size else 0.0
            expected.append(whole * (sum(p[units][layer]) if units in p else size))
            anything.append(whole * (1 - closed))
        result += [expected, anything]
    return result


def count_expected_parameters(encoder) -> float:
    """DPHuBERT's formulas: convolutions chained, (D+1)*E[h]*d*3 + (E[h]*d+1)*D, (D+1)*E[f] + (E[f]+1)*D, the rest whole."""
    cfg = encoder.cfg
    conv, heads, any_head, units, any_unit = expect_units(encoder)
    width, dim = cfg.encoder_embed_dim, cfg.attention_head_dim
    total, before = 0.0, 1.0
    for index, (channels, (_, kernel, _)) in enumerate(zip(conv, cfg.conv_layers)):
        total += before * channels * kernel + cfg.conv_bias * channels
        total += 2 * channels if cfg.extractor_mode == "layer_norm" or index == 0 else 0
        before = channels
    total += 2 * before + ((before + 1) * width if encoder.post_extract_proj is not None else 0)
    outside = [encoder.encoder.pos_conv, encoder.encoder.layer_norm, encoder.encoder.relative_attention_bias]
    total += sum(p.numel() for module in outside if module is not None for p in module.parameters())
    for h, some_head, f, some_unit in zip(heads, any_head, units, any_unit):
        total += (width + 1) * h * dim * 3 + (h * dim + 1) * width + (width + 1) * f + (f + 1) * width
        # a pre-norm part takes its LayerNorm with it, and WavLM's position gate goes with the last head
        total += 2 * width * (some_head + some_unit if cfg.layer_norm_first else 2)
        total += h + some_head * (8 * width // cfg.encoder_attention_heads + 8) if cfg.gru_rel_pos else 0
    return total


def count_expected_macs(encoder, seconds=10) -> float:
    """Products in convolutions, linear layers and attention for one wave."""
    cfg = encoder.cfg
    conv, heads, _, units, _ = expect_units(encoder)
    width, dim = cfg.encoder_embed_dim, cfg.attention_head_dim
    total, before, frames = 0.0, 1.0, 16_000 * seconds
    for channels, (_, kernel, stride) in zip(conv, cfg.conv_layers):
        frames = (frames - kernel) // stride + 1
        total += frames * before * channels * kernel
        before = channels
    total += frames * before * width if encoder.post_extract_proj is not None else 0
    positions = frames + 1 if cfg.pos_conv_kernel % 2 == 0 else frames
    total += positions * cfg.pos_conv_depth * width * width / cfg.conv_pos_groups * cfg.pos_conv_kernel
    for h, f in zip(heads, units):
        total += 4 * frames * width * h * dim + 2 * frames * frames * h * dim + 2 * frames * width * f
        total += frames * h * 8 * width / cfg.encoder_attention_heads if cfg.gru_rel_pos else 0
    return total


COUNTS = {"params": count_expected_parameters, "macs": count_expected_macs}


@pytest.mark.parametrize("family", ["hubert", "wavlm"])
def test_base_shape_starts_at_an_expected_sparsity_of_0_102(family):
    settings = WAVLM if family == "wavlm" else {}
    encoder = build_empty(**{**settings, "num_buckets": 320, "max_distance": 1280})
    torch.manual_seed(0)
    gates = Gates(EncoderConfig(prune=UNITS))
    with torch.no_grad():
        size = ExpectedSize(encoder, "params")
        assert size.total == count_parameters(encoder)["encoder"]
        assert 1 - size(gates.expect()).item() == pytest.approx(0.102, abs=0.0005)


@pytest.mark.parametrize("metric", COUNTS)
@pytest.mark.parametrize("prune", [UNITS, UNITS + PARTS, PARTS, ["ffn", "attention_layers"]], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_expected_size_equals_loops(kind, prune, metric):
    encoder = build_gated(**KINDS[kind], prune=prune)
    spread_gates(encoder, mean=-1.0)
    size = ExpectedSize(encoder, metric)
    total = {"params": count_parameters(encoder)["encoder"], "macs": 10 * macs_per_second(encoder)}[metric]
    assert size.total == total
    fraction = size(encoder.gates.expect()).item()
    assert fraction == pytest.approx(COUNTS[metric](encoder) / total, rel=1e-5)
    assert 0.1 < fraction < 0.99


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_expected_size_of_decided_gates_is_that_of_the_pruned_encoder(kind, seed):
    """Gates are 0 or 1, some layers go whole: then the expected size is what `info` counts."""
    encoder = build_gated(**KINDS[kind], prune=UNITS + PARTS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for log_alpha in encoder.gates.parameters():
            opened = torch.rand(log_alpha.shape, generator=generator) < 0.6
            log_alpha.copy_(torch.where(opened, 40.0, -40.0))
        encoder.gates.kinds["conv"].log_alpha[[0, 6, -1]] = 40.0  # a channel of each convolution
        encoder.gates.kinds["ffn"].log_alpha[0] = encoder.gates.kinds["ffn_layers"].log_alpha[0] = 40.0
        if seed == 0:
            encoder.gates.kinds["heads"].log_alpha[:3] = encoder.gates.kinds["ffn"].log_alpha[5:] = -40.0
        pruned = prune_encoder(encoder)
        small = SpeechEncoder(pruned.config)
        expected = {
            "params": count_parameters(small)["encoder"],
            "macs": sum(part.macs for part in measure_parts(small)),
        }
        for metric, left in expected.items():
            size = ExpectedSize(encoder, metric)
            assert size(encoder.gates.expect()).item() * size.total == pytest.approx(left, rel=1e-6)
            assert left < 0.95 * size.total
    if seed == 0:
        assert pruned.config.heads[0] == 0 and pruned.config.ffn_dims[1] == 0


@pytest.mark.parametrize(
    "settings",
    [dict(layer_heads=[0, 2], layer_ffn_dims=[4, 0]), dict(layer_heads=[3, 1], head_dim=5)],
    ids=["gone", "uneven"],
)
@pytest.mark.parametrize("metric", COUNTS)
def test_expected_size_of_an_encoder_that_is_uneven_already(settings, metric):
    for kind in ("hubert", "wavlm large"):
        encoder = build_gated(**KINDS[kind], **settings, prune=UNITS + PARTS)
        spread_gates(encoder)
        size = ExpectedSize(encoder, metric)
        assert size(encoder.gates.expect()).item() * size.total == pytest.approx(COUNTS[metric](encoder), rel=1e-5)


@pytest.mark.parametrize("metric", COUNTS)
@pytest.mark.parametrize("kind", ["hubert", "wavlm large"])
def test_gradient_of_the_size_by_finite_differences(kind, metric):
    encoder = build_gated(**KINDS[kind], prune=UNITS + PARTS)
    spread_gates(encoder, mean=-1.5, std=1.0)
    size = ExpectedSize(encoder, metric)
    for gates in encoder.gates.kinds.values():
        gates.log_alpha = torch.nn.Parameter(gates.log_alpha.detach().double())
    size(encoder.gates.expect()).backward()
    for name, gates in encoder.gates.kinds.items():
        for index in range(0, len(gates.log_alpha), 3):
            around = []
            for step in (1e-4, -1e-4):
                with torch.no_grad():
                    gates.log_alpha[index] += step
                    around.append(size(encoder.gates.expect()).item())
                    gates.log_alpha[index] -= step
            slope = (around[0] - around[1]) / 2e-4
            assert gates.log_alpha.grad[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-9), (name, index)
            assert slope > 0, (name, index)
