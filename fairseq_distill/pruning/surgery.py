"""Cut out what closed gates have switched off: a gated encoder to a smaller one that computes the same."""

from typing import Dict, List, NamedTuple

import torch
from torch import Tensor

from ..encoder.anatomy import Axis, Keep, list_rows, select_tensors
from ..encoder.config import PRUNABLE, EncoderConfig, count_places, resize
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from .gates import get_gates


class PrunedEncoder(NamedTuple):
    """Settings and weights of what is left; the weights have the names of a `SpeechEncoder` with these settings."""

    config: EncoderConfig
    weights: Dict[str, Tensor]


@torch.no_grad()
def prune_encoder(encoder: SpeechEncoder) -> PrunedEncoder:
    """Slice the tensors of a gated encoder in evaluation mode; soft gates go into the weights that they scale.

    The features of the result equal those of `encoder` up to rounding: see `Gates` for why closed channels leave no
    trace in a LayerNorm. A part of a layer that keeps no head or neuron keeps the bias of its output.

    Raises:
        UserError: a convolution would keep no channel, or no layer any head or neuron: nothing would be left to run.
    """
    gates = get_gates(encoder).eval().draw()
    keep = {axis: gate.nonzero().flatten() for axis, gate in gates.items()}
    config = shrink_config(encoder.cfg, keep)
    weights = {key: value for key, value in encoder.state_dict().items() if not key.startswith("gates.")}
    return PrunedEncoder(config, select_tensors(list_rows(encoder.cfg), weights, keep, gates))


def shrink_config(cfg: EncoderConfig, keep: Keep) -> EncoderConfig:
    """Settings of an encoder of which only the places in `keep` are left; UserError if nothing would be left to run."""
    sizes = {name: counts for name, counts in count_places(cfg).items() if not PRUNABLE[name].whole}
    left = {name: [_count_left(Axis(name, i), n, keep) for i, n in enumerate(counts)] for name, counts in sizes.items()}
    empty = [str(index) for index, channels in enumerate(left["conv"]) if not channels]
    if empty:
        raise UserError(
            f"convolution {', '.join(empty)} would keep no channel, so no sound would reach the layers: train stage 1 "
            "with a lower model.target_sparsity, or without conv in model.prune"
        )
    if not any(sum(counts) for name, counts in left.items() if name != "conv"):
        raise UserError("no layer would keep a head or a neuron: train stage 1 with a lower model.target_sparsity")
    small = resize(cfg, left)
    small.layer_head_numbers = _number_heads(cfg, keep)
    return small


def _count_left(axis: Axis, count: int, keep: Keep) -> int:
    return len(keep[axis]) if axis in keep else count


def _number_heads(cfg: EncoderConfig, keep: Keep) -> str:
    """`layer_head_numbers` of what is left: which head of WavLM's shared position bias each head has."""
    if not cfg.relative_position_embedding:
        return ""
    left: List[List[int]] = []
    for layer, (given, count) in enumerate(zip(cfg.head_numbers, cfg.heads)):
        numbers = list(range(count)) if given is None else given
        kept = keep.get(Axis("heads", layer))
        left.append(numbers if kept is None else [numbers[i] for i in kept.tolist()])
    return str(left).replace(" ", "")
