"""One layer of the transformer, with any number of heads and neurons; either part may be absent."""

from typing import Callable, Optional, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from fairseq import utils
from torch import Tensor

from .anatomy import NO_GATES, Axis, GateValues
from .attention import Attention, AttentionInput, AttentionOutput, ReusedAttention, SelfAttention
from .config import EncoderConfig
from .gated import ScaledLinear
from .stock_face import has_hooks, run_part

# (frames, batch, width), and as in fairseq a pair: the map or None, and what the feed-forward part added, of that shape
LayerOutput = Tuple[Tensor, Tuple[Optional[Tensor], Tensor]]


class Constant(nn.Module):
    """What is left of a part without heads or neurons: the bias of its output, whatever comes in."""

    def __init__(self, width: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, gates: Optional[Tensor] = None) -> Tensor:
        """(..., any width) to zeros of that shape plus the bias; there is nothing that gates could be on."""
        return torch.zeros_like(x) + self.bias


class ConstantAttention(Attention):
    """A `SelfAttention` without heads."""

    def __init__(self, width: int):
        super().__init__()
        self.out_proj = Constant(width)

    def attend(self, x: Tensor, given: AttentionInput, gates: Optional[Tensor]) -> AttentionOutput:
        """See `Attention`: the bias of the output, and no map."""
        return self.out_proj(x), None


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward on (batch, frames, width).

    A part without heads or neurons is the constant that the bias of its output adds, so that they can be taken away one
    by one, the last like the others. In a post-norm model both LayerNorms are applied all the same: they are part of
    the residual path. In a pre-norm model the constant needs none.

    Args:
        cfg: the encoder's settings.
        number: of this layer, from 1.
    """

    def __init__(self, cfg: EncoderConfig, number: int):
        super().__init__()
        heads, ffn_dim = cfg.heads[number - 1], cfg.ffn_dims[number - 1]
        width = cfg.encoder_embed_dim
        self.layer_norm_first = cfg.layer_norm_first
        self.heads_axis, self.ffn_axis = Axis("heads", number - 1), Axis("ffn", number - 1)
        self.dropout, self.activation_dropout = cfg.dropout, cfg.activation_dropout
        # fairseq's gelu computes in float32 whatever comes; torch's own does so inside, without the copies
        self.activation: Callable[[Tensor], Tensor] = (
            F.gelu if cfg.activation_fn == "gelu" else utils.get_activation_fn(str(cfg.activation_fn))
        )
        self.self_attn: Union[SelfAttention, ReusedAttention, ConstantAttention] = ConstantAttention(width)
        if number in cfg.reuse_attention:
            self.self_attn = ReusedAttention(width, heads, cfg.attention_head_dim)
        elif heads:
            bias_heads = cfg.encoder_attention_heads if cfg.relative_position_embedding and cfg.gru_rel_pos else 0
            numbers = cfg.head_numbers[number - 1]
            self.self_attn = SelfAttention(
                width, heads, cfg.attention_head_dim, cfg.attention_dropout, bias_heads, numbers
            )
        self.fc1 = nn.Linear(width, ffn_dim) if ffn_dim else None
        self.fc2: Union[ScaledLinear, Constant] = ScaledLinear(ffn_dim, width) if ffn_dim else Constant(width)
        self.self_attn_layer_norm = nn.LayerNorm(width) if heads or not self.layer_norm_first else None
        self.final_layer_norm = nn.LayerNorm(width) if ffn_dim or not self.layer_norm_first else None

    def forward(self, x: Tensor, given: AttentionInput, gates: GateValues = NO_GATES) -> LayerOutput:
        """The layer's output, its attention map where it is to be shown or was reused, and its feed-forward part's.

        Args:
            x: (frames, batch, width), as in fairseq, whose users hook layers; the output too. These are views: all that
                is computed is (batch, frames, width).
            given: what attention needs besides.
            gates: of this pass.
        """
        x = x.transpose(0, 1)
        y, attention_map = self.attend(self.before(x, self.self_attn_layer_norm), given, gates.get(self.heads_axis))
        x = self.after(x, y, self.self_attn_layer_norm)
        y = self.feed_forward(self.before(x, self.final_layer_norm), gates.get(self.ffn_axis))
        return self.after(x, y, self.final_layer_norm).transpose(0, 1), (attention_map, y.transpose(0, 1))

    def attend(self, x: Tensor, given: AttentionInput, gates: Optional[Tensor]) -> AttentionOutput:
        """The attention part, on (batch, frames, width) and to it."""
        if not has_hooks(self.self_attn):
            return self.self_attn(x, given, gates)
        y, attention_map = self.self_attn(x.transpose(0, 1), given._replace(frames_first=True), gates)
        return y.transpose(0, 1), attention_map

    def before(self, x: Tensor, norm: Optional[nn.Module]) -> Tensor:
        """What a part reads of the residual stream x: its norm in a pre-norm model."""
        return run_part(norm, x) if self.layer_norm_first and norm is not None else x

    def after(self, x: Tensor, y: Tensor, norm: Optional[nn.Module]) -> Tensor:
        """The residual stream x with a part's output y added: its norm in a post-norm model."""
        x = x + F.dropout(y, self.dropout, self.training)
        return x if self.layer_norm_first or norm is None else run_part(norm, x)

    def feed_forward(self, x: Tensor, gates: Optional[Tensor] = None) -> Tensor:
        """(batch, frames, width) to the same shape; gates (neurons,) or None."""
        if self.fc1 is None:
            return run_part(self.fc2, x)
        x = self.activation(run_part(self.fc1, x))
        return run_part(self.fc2, F.dropout(x, self.activation_dropout, self.training), gates)
