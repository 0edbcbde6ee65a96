"""Exact padding: norms over a wave's own frames, whatever stands behind it in a batch.

Padding comes behind a wave, never before it. Numbers of frames stay tensors, so that nothing here waits for a GPU.
"""

from typing import NamedTuple, Optional, Tuple, Union

import torch
import torch.nn as nn
from torch import Tensor


class Moments(NamedTuple):
    """Mean and variance over what is no padding, float32 or wider; both 0 where all is padding.

    Attributes:
        mean: with the dimensions of size 1 that it was taken over.
        variance: the same shape, of the population.
        centred: the values less their mean; 0 in padding.
        size: how many values each mean is of, at least 1.
    """

    mean: Tensor
    variance: Tensor
    centred: Tensor
    size: Tensor


def may_have_padding(padding_mask: Tensor) -> bool:
    """Whether some of a mask (batch, samples or frames) may be True: no look at a GPU's, nor while it is traced."""
    if padding_mask.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return True
    return bool(padding_mask.any())


def mark_padding(lengths: Tensor, size: int) -> Tensor:
    """Mask (batch, size), True = padding, of waves of `lengths` (batch,) samples or frames, 0 or less = none."""
    return torch.arange(size, device=lengths.device) >= lengths.unsqueeze(-1)


def measure_moments(x: Tensor, padding_mask: Tensor, dims: Union[int, Tuple[int, ...]]) -> Moments:
    """Moments of x over `dims`; the mask, True = padding, is as large as x in these, and 1 or as large elsewhere."""
    valid, x = ~padding_mask, x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(padding_mask, 0)
    count = valid.sum(dims, keepdim=True).clamp(min=1)
    mean = x.sum(dims, keepdim=True) / count
    centred = x.addcmul_(mean, valid.to(x.dtype), value=-1)  # in place: these may be the network's largest tensors
    return Moments(mean, centred.pow(2).sum(dims, keepdim=True) / count, centred, count)


def normalize_channels(norm: nn.GroupNorm, x: Tensor, lengths: Tensor) -> Tensor:
    """A group norm with a group for each channel of (batch, channels, frames), over `lengths` (batch,) frames.

    What comes out behind them is finite and means nothing.
    """
    moments = measure_moments(x, mark_padding(lengths, x.size(2)).unsqueeze(1), 2)
    scale = (moments.variance + norm.eps).rsqrt() * norm.weight.unsqueeze(-1)
    return torch.addcmul(norm.bias.to(scale.dtype).unsqueeze(-1), moments.centred, scale).to(x.dtype)


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch norm of (batch, width, frames) that can leave padding out: the batch is all frames of all waves."""

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """The same shape.

        Args:
            x: (batch, width, frames).
            padding_mask: (batch, frames) bool, True = padding: has no part in the batch's statistics, and becomes 0.
                None = all frames count, as in torch.
        """
        if padding_mask is None:
            return super().forward(x)
        padding_mask = padding_mask.unsqueeze(1)
        if not self.training:
            return super().forward(x).masked_fill(padding_mask, 0)
        moments = measure_moments(x, padding_mask, (0, 2))
        self._track(moments)
        scale = (moments.variance + self.eps).rsqrt() * self.weight.unsqueeze(-1)
        y = torch.addcmul(self.bias.to(scale.dtype).unsqueeze(-1), moments.centred, scale)
        return y.to(x.dtype).masked_fill(padding_mask, 0)

    @torch.no_grad()
    def _track(self, moments: Moments) -> None:
        """The running statistics as torch has them; fewer than two frames, which torch refuses, change nothing."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        count = moments.size.flatten()
        unbiased = moments.variance.flatten() * count / (count - 1).clamp(min=1)
        share = self.momentum * (count > 1).to(unbiased.dtype)
        for running, value in ((self.running_mean, moments.mean.flatten()), (self.running_var, unbiased)):
            running.copy_(torch.lerp(running.to(value.dtype), value, share))
        self.num_batches_tracked += 1
