"""Cut out what closed gates have switched off: a gated encoder to a smaller one that computes the same."""

from dataclasses import replace
from typing import Dict, List, NamedTuple, Optional

import torch
from torch import Tensor

from ..encoder.config import EncoderConfig
from ..encoder.conv_spec import format_conv_layers
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from .gates import GateValues


class PrunedEncoder(NamedTuple):
    """Settings and weights of what is left; the weights have the names of a `SpeechEncoder` with these settings."""

    config: EncoderConfig
    weights: Dict[str, Tensor]


@torch.no_grad()
def prune_encoder(encoder: SpeechEncoder) -> PrunedEncoder:
    """Slice the tensors of a gated encoder in evaluation mode; soft gates go into the weights that they scale.

    The features of the result equal those of `encoder` up to rounding: see `Gates` for why closed channels leave no trace in
    a LayerNorm. A part of a layer that keeps no unit keeps the bias of its output.

    Raises:
        UserError: a convolution would keep no channel, or no layer any head or unit: nothing would be left to run.
    """
    gates = encoder.gates.eval().draw()
    keep = _find_open(encoder.cfg, gates)
    weights = {key: value for key, value in encoder.state_dict().items() if not key.startswith("gates.")}
    for index, gate in enumerate(gates.conv):
        if gate is not None:
            _cut_channels(weights, index, len(gates.conv), gate, keep.conv[index])
    for index, (heads, units) in enumerate(zip(gates.heads, gates.ffn)):
        if heads is not None:
            _cut_heads(weights, f"encoder.layers.{index}.", encoder.cfg, heads, keep.heads[index])
        if units is not None:
            _cut_units(weights, f"encoder.layers.{index}.", encoder.cfg, units, keep.ffn[index])
    config = _shrink_config(encoder.cfg, keep)
    return PrunedEncoder(config, {key: value.contiguous().clone() for key, value in weights.items()})


def _find_open(cfg: EncoderConfig, gates: GateValues) -> GateValues:
    """Indices of the open units, of all units where there are no gates; UserError if nothing would be left to run."""

    def find(values: List[Optional[Tensor]], sizes: List[int]) -> List[Tensor]:
        return [torch.arange(n) if z is None else z.nonzero().flatten() for z, n in zip(values, sizes)]

    keep = GateValues(
        find(gates.conv, [c for c, _, _ in cfg.conv_layers]),
        find(gates.heads, cfg.heads),
        find(gates.ffn, cfg.ffn_dims),
    )
    empty = [str(index) for index, channels in enumerate(keep.conv) if not len(channels)]
    if empty:
        raise UserError(
            f"convolution {', '.join(empty)} would keep no channel, so no sound would reach the layers: train stage 1 with a "
            "lower model.target_sparsity, or without conv in model.prune"
        )
    if not any(len(units) for units in [*keep.heads, *keep.ffn]):
        raise UserError("no layer would keep a head or a unit: train stage 1 with a lower model.target_sparsity")
    return keep


def _cut_channels(weights: Dict[str, Tensor], index: int, count: int, gate: Tensor, keep: Tensor) -> None:
    block = f"feature_extractor.conv_layers.{index}."
    normed = [f"{block}2.", f"{block}2.1."]  # group norm, layer norm
    reader = f"feature_extractor.conv_layers.{index + 1}.0.weight"
    if index == count - 1:
        reader, normed = "post_extract_proj.weight", [*normed, "layer_norm."]
    for key in [f"{block}0.weight", f"{block}0.bias", *(norm + name for norm in normed for name in ("weight", "bias"))]:
        if key in weights:
            weights[key] = weights[key][keep]
    factors = gate[keep] if index == count - 1 else gate[keep][:, None]
    weights[reader] = weights[reader][:, keep] * factors


def _cut_heads(weights: Dict[str, Tensor], layer: str, cfg: EncoderConfig, gate: Tensor, keep: Tensor) -> None:
    attention = f"{layer}self_attn."
    columns = (keep[:, None] * cfg.attention_head_dim + torch.arange(cfg.attention_head_dim)).flatten()
    out = f"{attention}out_proj.weight"
    weights[out] = (weights[out] * gate.repeat_interleave(cfg.attention_head_dim))[:, columns]
    for key in (f"{attention}{name}_proj.{kind}" for name in "qkv" for kind in ("weight", "bias")):
        weights[key] = weights[key][columns]
    if f"{attention}grep_a" in weights:
        weights[f"{attention}grep_a"] = weights[f"{attention}grep_a"][:, keep]
    if not len(keep):
        _drop(weights, attention, keep_also=f"{attention}out_proj.bias")
        if cfg.layer_norm_first:
            _drop(weights, f"{layer}self_attn_layer_norm.")


def _cut_units(weights: Dict[str, Tensor], layer: str, cfg: EncoderConfig, gate: Tensor, keep: Tensor) -> None:
    for key in (f"{layer}fc1.weight", f"{layer}fc1.bias"):
        weights[key] = weights[key][keep]
    weights[f"{layer}fc2.weight"] = weights[f"{layer}fc2.weight"][:, keep] * gate[keep]
    if not len(keep):
        _drop(weights, f"{layer}fc1.")
        _drop(weights, f"{layer}fc2.", keep_also=f"{layer}fc2.bias")
        if cfg.layer_norm_first:
            _drop(weights, f"{layer}final_layer_norm.")


def _drop(weights: Dict[str, Tensor], prefix: str, keep_also: str = "") -> None:
    for key in [key for key in weights if key.startswith(prefix) and key != keep_also]:
        del weights[key]


def _shrink_config(cfg: EncoderConfig, keep: GateValues) -> EncoderConfig:
    numbers = ""
    if cfg.relative_position_embedding:
        before = [theirs or list(range(n)) for theirs, n in zip(cfg.head_numbers, cfg.heads)]
        left = [[theirs[i] for i in kept.tolist()] for theirs, kept in zip(before, keep.heads)]
        numbers = str(left).replace(" ", "")
    convs = [(len(channels), kernel, stride) for channels, (_, kernel, stride) in zip(keep.conv, cfg.conv_layers)]
    return replace(
        cfg,
        prune=[],
        project_features=cfg.has_projection,
        conv_feature_layers=format_conv_layers(convs),
        layer_heads=[len(heads) for heads in keep.heads],
        layer_ffn_dims=[len(units) for units in keep.ffn],
        layer_head_numbers=numbers,
    )
