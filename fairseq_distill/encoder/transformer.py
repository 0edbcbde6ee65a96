"""The transformer of a speech encoder: positions, time reduction, and layers of any shape."""

from typing import AbstractSet, Any, Dict, List, NamedTuple, Optional, Sequence, Set, cast

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .anatomy import NO_GATES, GateValues
from .attention import AttentionInput, RelativePositionBias
from .config import EncoderConfig
from .convolution import TimeReduction, build_positional_conv
from .layer import TransformerLayer
from .padding import may_have_padding
from .stock_face import LayerResult


class LayerOutputs(NamedTuple):
    """What `TransformerEncoder.run` was asked for, by layer number."""

    hidden: Dict[int, Tensor]  # each (batch, frames, width)
    maps: Dict[int, Tensor]  # each (batch, frames, frames)
    padding_mask: Optional[Tensor]  # (batch, frames) bool: of these frames, fewer than came in where time is reduced


class TransformerEncoder(nn.Module):
    """Positional convolution and layers; takes fairseq's `TransformerEncoder`'s place in a `HubertModel`.

    Attributes:
        exact_padding: positions do not see padding, see `SpeechEncoder`; layers never do.
    """

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        self.dropout, self.layerdrop = cfg.dropout, cfg.encoder_layerdrop
        self.layer_norm_first = cfg.layer_norm_first
        self.exact_padding = False
        self.checkpoint_activations = cfg.checkpoint_activations
        self.results_of_pass: Optional[List[LayerResult]] = None  # where HubertModel's forward, which drops them, runs
        self.reusing = frozenset(cfg.reuse_attention)
        self.pos_conv = build_positional_conv(cfg)
        self.time_reduction = None
        if cfg.time_reduction > 1:
            self.time_reduction = TimeReduction(cfg.encoder_embed_dim, cfg.time_reduction)
        self.relative_attention_bias = None
        if cfg.relative_position_embedding:
            # at this level, so that no layer's heads are needed for the others'
            heads = cfg.encoder_attention_heads
            self.relative_attention_bias = RelativePositionBias(cfg.num_buckets, cfg.max_distance, heads)
        layers = nn.ModuleList(TransformerLayer(cfg, number) for number in range(1, cfg.encoder_layers + 1))
        self.layers = cast(Sequence[TransformerLayer], layers)  # torch's type does not say of what
        self.layer_norm = nn.LayerNorm(cfg.encoder_embed_dim)
        self.apply(_initialize)

    def forward(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        layer: Optional[int] = None,
        gates: GateValues = NO_GATES,
    ):
        """Fairseq's interface, which `HubertModel.forward` calls.

        Args:
            x: (batch, frames, width), the projected features.
            padding_mask: (batch, frames) bool, True = padding.
            layer: index of the last layer to run, from 0; one that does not exist runs all, as in fairseq. None runs
                all and, in pre-norm models, the final LayerNorm.
            gates: of this pass.

        Returns:
            (output (batch, frames, width), fairseq's results of the layers that ran, which are (frames, batch, width)):
            fewer frames where time is reduced.
        """
        last = layer + 1 if layer is not None and 0 <= layer < len(self.layers) else len(self.layers)
        results = [] if self.results_of_pass is None else self.results_of_pass
        hidden = self.run(x, padding_mask, {last}, gates=gates, allow_layerdrop=True, results=results).hidden[last]
        return (self.finish(hidden) if layer is None else hidden), results

    def finish(self, x: Tensor) -> Tensor:
        """Final output from the last layer's: pre-norm models normalise it."""
        return self.layer_norm(x) if self.layer_norm_first else x

    def run(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor],
        keep: AbstractSet[int],
        maps: AbstractSet[int] = frozenset(),
        gates: GateValues = NO_GATES,
        allow_layerdrop: bool = False,
        results: Optional[List[LayerResult]] = None,
    ) -> LayerOutputs:
        """Run up to the last layer in `keep` or `maps`, return the hidden states and attention maps asked for.

        Args:
            x: (batch, frames, width), the projected features.
            padding_mask: (batch, frames) bool, True = padding, or None.
            keep: layer numbers, 0 = what enters the first layer, l = output of layer l (before the final LayerNorm).
            maps: layer numbers from 1; a layer that reuses a map has that one.
            gates: of this pass.
            allow_layerdrop: skip layers at random in training, and with a layer those that reuse its map; False where
                layers are told apart.
            results: gets fairseq's result of each layer that runs.
        """
        unseen = None
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(-1), 0)
            unseen = padding_mask if self.exact_padding and may_have_padding(padding_mask) else None
        x = x + self.pos_conv(x.transpose(1, 2), unseen).transpose(1, 2)
        if not self.layer_norm_first:
            x = self.layer_norm(x)
        x = F.dropout(x, self.dropout, self.training)
        if self.time_reduction is not None:
            x, padding_mask = self.time_reduction(x), self.time_reduction.reduce_mask(padding_mask)

        given = AttentionInput(_mask_keys(padding_mask, x.dtype), self._compute_position_bias(x.size(1)))
        outputs = LayerOutputs({0: x} if 0 in keep else {}, {}, padding_mask)
        x = x.transpose(0, 1)  # what hooks of fairseq's layers see
        last = max(keep | maps, default=0)
        showing = self._find_showing(last, maps)
        attention_map: Optional[Tensor] = None
        for number, layer in enumerate(self.layers[:last], start=1):
            drop = allow_layerdrop and self.training and self.layerdrop > 0 and np.random.random() < self.layerdrop
            if number not in self.reusing:
                attention_map = None
            elif attention_map is None:
                drop = True
            if not drop:
                given = given._replace(earlier_map=attention_map, show_map=number in showing)
                if self.checkpoint_activations and self.training:
                    x, (attention_map, added) = checkpoint(layer, x, given, gates, use_reentrant=False)
                else:
                    x, (attention_map, added) = layer(x, given, gates)
                if results is not None:
                    results.append((x, None, added))
                del added  # not kept while the next layer runs
            if number in keep:
                outputs.hidden[number] = x.transpose(0, 1)
            if number in maps:
                assert attention_map is not None, f"layer {number} has no heads"
                outputs.maps[number] = attention_map.mean(1)
        return outputs

    def _compute_position_bias(self, frames: int) -> Optional[Tensor]:
        return None if self.relative_attention_bias is None else self.relative_attention_bias(frames)

    def _find_showing(self, last: int, maps: AbstractSet[int]) -> Set[int]:
        """Layers up to `last` that compute a map which is asked for, or reused by another of them."""
        showing, source = set(), 0
        for number in range(1, last + 1):
            source = source if number in self.reusing else number
            if number in maps or number in self.reusing:
                showing.add(source)
        return showing

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        # Microsoft keeps the shared position bias in layer 0
        theirs = f"{prefix}layers.0.self_attn.relative_attention_bias.weight"
        if theirs in state_dict:
            state_dict[f"{prefix}relative_attention_bias.weight"] = state_dict.pop(theirs)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _mask_keys(padding_mask: Optional[Tensor], dtype: torch.dtype) -> Optional[Tensor]:
    """Padding (batch, frames) as what is added to attention scores, (batch, 1, 1, frames).

    A row of padding alone attends to all of it: with no key its softmax would be no number, and all gradients with it.
    """
    if padding_mask is None:
        return None
    padding_mask = padding_mask & ~padding_mask.all(1, keepdim=True)
    return torch.zeros_like(padding_mask, dtype=dtype).masked_fill(padding_mask, float("-inf"))[:, None, None, :]


def _initialize(module: nn.Module) -> None:
    """BERT's initialisation, as in fairseq, whose own function cannot run on the meta device."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
