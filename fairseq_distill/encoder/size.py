"""The size of an encoder: parameters, and multiply-accumulates per second of audio."""

from typing import Dict, List, NamedTuple

from .config import EncoderConfig
from .model import SpeechEncoder

SAMPLE_RATE = 16_000


class Part(NamedTuple):
    """One part of an encoder: its name, what is in it, parameters, and multiply-accumulates for some length of audio."""

    name: str
    shape: str
    parameters: int
    macs: float


def measure_parts(encoder: SpeechEncoder, seconds: float = 10.0) -> List[Part]:
    """Parameters and multiply-accumulates of every part, in the order of the computation.

    Parameters are counted on the network itself. Multiply-accumulates are those of convolutions, linear layers and the
    two products of attention, for one wave of `seconds`; norms, activations and softmax are left out, as is usual.
    The cost of attention grows with the square of the length, so the length must be stated with the figure.
    """
    cfg = encoder.cfg
    parts = []
    samples = int(seconds * SAMPLE_RATE)
    in_channels = 1
    for index, (channels, kernel, stride) in enumerate(cfg.conv_layers):
        samples = (samples - kernel) // stride + 1
        macs = samples * in_channels * channels * kernel
        layer = encoder.feature_extractor.conv_layers[index]
        parts.append(
            Part(f"conv {index}", f"{in_channels}->{channels}, kernel {kernel}, stride {stride}", _count(layer), macs)
        )
        in_channels = channels
    frames, width = samples, cfg.encoder_embed_dim
    projection = encoder.post_extract_proj
    macs = frames * in_channels * width if projection is not None else 0
    parts.append(Part("projection", f"{in_channels}->{width}", _count(encoder.layer_norm) + _count(projection), macs))
    transformer = encoder.encoder
    depth, kernel, groups = cfg.pos_conv_depth, cfg.pos_conv_kernel, cfg.conv_pos_groups
    shape = (f"{depth} x " if depth > 1 else "") + f"kernel {kernel}, {groups} groups"
    computed = frames + 1 - kernel % 2  # an even kernel computes one frame more than is kept
    macs = computed * depth * width * (width // groups) * kernel
    parts.append(Part("positions", shape, _count(transformer.pos_conv), macs))
    if transformer.time_reduction is not None:
        factor = cfg.time_reduction
        frames //= factor
        macs = frames * width * width * factor
        parts.append(Part("time reduction", f"{factor} frames to 1", _count(transformer.time_reduction), macs))
    bias = transformer.relative_attention_bias
    if bias is not None:
        parts.append(
            Part("position bias", f"{bias.num_embeddings} buckets, {bias.embedding_dim} heads", _count(bias), 0)
        )
    parts.append(Part("final norm" if cfg.layer_norm_first else "first norm", "", _count(transformer.layer_norm), 0))
    for number, (layer, heads, ffn) in enumerate(zip(transformer.layers, cfg.heads, cfg.ffn_dims), start=1):
        inner, reuses = heads * cfg.attention_head_dim, number in cfg.reuse_attention
        # keys, queries, values and output; scores and their use
        linear, products = (2, 1) if reuses else (4, 2)
        macs = frames * (linear * width * inner + 2 * width * ffn) + products * frames * frames * inner
        if cfg.gru_rel_pos and heads and not reuses:
            macs += frames * heads * 8 * (width // cfg.encoder_attention_heads)
        shape = f"{heads} heads x {cfg.attention_head_dim}{' reused' if reuses else ''}, {ffn} units"
        parts.append(Part(f"layer {number}", shape, _count(layer), macs))
    return parts


def count_parameters(encoder: SpeechEncoder) -> Dict[str, int]:
    """Parameters by what papers count.

    Returns:
        "encoder": convolutions, projection, positions, norms, layers (the figure of DistilHuBERT and DPHuBERT);
        "mask_emb": the embedding of masked frames; "heads": heads of distillation and of masked prediction. Gates are in
        none of them.
    """
    total = _count(encoder) - _count(encoder.gates)
    mask = encoder.mask_emb.numel()
    body = sum(
        _count(m) for m in (encoder.feature_extractor, encoder.layer_norm, encoder.post_extract_proj, encoder.encoder)
    )
    return {"encoder": body, "mask_emb": mask, "heads": total - body - mask}


def macs_per_second(encoder: SpeechEncoder, seconds: float = 10.0) -> float:
    """Multiply-accumulates per second of audio, in a wave of `seconds`."""
    return sum(part.macs for part in measure_parts(encoder, seconds)) / seconds


def frame_rate(cfg: EncoderConfig) -> float:
    """Frames of the hidden states per second of audio."""
    return SAMPLE_RATE / cfg.frame_stride


def _count(module) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0
