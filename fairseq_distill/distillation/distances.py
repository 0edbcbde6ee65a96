"""Distances between the student's predictions and the teacher's hidden states, frame by frame."""

from typing import Any, Callable, Dict, Optional

import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .states import GroupStates
from .terms import Measure, Term


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference over the width, (batch, frames)."""
    return (prediction - target).abs().mean(-1)


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference over the width, (batch, frames)."""
    return (prediction - target).pow(2).mean(-1)


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine similarity, (batch, frames); -1 at best (DPHuBERT, 2305.17651)."""
    return -F.cosine_similarity(prediction, target, dim=-1)


def log_sigmoid_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Minus log sigmoid of the cosine similarity, (batch, frames); 0.313 at best (DistilHuBERT, 2110.01900, eq. 1)."""
    return -F.logsigmoid(F.cosine_similarity(prediction, target, dim=-1))


def compare(distance: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """A distance of (batch, frames, width) tensors as the measure of a term: of predictions and targets, in float32."""

    def measure(student: GroupStates, teacher: GroupStates, index: int, padding_mask: Optional[Tensor]) -> Tensor:
        return distance(student.predictions[index].float(), teacher.hidden[index].float())

    return measure


def needs_heads(name: str, criterion: Any, model_cfg: Any) -> None:
    """Raise UserError where the student has no heads to make predictions."""
    if str(model_cfg.get("prediction_head", "linear")) == "none":
        raise UserError(
            f"criterion.{name} compares features at the teacher's width: set model.prediction_head=linear (or its "
            "weight to 0)"
        )


DISTANCES: Dict[str, Term] = {
    "l1": Term(compare(l1), "the mean absolute difference", needs_heads, default=1.0),
    "mse": Term(compare(mse), "the mean squared difference", needs_heads),
    "cosine": Term(compare(cosine), "minus the cosine similarity", needs_heads, default=1.0),
    "log_sigmoid_cosine": Term(compare(log_sigmoid_cosine), "minus log sigmoid of the cosine similarity", needs_heads),
}
