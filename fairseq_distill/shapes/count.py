"""The size of an encoder from its settings alone, for searches through thousands of shapes."""

from typing import NamedTuple

from ..encoder.config import EncoderConfig
from ..encoder.size import SAMPLE_RATE


class Size(NamedTuple):
    """Encoder parameters as papers count them, and multiply-accumulates per second of audio."""

    parameters: int
    macs_per_second: float


def count_size(cfg: EncoderConfig, seconds: float = 10.0) -> Size:
    """What `encoder.size` counts on the network itself: the same figures without building it.

    Args:
        cfg: the encoder's settings.
        seconds: length of the wave that multiply-accumulates are counted for, then divided by.
    """
    parameters, macs = 0, 0
    samples, in_channels = int(seconds * SAMPLE_RATE), 1
    for index, (channels, kernel, stride) in enumerate(cfg.conv_layers):
        samples = (samples - kernel) // stride + 1
        weights = in_channels * channels * kernel
        has_norm = cfg.extractor_mode == "layer_norm" or index == 0
        parameters += weights + channels * (int(cfg.conv_bias) + 2 * has_norm)
        macs += samples * weights
        in_channels = channels
    frames, width = samples, cfg.encoder_embed_dim
    parameters += 2 * in_channels
    if cfg.has_projection:
        parameters += (in_channels + 1) * width
        macs += frames * in_channels * width

    depth, kernel = cfg.pos_conv_depth, cfg.pos_conv_kernel
    weights = depth * width * (width // cfg.conv_pos_groups) * kernel
    parameters += weights + depth * width + 2 * width  # the last of the norm beside it
    if depth == 1:
        parameters += 2 * width if cfg.conv_pos_batch_norm else kernel
    macs += (frames + 1 - kernel % 2) * weights

    if cfg.time_reduction > 1:
        frames //= cfg.time_reduction
        weights = width * width * cfg.time_reduction
        parameters += weights + width
        macs += frames * weights

    if cfg.relative_position_embedding:
        parameters += cfg.num_buckets * cfg.encoder_attention_heads
    for number, (heads, units) in enumerate(zip(cfg.heads, cfg.ffn_dims), start=1):
        inner, reuses = heads * cfg.attention_head_dim, number in cfg.reuse_attention
        linear, products = (2, 1) if reuses else (4, 2)  # without queries and keys only values and output
        norms = 2 if not cfg.layer_norm_first else (heads > 0) + (units > 0)
        parameters += inner * (linear * width + linear - 1) + units * (2 * width + 1) + 2 * width + norms * 2 * width
        macs += frames * (linear * width * inner + 2 * width * units) + products * frames * frames * inner
        if cfg.gru_rel_pos and heads and not reuses:
            gate = 8 * (width // cfg.encoder_attention_heads)
            parameters += (gate + 8 + heads) if cfg.relative_position_embedding else 0
            macs += frames * heads * gate
    return Size(parameters, macs / seconds)
