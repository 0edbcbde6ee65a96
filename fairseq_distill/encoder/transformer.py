"""The transformer of a speech encoder: layers of any number of heads and units, any of their parts absent."""

from typing import AbstractSet, Any, Callable, Dict, List, Optional

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fairseq import utils

from .attention import RelativePositionBias, SelfAttention
from .config import EncoderConfig
from .convolution import build_positional_conv
from .readers import ScaledLinear


class Constant(nn.Module):
    """What is left of a part without heads or units: the bias of its output, whatever comes in."""

    def __init__(self, width: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) + self.bias


class ConstantAttention(nn.Module):
    """A `SelfAttention` without heads."""

    def __init__(self, width: int):
        super().__init__()
        self.out_proj = Constant(width)

    def forward(self, x: Tensor, attention_mask: Optional[Tensor], position_bias: Optional[Tensor]) -> Tensor:
        return self.out_proj(x)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward on (batch, frames, width).

    A part without heads or units is the constant that the bias of its output adds, so that units can be taken away one by
    one, the last like the others. In a post-norm model both LayerNorms are applied all the same: they are part of the
    residual path. In a pre-norm model the constant needs none.
    """

    def __init__(self, cfg: EncoderConfig, heads: int, ffn_dim: int, bias_heads: int, numbers: Optional[List[int]] = None):
        super().__init__()
        width = cfg.encoder_embed_dim
        self.layer_norm_first = cfg.layer_norm_first
        self.dropout, self.activation_dropout = cfg.dropout, cfg.activation_dropout
        # fairseq's gelu computes in float32 whatever comes; torch's own does so inside, without the copies
        self.activation: Callable[[Tensor], Tensor] = (
            F.gelu if cfg.activation_fn == "gelu" else utils.get_activation_fn(str(cfg.activation_fn))
        )
        self.self_attn: nn.Module = ConstantAttention(width)
        if heads:
            head_dim, dropout = cfg.attention_head_dim, cfg.attention_dropout
            self.self_attn = SelfAttention(width, heads, head_dim, dropout, bias_heads, numbers)
        self.fc1 = nn.Linear(width, ffn_dim) if ffn_dim else None
        self.fc2 = ScaledLinear(ffn_dim, width) if ffn_dim else Constant(width)
        self.self_attn_layer_norm = nn.LayerNorm(width) if heads or not self.layer_norm_first else None
        self.final_layer_norm = nn.LayerNorm(width) if ffn_dim or not self.layer_norm_first else None

    def forward(self, x: Tensor, attention_mask: Optional[Tensor], position_bias: Optional[Tensor]) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, attention_mask, position_bias)

        x = self.add(x, attend, self.self_attn_layer_norm)
        return self.add(x, self.feed_forward, self.final_layer_norm)

    def hold_gates(self) -> Callable[..., Tensor]:
        """The layer as a function with the gates of now, also if it runs again after others were drawn."""
        readers = [module for module in (self.self_attn.out_proj, self.fc2) if isinstance(module, ScaledLinear)]
        scales = [reader.scale for reader in readers]

        def run(*args: Any) -> Tensor:
            for reader, scale in zip(readers, scales):
                reader.scale = scale
            return self(*args)

        return run

    def add(self, x: Tensor, part: Callable[[Tensor], Tensor], norm: Optional[nn.Module]) -> Tensor:
        """Residual connection around `part` with `norm` before it (pre-norm) or after the sum (post-norm)."""
        y = part(norm(x) if self.layer_norm_first and norm is not None else x)
        x = x + F.dropout(y, self.dropout, self.training)
        return x if self.layer_norm_first else norm(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """(batch, frames, width) to the same shape."""
        if self.fc1 is None:
            return self.fc2(x)
        return self.fc2(F.dropout(self.activation(self.fc1(x)), self.activation_dropout, self.training))


class TransformerEncoder(nn.Module):
    """Positional convolution and layers; takes fairseq's `TransformerEncoder`'s place in a `HubertModel`."""

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        self.dropout, self.layerdrop = cfg.dropout, cfg.encoder_layerdrop
        self.layer_norm_first = cfg.layer_norm_first
        self.checkpoint_activations = cfg.checkpoint_activations
        heads = cfg.heads
        self.pos_conv = build_positional_conv(cfg)
        self.relative_attention_bias = None
        bias_heads = 0
        if cfg.relative_position_embedding:
            # at this level, so that no layer's heads are needed for the others'
            bias_heads = cfg.encoder_attention_heads
            self.relative_attention_bias = RelativePositionBias(cfg.num_buckets, cfg.max_distance, bias_heads)
        self.layers = nn.ModuleList(
            TransformerLayer(cfg, h, f, bias_heads if cfg.gru_rel_pos else 0, numbers)
            for h, f, numbers in zip(heads, cfg.ffn_dims, cfg.head_numbers)
        )
        self.layer_norm = nn.LayerNorm(cfg.encoder_embed_dim)
        self.apply(_initialize)

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None, layer: Optional[int] = None):
        """fairseq's interface, which `HubertModel.forward` calls.

        Args:
            x: (batch, frames, width), the projected features.
            padding_mask: (batch, frames) bool, True = padding.
            layer: index of the last layer to run, from 0; None runs all and, in pre-norm models, the final LayerNorm.

        Returns:
            (output (batch, frames, width), empty list): stock fairseq's layer results are not collected here, see `run`.
        """
        last = len(self.layers) if layer is None else layer + 1
        hidden = self.run(x, padding_mask, keep={last}, allow_layerdrop=True)[last]
        return (self.finish(hidden) if layer is None else hidden), []

    def finish(self, x: Tensor) -> Tensor:
        """Final output from the last layer's: pre-norm models normalise it."""
        return self.layer_norm(x) if self.layer_norm_first else x

    def run(
        self, x: Tensor, padding_mask: Optional[Tensor], keep: AbstractSet[int], allow_layerdrop: bool = False
    ) -> Dict[int, Tensor]:
        """Run up to the last layer in `keep`, return the hidden states asked for.

        Args:
            x: (batch, frames, width), the projected features.
            padding_mask: (batch, frames) bool, True = padding, or None.
            keep: layer numbers, 0 = what enters the first layer, l = output of layer l (before the final LayerNorm).
            allow_layerdrop: skip layers at random in training; False where layers are told apart.

        Returns:
            {layer number: (batch, frames, width)}.
        """
        attention_mask = None
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(-1), 0)
            attention_mask = torch.zeros_like(padding_mask, dtype=x.dtype).masked_fill(padding_mask, float("-inf"))
            attention_mask = attention_mask[:, None, None, :]
        x = x + self.pos_conv(x.transpose(1, 2)).transpose(1, 2)
        if not self.layer_norm_first:
            x = self.layer_norm(x)
        x = F.dropout(x, self.dropout, self.training)

        position_bias = None
        if self.relative_attention_bias is not None:
            position_bias = self.relative_attention_bias(x.size(1))
        hidden = {0: x} if 0 in keep else {}
        last = max(keep, default=0)
        for number, layer in enumerate(self.layers[:last], start=1):
            drop = allow_layerdrop and self.training and self.layerdrop > 0 and np.random.random() < self.layerdrop
            if not drop:
                if self.checkpoint_activations and self.training:
                    x = checkpoint(layer.hold_gates(), x, attention_mask, position_bias, use_reentrant=False)
                else:
                    x = layer(x, attention_mask, position_bias)
            if number in keep:
                hidden[number] = x
        return hidden

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        # Microsoft keeps the shared position bias in layer 0
        theirs = f"{prefix}layers.0.self_attn.relative_attention_bias.weight"
        if theirs in state_dict:
            state_dict[f"{prefix}relative_attention_bias.weight"] = state_dict.pop(theirs)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _initialize(module: nn.Module) -> None:
    """BERT's initialisation, as in fairseq, whose own function cannot run on the meta device."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
