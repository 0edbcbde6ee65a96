"""Self-attention with any number of heads, with its own map or another's, and WavLM's gated relative position bias."""

import math
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .gated import ScaledLinear


class AttentionInput(NamedTuple):
    """What attention needs besides hidden states.

    Attributes:
        mask: (batch, 1, 1, frames), added to the scores: 0 or minus infinity where a key is padding; or None.
        position_bias: (bias_heads, frames, frames), or None.
        earlier_map: (batch, heads, frames, frames), the probabilities of the layer before, for a layer that reuses
            them.
        show_map: whether somebody needs the probabilities of this layer: they take memory and time.
        frames_first: hidden states come, and are returned, as (frames, batch, width).
    """

    mask: Optional[Tensor] = None
    position_bias: Optional[Tensor] = None
    earlier_map: Optional[Tensor] = None
    show_map: bool = False
    frames_first: bool = False


# hidden states (batch, frames, width), and the map (batch, heads, frames, frames) where there is one to show
AttentionOutput = Tuple[Tensor, Optional[Tensor]]


class Attention(nn.Module):
    """The attention part of a layer."""

    def forward(self, x: Tensor, given: AttentionInput, gates: Optional[Tensor] = None) -> AttentionOutput:
        """Attend within x (batch, frames, width); the map, where it is to be shown, is the one before dropout.

        Args:
            x: hidden states.
            given: what attention needs besides.
            gates: (heads,), or None.
        """
        if not given.frames_first:
            return self.attend(x, given, gates)
        y, attention_map = self.attend(x.transpose(0, 1), given, gates)
        return y.transpose(0, 1), attention_map

    def attend(self, x: Tensor, given: AttentionInput, gates: Optional[Tensor]) -> AttentionOutput:
        """As `forward`, always on (batch, frames, width)."""
        raise NotImplementedError


class SelfAttention(Attention):
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

    def attend(self, x: Tensor, given: AttentionInput, gates: Optional[Tensor]) -> AttentionOutput:
        """See `Attention`."""
        q, k, v = (_split_heads(proj(x), self.heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        mask = given.mask
        if given.position_bias is not None:
            bias = given.position_bias[self.numbers]
            if self.bias_heads:
                bias = self.gate(x) * bias
            mask = bias if mask is None else bias + mask
            mask = mask.to(q.dtype)
        probabilities = None
        if given.show_map:
            probabilities = compute_map(q, k, mask)
            context = F.dropout(probabilities, self.dropout, self.training) @ v
        else:
            dropout = self.dropout if self.training else 0.0
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(_join_heads(context), spread_over_heads(gates, self.head_dim)), probabilities

    def gate(self, x: Tensor) -> Tensor:
        """WavLM's gate of the bias, (batch, heads, frames, 1), from the layer's input (2110.13900, eq. 5-7)."""
        batch, frames, width = x.shape
        parts = x.view(batch, frames, self.bias_heads, width // self.bias_heads)[:, :, self.numbers].transpose(1, 2)
        gates = torch.sigmoid(self.grep_linear(parts).view(batch, self.heads, frames, 2, 4).sum(-1))
        update, reset = gates.chunk(2, dim=-1)
        return update * (reset * self.grep_a - 1.0) + 2.0


class ReusedAttention(Attention):
    """A `SelfAttention` without queries and keys: its map is that of the layer before (ARMHuBERT, 2305.11685).

    The map comes as it was before dropout, and none is applied here, as in the paper's code. What that code does
    besides is not done here: it applies a second softmax to the map, and in batches of several waves mixes up waves and
    heads.
    """

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.v_proj = nn.Linear(width, heads * head_dim)
        self.out_proj = ScaledLinear(heads * head_dim, width)

    def attend(self, x: Tensor, given: AttentionInput, gates: Optional[Tensor]) -> AttentionOutput:
        """See `Attention`: by the earlier map, which is handed on."""
        earlier_map = given.earlier_map
        assert earlier_map is not None, "the encoder skips this layer where the one before it was skipped"
        context = earlier_map @ _split_heads(self.v_proj(x), self.heads)
        return self.out_proj(_join_heads(context), spread_over_heads(gates, self.head_dim)), earlier_map


def compute_map(q: Tensor, k: Tensor, mask: Optional[Tensor]) -> Tensor:
    """Probabilities (batch, heads, frames, frames) of queries and keys (batch, heads, frames, head_dim), mask added."""
    scores = (q / math.sqrt(q.size(-1))) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)


def spread_over_heads(gates: Optional[Tensor], head_dim: int) -> Optional[Tensor]:
    """Gates (heads,) as factors of the context that heads hand to the output's projection, (heads * head_dim,)."""
    return None if gates is None else gates.repeat_interleave(head_dim)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class RelativePositionBias(nn.Embedding):
    """WavLM's bucketed relative position bias, shared by all layers (2110.13900, section 3; T5's buckets).

    Its weight is (num_buckets, heads).
    """

    def __init__(self, num_buckets: int, max_distance: int, heads: int):
        super().__init__(num_buckets, heads)
        self.max_distance = max_distance

    def forward(self, frames: int) -> Tensor:  # type: ignore[override]  # an Embedding for its weight's name alone
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
