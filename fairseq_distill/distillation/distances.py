"""Distances between predictions and targets, summed over the frames that count."""

from typing import Callable, Dict, Optional

import torch
import torch.nn.functional as F
from torch import Tensor


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


DISTANCES: Dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "mse": mse,
    "cosine": cosine,
    "log_sigmoid_cosine": log_sigmoid_cosine,
}


def sum_distances(
    prediction: Tensor, target: Tensor, padding_mask: Optional[Tensor], names: Dict[str, float]
) -> Dict[str, Tensor]:
    """Each distance in `names` between (batch, frames, width) tensors, in float32, summed over frames without padding.

    Args:
        padding_mask: (batch, frames) bool, True = padding, or None.
        names: distances to compute; those of weight 0 are left out.

    Returns:
        {name: scalar tensor}.
    """
    prediction, target = prediction.float(), target.float()
    sums = {}
    for name in (name for name, weight in names.items() if weight):
        per_frame = DISTANCES[name](prediction, target)
        if padding_mask is not None:
            per_frame = per_frame.masked_fill(padding_mask, 0.0)
        sums[name] = per_frame.sum()
    return sums


def count_frames_that_count(like: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Number of frames without padding in a batch shaped (batch, frames, ...), as a tensor (no GPU synchronisation)."""
    if padding_mask is None:
        return torch.tensor(like.size(0) * like.size(1), device=like.device)
    return (~padding_mask).sum()
