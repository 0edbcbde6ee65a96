"""Self-attention with any number of heads, and WavLM's gated relative position bias."""

import math
from typing import List, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .readers import ScaledLinear


class SelfAttention(nn.Module):
    """Multi-head self-attention over (batch, frames, width).

    Args:
        width: width of input and output.
        heads: number of heads, at least 1; `heads * head_dim` may differ from `width`.
        head_dim: width of one head.
        dropout: probability of dropping an attention weight.
        bias_heads: number of heads of the encoder's position bias where it is gated per layer (WavLM), else 0.
        numbers: which heads of the encoder's position bias this layer's heads have; None = the first ones.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        dropout: float,
        bias_heads: int = 0,
        numbers: Optional[List[int]] = None,
    ):
        super().__init__()
        self.heads, self.head_dim, self.dropout, self.bias_heads = heads, head_dim, dropout, bias_heads
        self.numbers = slice(heads) if numbers is None else numbers
        self.k_proj = nn.Linear(width, heads * head_dim)
        self.v_proj = nn.Linear(width, heads * head_dim)
        self.q_proj = nn.Linear(width, heads * head_dim)
        self.out_proj = ScaledLinear(heads * head_dim, width)
        if bias_heads:
            self.grep_linear = nn.Linear(width // bias_heads, 8)
            self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Tensor, attention_mask: Optional[Tensor], position_bias: Optional[Tensor]) -> Tensor:
        """Attend.

        Args:
            x: (batch, frames, width).
            attention_mask: (batch, 1, 1, frames), added to the scores: 0 or minus infinity where a key is padding.
            position_bias: (bias_heads, frames, frames), or None.
        """
        batch, frames, _ = x.shape
        q, k, v = (
            proj(x).view(batch, frames, self.heads, self.head_dim).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = attention_mask
        if position_bias is not None:
            bias = position_bias[self.numbers]
            if self.bias_heads:
                bias = self.gate(x) * bias
            mask = bias if mask is None else bias + mask
            mask = mask.to(q.dtype)
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(context.transpose(1, 2).reshape(batch, frames, self.heads * self.head_dim))

    def gate(self, x: Tensor) -> Tensor:
        """WavLM's gate of the position bias, (batch, heads, frames, 1), from the layer's input (2110.13900, eq. 5-7)."""
        batch, frames, width = x.shape
        parts = x.view(batch, frames, self.bias_heads, width // self.bias_heads)[:, :, self.numbers].transpose(1, 2)
        gates = torch.sigmoid(self.grep_linear(parts).view(batch, self.heads, frames, 2, 4).sum(-1))
        update, reset = gates.chunk(2, dim=-1)
        return update * (reset * self.grep_a - 1.0) + 2.0


class RelativePositionBias(nn.Embedding):
    """WavLM's bucketed relative position bias, shared by all layers (2110.13900, section 3; T5's buckets).

    Its weight is (num_buckets, heads).
    """

    def __init__(self, num_buckets: int, max_distance: int, heads: int):
        super().__init__(num_buckets, heads)
        self.max_distance = max_distance

    def forward(self, frames: int) -> Tensor:
        """The bias (heads, frames, frames): entry [h, i, j] is added to the score of query i and key j."""
        device = self.weight.device
        distance = torch.arange(1 - frames, frames, device=device)
        by_distance = super().forward(self.bucket(distance))  # the bias depends on j - i alone: 2 frames - 1 look-ups
        position = torch.arange(frames, device=device)
        return by_distance[position[None, :] - position[:, None] + frames - 1].permute(2, 0, 1)

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of each signed distance: half for each sign; in each, small distances exact, then logarithmic."""
        half = self.num_embeddings // 2
        exact = half // 2
        size = distance.abs()
        scale = torch.log(size.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        logarithmic = (exact + (scale * (half - exact)).long()).clamp(max=half - 1)
        return (distance > 0).long() * half + torch.where(size < exact, size, logarithmic)
