"""From our encoder to `portable_model.PortableEncoder`: its settings as plain values, and its weights by its names."""

import re
from typing import Any, Dict

import torch
from torch import Tensor

from ..encoder.config import EncoderConfig
from ..encoder.convolution import PositionalConv
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from .source import Source

# fairseq's "gelu_fast" is an older name of "gelu_accurate"
_ACTIVATIONS = {"gelu_accurate": "gelu_tanh", "gelu_fast": "gelu_tanh"}


def refuse_gates(source: Source) -> None:
    """Refuse, with a UserError, an encoder whose gates are not cut: its weights are not yet the student's."""
    if source.config.prune:
        raise UserError(
            f"{source.checkpoint.path} is not exported: prune={list(source.config.prune)}; cut the gates first "
            "(fairseq-distill prune)"
        )


def describe_network(cfg: EncoderConfig) -> Dict[str, Any]:
    """The argument of `PortableEncoder`: plain values, which JSON holds."""
    bias = None
    if cfg.relative_position_embedding:
        numbers = [list(range(heads)) if given is None else given for heads, given in zip(cfg.heads, cfg.head_numbers)]
        bias = {
            "heads": cfg.encoder_attention_heads,
            "num_buckets": cfg.num_buckets,
            "max_distance": cfg.max_distance,
            "gated": cfg.gru_rel_pos,
            "head_numbers": numbers,
        }
    activation = str(cfg.activation_fn)
    return {
        "sample_rate": cfg.sample_rate,
        "normalize": cfg.normalize,
        "conv_layers": [list(layer) for layer in cfg.conv_layers],
        "conv_bias": cfg.conv_bias,
        "conv_norm": "layer" if str(cfg.extractor_mode) == "layer_norm" else "group",
        "scale_features": cfg.scale_features,
        "projection": cfg.has_projection,
        "width": cfg.encoder_embed_dim,
        "positions": {
            "kernel": cfg.pos_conv_kernel,
            "groups": cfg.conv_pos_groups,
            "depth": cfg.pos_conv_depth,
            "batch_norm": cfg.conv_pos_batch_norm and cfg.pos_conv_depth == 1,
        },
        "pre_norm": cfg.layer_norm_first,
        "activation": _ACTIVATIONS.get(activation, activation),
        "heads": cfg.heads,
        "head_dim": cfg.attention_head_dim,
        "ffn_dims": cfg.ffn_dims,
        "position_bias": bias,
        "time_reduction": cfg.time_reduction,
        "reuse_attention": sorted(cfg.reuse_attention),
    }


@torch.no_grad()
def convert_weights(encoder: SpeechEncoder) -> Dict[str, Tensor]:
    """The encoder's weights by `PortableEncoder`'s names, float32 copies.

    fairseq's names, but for positions: weight norm is multiplied out, and what stands where is said by name. What
    features do not depend on is left out: the mask embedding, the layers of masked prediction.
    """
    weights = {key: value for key, value in encoder.state_dict().items() if key.startswith(_READ)}
    positions = encoder.encoder.pos_conv
    stacked = not isinstance(positions, PositionalConv)
    if not stacked and not positions.batch_norm:
        direction, length = (weights.pop(f"encoder.pos_conv.0.weight_{letter}") for letter in "vg")
        weights["encoder.pos_conv.0.weight"] = torch._weight_norm(direction.float(), length.float(), 2)
    renamed = {}
    for key, value in weights.items():
        if stacked:
            key = re.sub(r"^encoder\.pos_conv\.(\d+)\.0\.", r"encoder.pos_conv.convs.\1.", key)
        elif positions.batch_norm:
            key = re.sub(r"^encoder\.pos_conv\.0\.", "encoder.pos_conv.norm.", key)
            key = re.sub(r"^encoder\.pos_conv\.1\.", "encoder.pos_conv.convs.0.", key)
        else:
            key = re.sub(r"^encoder\.pos_conv\.0\.", "encoder.pos_conv.convs.0.", key)
        renamed[key] = value.detach().clone().contiguous()
    return renamed


_READ = ("feature_extractor.", "feature_scale", "layer_norm.", "post_extract_proj.", "encoder.")
