"""The gates of an encoder: one per conv channel, head, FFN unit, or whole attention or FFN part, as `cfg.prune` says."""

import math
from typing import Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn

from ..encoder.config import EncoderConfig
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from .hard_concrete import HardConcrete

# DPHuBERT, 2305.17651 (its code): initial drop rates
INITIAL_DROP = {"conv": 0.01, "heads": 0.01, "ffn": 0.5, "attention_layers": 0.01, "ffn_layers": 0.01}


class GateValues(NamedTuple):
    """Gates of one forward pass: (channels,) per convolution, (heads,) and (units,) per layer; None where there are none."""

    conv: List[Optional[Tensor]]
    heads: List[Optional[Tensor]]
    ffn: List[Optional[Tensor]]


class ExpectedUnits(NamedTuple):
    """What the gates expect to be left: numbers of units, and probabilities that a part has any unit at all."""

    conv: Tensor  # (convolutions,)
    heads: Tensor  # (layers,)
    ffn: Tensor  # (layers,)
    any_head: Tensor  # (layers,)
    any_unit: Tensor  # (layers,)


class Gates(nn.Module):
    """Gates of an encoder, and how they act.

    The gate of a conv channel, a head or an FFN unit scales the weights that read it: the next convolution's, out_proj's, fc2's.
    Channels of the last convolution are read by a LayerNorm, which no factor passes through: there, and in every LayerNorm
    over the channels of a "layer_norm" extractor (Large), mean and variance are those of the open channels (gate > 0), and the
    gate scales what reads the normalised channel: the next convolution, or after the last the projection. So a closed channel adds
    nothing anywhere, and the network without it has plain LayerNorms of fewer channels. (The reference implementation
    multiplies before that LayerNorm and keeps its statistics over all channels; cutting then changes the function.)

    The gate of a whole part is a factor on all its heads or units. The bias of a part's output is not gated: it stays.
    A model without projection (as wide as its convolutions) has no gates on its last convolution.
    """

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        self.head_dim, self.frozen = cfg.attention_head_dim, False
        channels = [out for out, _, _ in cfg.conv_layers]
        self.full = {
            "conv": channels,
            "heads": cfg.heads,
            "ffn": cfg.ffn_dims,
            "attention_layers": [min(h, 1) for h in cfg.heads],
            "ffn_layers": [min(f, 1) for f in cfg.ffn_dims],
        }
        gated = dict(self.full)
        if not cfg.has_projection:
            gated["conv"] = [*channels[:-1], 0]
        self.kinds = nn.ModuleDict({k: HardConcrete(gated[k], INITIAL_DROP[k]) for k in cfg.prune if sum(gated[k])})

    def freeze(self) -> None:
        """Keep the gates as they are in evaluation, whatever the mode of the model around them."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Gates":
        """Sampling with True, unless frozen."""
        return super().train(mode and not self.frozen)

    def draw(self) -> GateValues:
        """Gates for one forward pass: sampled in training, deterministic in evaluation."""
        drawn: Dict[str, Sequence[Tensor]] = {name: kind() for name, kind in self.kinds.items()}
        heads = _combine(drawn.get("heads"), drawn.get("attention_layers"), self.full["heads"])
        ffn = _combine(drawn.get("ffn"), drawn.get("ffn_layers"), self.full["ffn"])
        conv = [z if len(z) else None for z in drawn.get("conv", [()] * len(self.full["conv"]))]
        return GateValues(conv, heads, ffn)

    def scale_readers(self, encoder: SpeechEncoder) -> None:
        """Draw gates and hand them to the layers of `encoder` that read gated units, for the next forward pass."""
        values = self.draw()
        blocks = encoder.feature_extractor.conv_layers
        readers = [block.conv for block in blocks[1:]] + [encoder.post_extract_proj]
        for block, reader, gate in zip(blocks, readers, values.conv):
            if gate is None:
                continue
            reader.scale = gate
            open_channels = (gate.detach() > 0).float()
            if encoder.cfg.extractor_mode == "layer_norm":
                block.norm.norm.open_channels = open_channels
            if block is blocks[-1]:
                encoder.layer_norm.open_channels = open_channels
        for layer, heads, units in zip(encoder.encoder.layers, values.heads, values.ffn):
            if heads is not None:
                layer.self_attn.out_proj.scale = heads.repeat_interleave(self.head_dim)
            if units is not None:
                layer.fc2.scale = units

    def expect(self) -> ExpectedUnits:
        """Expected numbers of units left, differentiable."""
        conv = self._expect("conv")
        if "conv" in self.kinds and not self.kinds["conv"].sizes[-1]:
            conv = torch.cat([conv[:-1], conv.new_tensor(self.full["conv"][-1:])])
        expected = {}
        for units, parts in (("heads", "attention_layers"), ("ffn", "ffn_layers")):
            part = self._expect(parts)
            anything = self.kinds[units].expect_any() if units in self.kinds else 1.0
            expected[units] = self._expect(units) * part, part * anything
        return ExpectedUnits(conv, expected["heads"][0], expected["ffn"][0], expected["heads"][1], expected["ffn"][1])

    def _expect(self, name: str) -> Tensor:
        if name in self.kinds:
            return self.kinds[name].expect_open()
        return torch.tensor(self.full[name], dtype=torch.float32, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the gates are."""
        return next(self.parameters()).device


def add_gates(encoder: SpeechEncoder) -> None:
    """Give `encoder` the gates that its settings ask for, if any; UserError where heads are tied to those of other layers."""
    tied = [unit for unit in encoder.cfg.prune if unit in ("heads", "attention_layers")]
    if tied and encoder.cfg.reuse_attention:
        raise UserError(
            f"model.prune={list(encoder.cfg.prune)} with model.reuse_attention={list(encoder.cfg.reuse_attention)}: layers that "
            f"share an attention map need the same heads, so leave {' and '.join(tied)} out of model.prune"
        )
    if encoder.cfg.prune:
        encoder.gates = Gates(encoder.cfg)


def _combine(
    units: Optional[Sequence[Tensor]], parts: Optional[Sequence[Tensor]], sizes: Sequence[int]
) -> List[Optional[Tensor]]:
    """Gates of units times the gate of their part, for each layer; None where there is neither, or nothing to gate."""
    combined: List[Optional[Tensor]] = []
    for index, size in enumerate(sizes):
        factors = [kind[index] for kind in (units, parts) if kind is not None and size]
        combined.append(math.prod(factors).expand(size) if factors else None)
    return combined
