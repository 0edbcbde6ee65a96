"""Relations between the frames of an utterance, which a student can learn without projections to the teacher's width."""

from typing import Any, Collection, Dict, Optional

import torch
from torch import Tensor

from .states import Capture

RELATIONS = ("temporal_relations", "layer_relations", "attention_maps")


def needed_for(names: Collection[str]) -> Capture:
    """What must be captured of student and teacher for relations."""
    return Capture(pairs="layer_relations" in names, maps="attention_maps" in names)


def sum_relations(
    prediction: Any, target: Any, index: int, padding_mask: Optional[Tensor], names: Collection[str]
) -> Dict[str, Tensor]:
    """Each relation in `names` between student and teacher at group `index`, in float32, summed over frames.

    Args:
        prediction: `StudentPredictions`.
        target: `Targets`.
        padding_mask: (batch, frames) bool, True = padding, or None.

    Returns:
        {name: scalar tensor}.
    """
    per_frame = {}
    if "temporal_relations" in names:
        mine, its = prediction.hidden[index], target.values[index]
        per_frame["temporal_relations"] = relation_distance(relate(mine, mine), relate(its, its), padding_mask)
    if "layer_relations" in names:
        mine, its = (relate(*side.pairs[index]) for side in (prediction, target))
        per_frame["layer_relations"] = relation_distance(mine, its, padding_mask)
    if "attention_maps" in names:
        per_frame["attention_maps"] = map_divergence(prediction.maps[index], target.maps[index], padding_mask)
    sums = {}
    for name, values in per_frame.items():
        sums[name] = (values if padding_mask is None else values.masked_fill(padding_mask, 0.0)).sum()
    return sums


def relate(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of all frames of `one` with all of `other`, over the width: (batch, frames, frames), float32.

    With both the same hidden state it is STaR's layer-wise temporal Gram matrix, with a layer's input and output its
    intra-layer one (2312.09040). The division, which makes matrices of different widths comparable, is ours: how the paper
    scales them is not known to us.

    Args:
        one, other: (batch, frames, width).
    """
    return one.float() @ other.float().transpose(1, 2) / one.size(-1)


def relation_distance(prediction: Tensor, target: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Squared difference of two relations (batch, frames, frames), averaged over the frames that are no padding in the last
    dimension: (batch, frames).
    """
    return _mean_over_keys((prediction - target).pow(2), padding_mask)


def map_divergence(prediction: Tensor, target: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Kullback-Leibler divergence of the student's attention from the teacher's, for each query: (batch, frames).

    STaR compares head-averaged maps too (2312.09040); the divergence is ours.

    Args:
        prediction, target: probabilities (batch, queries, keys), each row summing to 1.
        padding_mask: (batch, frames) bool, True = padding, or None; attention to padding is left out.
    """
    smallest = torch.finfo(torch.float32).tiny
    target = target.float()
    terms = target * (target.clamp(min=smallest).log() - prediction.float().clamp(min=smallest).log())
    return (terms if padding_mask is None else terms.masked_fill(padding_mask.unsqueeze(1), 0.0)).sum(-1)


def _mean_over_keys(values: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Mean over the last dimension of (batch, queries, keys), without keys that are padding."""
    if padding_mask is None:
        return values.mean(-1)
    keys = (~padding_mask).sum(-1, keepdim=True)
    return values.masked_fill(padding_mask.unsqueeze(1), 0.0).sum(-1) / keys
