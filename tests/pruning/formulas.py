"""The expected size of a gated encoder by DPHuBERT's formulas, in loops over plain numbers."""

import math

from .helpers import by_layer, sigmoid

BIAS = -2 / 3 * math.log(0.1 / 1.1)


def expect_units(encoder):
    """Expected in each layer, by loops: conv channels, heads, chance of any head, FFN neurons, chance of any neuron."""
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
    """DPHuBERT's formulas for the expected number of parameters.

    Convolutions are chained; attention is (D+1)*E[h]*d*3 + (E[h]*d+1)*D, FFN (D+1)*E[f] + (E[f]+1)*D, the rest whole.
    """
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
