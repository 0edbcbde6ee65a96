"""Layers that read channels, heads or neurons which may have gates: linear, convolution, LayerNorm.

A gate is a factor on the weights that read what it is on. Multiplying those costs O(weights) a step, whatever the
number of frames, and nothing that depends on frames is kept for the backward pass besides what the plain layer keeps.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class ScaledLinear(nn.Linear):
    """Linear layer whose inputs may be scaled: y = W (scale * x) + b."""

    def forward(self, x: Tensor, scale: Optional[Tensor] = None) -> Tensor:
        """(..., in_features) to (..., out_features); scale (in_features,) in float32, or None."""
        if scale is None:
            return super().forward(x)
        if torch.is_autocast_enabled(x.device.type):
            return F.linear(x, self.weight * scale, self.bias)
        return _ScaledLinear.apply(x, self.weight, self.bias, scale)


class ScaledConv1d(nn.Conv1d):
    """Convolution (no groups, no padding) whose input channels may be scaled."""

    def forward(self, x: Tensor, scale: Optional[Tensor] = None) -> Tensor:
        """(batch, in_channels, frames) to (batch, out_channels, frames); scale (in_channels,) in float32, or None."""
        if scale is None:
            return super().forward(x)
        if torch.is_autocast_enabled(x.device.type):
            return F.conv1d(x, self.weight * scale[:, None], self.bias, self.stride)
        return _ScaledConv.apply(x, self.weight, self.bias, scale, self.stride)


class OpenLayerNorm(nn.LayerNorm):
    """LayerNorm over channels of which some may be closed: mean and variance are those of the open ones.

    So what a closed channel holds changes nothing for the others, and the network without it has a plain LayerNorm of
    fewer channels. Which channels are open is taken as given: no gradient reaches the gates through the statistics.
    """

    def forward(self, x: Tensor, gates: Optional[Tensor] = None) -> Tensor:
        """(..., channels) to the same shape; what comes out in closed channels means nothing.

        Args:
            x: the channels.
            gates: (channels,), of which those above 0 are open; None = all are.
        """
        if gates is None:
            return super().forward(x)
        return _OpenNorm.apply(x, self.weight, self.bias, (gates.detach() > 0).float(), self.eps)


def _split_gradient(gradient: Tensor, weight: Tensor, factors: Tensor) -> Tuple[Tensor, Tensor]:
    """From the gradient of weight * factors, both (out, in), to those of weight and of factors (float32)."""
    of_factors = (gradient.float() * weight).sum(0)
    return gradient.mul_(factors), of_factors


class _ScaledLinear(torch.autograd.Function):
    """Keeps weight and scale for the backward pass, not their product: another copy of the layer's weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor], scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        return F.linear(x, weight * scale.to(weight.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        x, weight, scale = ctx.saved_tensors
        factors = scale.to(weight.dtype)
        of_x = of_weight = of_bias = of_scale = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ (weight * factors)
        rows = grad.flatten(0, -2)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[3]:
            of_weight, of_scale = _split_gradient(rows.t() @ x.flatten(0, -2), weight, factors)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias, of_scale


class _ScaledConv(torch.autograd.Function):
    """As `_ScaledLinear`, for a convolution: its weight (out, in, kernel) is seen as (out, in * kernel)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor], scale: Tensor, stride: Tuple[int, ...]
    ) -> Tensor:
        factors = scale.to(weight.dtype).repeat_interleave(weight.size(2))
        ctx.save_for_backward(x, weight, factors)
        ctx.stride, ctx.bias_size = stride, None if bias is None else [bias.numel()]
        return F.conv1d(x, (weight.flatten(1) * factors).view_as(weight), bias, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        x, weight, factors = ctx.saved_tensors
        weight_wanted = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        wanted = [ctx.needs_input_grad[0], weight_wanted, ctx.needs_input_grad[2]]
        scaled = (weight.flatten(1) * factors).view_as(weight)
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad, x, scaled, ctx.bias_size, ctx.stride, [0], [1], False, [0], 1, wanted
        )
        of_scale = None
        if weight_wanted:
            flat, of_factors = _split_gradient(of_weight.flatten(1), weight.flatten(1), factors)
            of_weight, of_scale = flat.view_as(weight), of_factors.view(-1, weight.size(2)).sum(1)
        return of_x, of_weight, of_bias, of_scale, None


class _OpenNorm(torch.autograd.Function):
    """LayerNorm with the statistics of the open channels, in float32; keeps its input and two numbers a frame."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, open_channels: Tensor, eps: float) -> Tensor:
        share = open_channels / open_channels.sum().clamp(min=1)
        centred = x.float()
        mean = (centred * share).sum(-1, keepdim=True)
        centred = centred - mean
        rstd = ((centred * centred * share).sum(-1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(x, weight, share, mean, rstd)
        return torch.addcmul(bias.float(), centred.mul_(rstd), weight.float()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        x, weight, share, mean, rstd = ctx.saved_tensors
        normal = (x.float() - mean) * rstd
        grad = grad.float()
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_normal = grad * weight.float()
            through_rstd = normal * (of_normal * normal).sum(-1, keepdim=True)
            through_mean = of_normal.sum(-1, keepdim=True)
            of_x = (rstd * (of_normal - share * (through_mean + through_rstd))).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = (grad * normal).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = grad.flatten(0, -2).sum(0).to(weight.dtype)
        return of_x, of_weight, of_bias, None, None
