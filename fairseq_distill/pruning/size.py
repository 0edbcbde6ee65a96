"""The size that gates expect, in parameters or MACs: what `encoder.size` counts, as a differentiable function of the gates."""

from typing import List

import torch
from torch import Tensor, nn

from ..encoder.config import EncoderConfig
from ..encoder.conv_spec import count_frames
from ..encoder.model import SpeechEncoder
from ..encoder.size import SAMPLE_RATE, measure_parts
from .gates import ExpectedUnits

MACS_SECONDS = 10.0  # length of the wave that MACs are counted for, as in `info`
METRICS = ("params", "macs")


class ExpectedSize(nn.Module):
    """Expected size of a gated encoder, as a fraction of the whole one's.

    Linear in heads and units of each layer, and in the products of neighbouring convolutions' channels: gates are independent,
    so expectations multiply. Parameters are those of `info`'s "encoder"; MACs those of one wave of 10 s. DPHuBERT (2305.17651,
    its code) counts the same, but keeps the LayerNorms of pre-norm parts and WavLM's bias gates of parts that are gone.

    Args:
        encoder: with or without gates; its weights are not looked at.
        metric: "params" or "macs".

    Attributes:
        total: size of the whole encoder.
    """

    def __init__(self, encoder: SpeechEncoder, metric: str):
        super().__init__()
        cfg = encoder.cfg
        sizes = [part.parameters if metric == "params" else part.macs for part in measure_parts(encoder, MACS_SECONDS)]
        self.total = float(sum(sizes))
        per_unit = _count_parameters(cfg) if metric == "params" else _count_macs(cfg)
        for name, values in zip(ExpectedUnits._fields + ("pairs",), per_unit):
            # float64 keeps small parts of a large total, and costs nothing for a few numbers
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64) / self.total, persistent=False)
        ones = [float(h > 0) for h in cfg.heads], [float(f > 0) for f in cfg.ffn_dims]
        everything = [out for out, _, _ in cfg.conv_layers], cfg.heads, cfg.ffn_dims, *ones
        self.constant = 0.0
        self.constant = 1.0 - float(self(ExpectedUnits(*(torch.tensor(x, dtype=torch.float64) for x in everything))))

    def _apply(self, fn, *args, **kwargs):
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        return super()._apply(move, *args, **kwargs)

    def forward(self, expected: ExpectedUnits) -> Tensor:
        """Expected fraction of the size that is left, a float64 scalar."""
        conv = expected.conv.double()
        before = torch.cat([conv.new_ones(1), conv[:-1]])
        size = (self.pairs * before * conv).sum()
        for name, units in zip(ExpectedUnits._fields, expected):
            size = size + (getattr(self, name) * units).sum()
        return size + self.constant


def _count_parameters(cfg: EncoderConfig) -> List[List[float]]:
    """Parameters per conv channel, head, unit, part with any head, part with any unit, and pair of conv channels."""
    width, depth, head_dim = cfg.encoder_embed_dim, cfg.encoder_layers, cfg.attention_head_dim
    layer_norm = cfg.extractor_mode == "layer_norm"
    conv = [float(cfg.conv_bias) + 2 * (layer_norm or index == 0) for index in range(len(cfg.conv_layers))]
    conv[-1] += 2 + width  # LayerNorm and projection
    head, reusing_head = 4 * head_dim * width + 3 * head_dim, 2 * head_dim * width + head_dim
    norm = 2 * width if cfg.layer_norm_first else 0
    any_head = norm
    if cfg.gru_rel_pos:
        head += 1
        any_head += 8 * (width // cfg.encoder_attention_heads) + 8
    pairs = [kernel for _, kernel, _ in cfg.conv_layers]
    heads, any_heads = _spread(cfg, head, reusing_head), _spread(cfg, any_head, norm)
    return [conv, heads, [2 * width + 1] * depth, any_heads, [norm] * depth, pairs]


def _count_macs(cfg: EncoderConfig) -> List[List[float]]:
    """The same in multiply-accumulates for a wave of MACS_SECONDS."""
    samples, width, depth = int(MACS_SECONDS * SAMPLE_RATE), cfg.encoder_embed_dim, cfg.encoder_layers
    lengths = [count_frames(samples, cfg.conv_layers[: index + 1]) for index in range(len(cfg.conv_layers))]
    frames, head_dim = lengths[-1] // cfg.time_reduction, cfg.attention_head_dim
    conv = [0.0] * (len(lengths) - 1) + [lengths[-1] * width]
    head = frames * 4 * width * head_dim + 2 * frames * frames * head_dim
    reusing_head = frames * 2 * width * head_dim + frames * frames * head_dim
    if cfg.gru_rel_pos:
        head += frames * 8 * (width // cfg.encoder_attention_heads)
    none = [0.0] * depth
    pairs = [length * kernel for length, (_, kernel, _) in zip(lengths, cfg.conv_layers)]
    return [conv, _spread(cfg, head, reusing_head), [frames * 2 * width] * depth, none, none, pairs]


def _spread(cfg: EncoderConfig, computing: float, reusing: float) -> List[float]:
    """One value for each layer: of those that compute their attention map, and of those that reuse one."""
    return [reusing if number in cfg.reuse_attention else computing for number in range(1, cfg.encoder_layers + 1)]
