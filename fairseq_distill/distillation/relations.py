"""Relations between the frames of an utterance, which a student can learn without heads of the teacher's width."""

from typing import Any, Dict, Optional

import torch
from torch import Tensor

from ..errors import UserError
from .states import GroupStates
from .terms import Term


def temporal_relations(
    student: GroupStates, teacher: GroupStates, index: int, padding_mask: Optional[Tensor]
) -> Tensor:
    """Distance of the Gram matrices over frames of a group's mean, (batch, frames)."""
    mine, its = student.hidden[index], teacher.hidden[index]
    return relation_distance(relate(mine, mine), relate(its, its), padding_mask)


def layer_relations(student: GroupStates, teacher: GroupStates, index: int, padding_mask: Optional[Tensor]) -> Tensor:
    """Distance of the Gram matrices of the input and the output of a group's deepest layer, (batch, frames)."""
    mine, its = (relate(side.inputs[index], side.outputs[index]) for side in (student, teacher))
    return relation_distance(mine, its, padding_mask)


def attention_maps(student: GroupStates, teacher: GroupStates, index: int, padding_mask: Optional[Tensor]) -> Tensor:
    """Divergence of the attention of a group's deepest layer, (batch, frames)."""
    return map_divergence(student.maps[index], teacher.maps[index], padding_mask)


def relate(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of all frames of `one` with all of `other`, over the width: (batch, frames, frames), float32.

    With both the same hidden state it is STaR's layer-wise temporal Gram matrix, with a layer's input and output its
    intra-layer one (2312.09040). The division, which makes matrices of different widths comparable, is ours
    (docs/papers/others.md).

    Args:
        one: (batch, frames, width).
        other: the same shape.
    """
    return one.float() @ other.float().transpose(1, 2) / one.size(-1)


def relation_distance(prediction: Tensor, target: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Squared difference of two relations (batch, frames, frames), averaged over valid frames: (batch, frames).

    The average is over the last dimension.
    """
    squares = (prediction - target).pow(2)
    if padding_mask is None:
        return squares.mean(-1)
    keys = (~padding_mask).sum(-1, keepdim=True).clamp(min=1)  # of padding alone, gradients would be no number
    return squares.masked_fill(padding_mask.unsqueeze(1), 0.0).sum(-1) / keys


def map_divergence(prediction: Tensor, target: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Kullback-Leibler divergence of the student's attention from the teacher's, for each query: (batch, frames).

    STaR compares head-averaged maps too (2312.09040); the divergence is ours.

    Args:
        prediction: probabilities (batch, queries, keys), each row summing to 1.
        target: the same shape.
        padding_mask: (batch, frames) bool, True = padding, or None; attention to padding is left out.
    """
    smallest = torch.finfo(torch.float32).tiny
    target = target.float()
    terms = target * (target.clamp(min=smallest).log() - prediction.float().clamp(min=smallest).log())
    return (terms if padding_mask is None else terms.masked_fill(padding_mask.unsqueeze(1), 0.0)).sum(-1)


def needs_layers(name: str, criterion: Any, model_cfg: Any) -> None:
    """Raise UserError where there are no whole utterances of layers to compare, frame by frame."""
    if str(criterion.predict_from) != "layers":
        raise UserError(f"criterion.{name} compares layer to layer: set criterion.predict_from=layers")
    if criterion.masking:
        raise UserError(f"criterion.{name} compares whole utterances: set criterion.masking=false")
    reduction = model_cfg.get("time_reduction", 1)
    if reduction > 1:
        raise UserError(f"criterion.{name} compares frame by frame: model.time_reduction={reduction} must be 1")


RELATIONS: Dict[str, Term] = {
    "temporal_relations": Term(
        temporal_relations,
        "the distance of Gram matrices over frames, of each group in student and teacher (STaR)",
        needs_layers,
    ),
    "layer_relations": Term(
        layer_relations,
        "the distance of Gram matrices of the input and output of each group's deepest layer (STaR)",
        needs_layers,
        captures=("inputs", "outputs"),
    ),
    "attention_maps": Term(
        attention_maps,
        "the divergence of head-averaged attention maps of each group's deepest layer",
        needs_layers,
        captures=("maps",),
    ),
}
