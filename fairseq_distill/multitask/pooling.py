"""From the frames of an utterance to one vector: mean, standard deviation, attention; padding never counts."""

from typing import Dict, Optional, Type, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pruning.hard_concrete import Float32Module

_MIN_VARIANCE = 1e-6  # keeps the gradient of the root finite where all frames are equal
_ATTENTION_WIDTH = 128  # as in ECAPA-TDNN (2005.07143)


def weigh_frames(x: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Equal weights of the frames that are not padding, (batch, frames, 1) in float32, of sum 1."""
    if padding_mask is None:
        return torch.full((*x.shape[:2], 1), 1 / x.size(1), device=x.device)
    valid = (~padding_mask).unsqueeze(-1).float()
    return valid / valid.sum(1, keepdim=True).clamp(min=1)


def pool_mean(x: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Mean over frames, (batch, frames, width) to (batch, width) float32; mask (batch, frames), True = padding."""
    return (x.float() * weigh_frames(x, padding_mask)).sum(1)


def pool_statistics(x: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean and standard deviation over frames: (batch, frames, width) to (batch, 2 width) float32.

    Args:
        x: (batch, frames, width).
        weights: (batch, frames, 1 or width), of sum 1 over frames; 0 for padding.
    """
    x = x.float()
    mean = (x * weights).sum(1)
    variance = ((x - mean.unsqueeze(1)).pow(2) * weights).sum(1)
    return torch.cat([mean, variance.clamp(min=_MIN_VARIANCE).sqrt()], dim=-1)


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over frames."""

    def __init__(self, width: int):
        super().__init__()
        self.out_dim = 2 * width

    def forward(self, x: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
        """(batch, frames, width) to (batch, 2 width) float32."""
        return pool_statistics(x, weigh_frames(x, padding_mask))


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation over frames, each frame weighted by a learned score (1803.10963): v tanh(W x + b)."""

    def __init__(self, width: int):
        super().__init__()
        self.out_dim = 2 * width
        self.score = nn.Sequential(nn.Linear(width, _ATTENTION_WIDTH), nn.Tanh(), nn.Linear(_ATTENTION_WIDTH, 1))

    def forward(self, x: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
        """(batch, frames, width) to (batch, 2 width) float32."""
        score = self.score(x).float()
        if padding_mask is not None:
            # not minus infinity: a wave without any frame would make NaN
            score = score.masked_fill(padding_mask.unsqueeze(-1), torch.finfo(torch.float32).min)
        return pool_statistics(x, score.softmax(dim=1))


class PooledNorm(Float32Module):
    """Batch normalisation of pooled vectors, in float32, over the utterances that have a label.

    x-vectors and ECAPA-TDNN (2005.07143) have one there: what all utterances share would else outweigh, in a cosine,
    what tells them apart.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor, labelled: Optional[Tensor] = None) -> Tensor:
        """In training with the batch's statistics, if two utterances have a label, else with the running ones.

        Args:
            x: (batch, width).
            labelled: (batch,) bool, the utterances that count; None = all. In training the others become 0.

        Returns:
            (batch, width) float32.
        """
        x, norm = x.float(), self.norm
        rows = x if labelled is None else x[labelled]
        if not self.training or len(rows) < 2:
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return norm(x) if labelled is None else torch.zeros_like(x).masked_scatter(labelled.unsqueeze(1), norm(rows))


POOLINGS: Dict[str, Type[Union[StatisticsPooling, AttentiveStatisticsPooling]]] = {
    "statistics": StatisticsPooling,
    "attentive": AttentiveStatisticsPooling,
}
