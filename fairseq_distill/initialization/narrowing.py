"""From a checkpoint's tensors and a choice of its units to the tensors of a narrower student.

Every tensor is cut along each axis that counts chosen units, so what is kept computes on what is kept as it did. Where the
units left out send nothing, the student is the checkpoint exactly, up to its norms over channels (LayerNorms of the layers,
and of the convolutions' output or of each convolution): they have the statistics of the channels that are left, which is
another scale even where the others were zero. That is an approximation, and training starts from it.
"""

import logging
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..encoder.config import EncoderConfig
from ..encoder.model import SpeechEncoder
from .selection import UnitChoice

logger = logging.getLogger(__name__)

Axes = Tuple[Optional[Tensor], ...]  # indices to keep on the first axes; None = all
_ENCODER_PARTS = ("feature_extractor.", "layer_norm.", "post_extract_proj.", "encoder.")


class Narrowing:
    """The tensors of a checkpoint, cut for a student.

    Args:
        weights: the checkpoint's.
        source, student: settings of both.
        layers: the student's layer i starts as the checkpoint's layer `layers[i]`, numbered from 1.
        chosen: units to keep.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        source: EncoderConfig,
        student: EncoderConfig,
        layers: Sequence[int],
        chosen: UnitChoice,
    ):
        self.weights, self.source, self.student = dict(weights), source, student
        self.layers, self.chosen = list(layers), chosen
        self.same_width = len(chosen.width) == source.encoder_embed_dim
        if not source.has_projection and student.has_projection:  # the checkpoint's is the identity
            self.weights["post_extract_proj.weight"] = torch.eye(source.encoder_embed_dim)
            self.weights["post_extract_proj.bias"] = torch.zeros(source.encoder_embed_dim)

    @torch.no_grad()
    def copy_into(self, student: SpeechEncoder) -> List[str]:
        """Copy each part that fits whole into the student, log what was and what was not; names of the parts copied."""
        own = student.state_dict(keep_vars=True)
        parts: Dict[str, List[str]] = {}
        for key in own:
            parts.setdefault(self.name_part(key), []).append(key)
        copied, count = [], 0
        for part, keys in parts.items():
            values = [self.cut(key) for key in keys]
            if any(value is None or value.shape != own[key].shape for key, value in zip(keys, values)):
                continue
            for key, value in zip(keys, values):
                own[key].copy_(value)
            copied.append(part)
            count += len(keys)
        self._log(parts, copied, count)
        return copied

    def cut(self, key: str) -> Optional[Tensor]:
        """What the student's tensor `key` starts as, its shape still to be compared; None if it starts from scratch."""
        origin = self.find_origin(key)
        if origin not in self.weights:
            return None
        value = self.weights[origin]
        if key.startswith("encoder.pos_conv."):
            return self._cut_positions(key, value)
        axes = self._find_axes(key)
        if axes is None:
            return None
        for axis, kept in enumerate(axes):
            if kept is not None:
                value = value.index_select(axis, kept)
        return value

    def find_origin(self, key: str) -> Optional[str]:
        """The checkpoint's name of what the student's tensor `key` starts as; None in a layer that starts as none."""
        pieces = key.split(".")
        if pieces[:2] == ["encoder", "layers"]:
            place = int(pieces[2])
            if place >= len(self.layers):
                return None
            pieces[2] = str(self.layers[place] - 1)
        return ".".join(pieces)

    def name_part(self, key: str) -> str:
        """The part that a tensor of the student belongs to: taken over whole or not at all."""
        pieces = key.split(".")
        if pieces[:2] != ["encoder", "layers"]:
            return ".".join(pieces[:2]) if pieces[0] == "encoder" else pieces[0]
        if len(pieces) > 4 and pieces[4].startswith("grep_"):
            kind = "gate of the position bias"
        else:
            kind = "attention" if pieces[3].startswith("self_attn") else "feed-forward"
        return f"{kind} of layer {int(pieces[2]) + 1}"

    def _find_axes(self, key: str) -> Optional[Axes]:
        """What to keep of a tensor; None where the checkpoint has not enough units for it, or it does not say what of."""
        pieces, width, conv = key.split("."), self.chosen.width, self.chosen.conv
        if pieces[0] in ("feature_extractor", "layer_norm", "post_extract_proj"):
            if conv is None:
                return None
            if pieces[0] == "layer_norm":
                return (conv[-1],)
            if pieces[0] == "post_extract_proj":
                return (width, conv[-1]) if pieces[-1] == "weight" else (width,)
            index = int(pieces[2])
            return (conv[index], conv[index - 1]) if key.endswith(".0.weight") and index else (conv[index],)
        if pieces[:2] == ["encoder", "layers"]:
            return self._find_axes_in_layer(int(pieces[2]), pieces[3:])
        if key == "mask_emb" or pieces[:2] == ["encoder", "layer_norm"]:
            return (width,)
        if pieces[:2] == ["encoder", "time_reduction"]:
            return (width, width) if pieces[-1] == "weight" else (width,)
        if pieces[:2] == ["encoder", "relative_attention_bias"]:
            return None if self.chosen.bias_heads is None else (None, self.chosen.bias_heads)
        if key == "final_proj.weight":
            return (None, width)
        if pieces[0] in ("final_proj", "target_glu", "label_embs_concat") or self.same_width:
            return ()
        return None

    def _find_axes_in_layer(self, place: int, pieces: Sequence[str]) -> Optional[Axes]:
        name, matrix, width = pieces[-2], pieces[-1] == "weight", self.chosen.width
        heads, units = self.chosen.heads[place], self.chosen.ffn[place]
        if name.endswith("layer_norm"):
            return (width,)
        if name in ("fc1", "fc2"):
            inside, outside = (units, width) if name == "fc1" else (width, units)
            return None if units is None else ((inside, outside) if matrix else (inside,))
        if pieces[-1] == "grep_a" or name == "grep_linear":
            # it reads each head's own stretch of the channels
            bias_heads = self.chosen.bias_heads
            same = self.same_width and bias_heads is not None and len(bias_heads) == self.source.encoder_attention_heads
            if heads is None or not same:
                return None
            return (None, heads) if pieces[-1] == "grep_a" else ()
        if heads is None:
            return None
        dim = self.source.attention_head_dim
        rows = (heads[:, None] * dim + torch.arange(dim)).flatten()
        inside, outside = (width, rows) if name == "out_proj" else (rows, width)
        return (inside, outside) if matrix else (inside,)

    def _cut_positions(self, key: str, value: Tensor) -> Optional[Tensor]:
        """A tensor of the positional convolution, with the channels kept in each of its groups."""
        if self.same_width:
            return value
        if self.student.conv_pos_groups != self.source.conv_pos_groups:
            return None
        if key.endswith("weight_g"):  # g v / |v|: the norm is over what is left
            whole = self.weights[key[:-1] + "v"].float()
            return value * self._cut_groups(whole).norm(dim=(0, 1), keepdim=True) / whole.norm(dim=(0, 1), keepdim=True)
        if value.dim() == 3:
            return self._cut_groups(value)
        return value.index_select(0, self.chosen.width) if value.dim() else value

    def _cut_groups(self, weight: Tensor) -> Tensor:
        """(width, width / groups, kernel) to the same of the kept channels: a row reads those of its own group."""
        groups = self.source.conv_pos_groups
        size = weight.size(1)
        kept = self.chosen.width.view(groups, -1)  # equally many of each group
        inputs = (kept - size * torch.arange(groups)[:, None]).repeat_interleave(kept.size(1), dim=0)
        rows = weight.index_select(0, kept.flatten())
        return rows.gather(1, inputs[:, :, None].expand(-1, -1, weight.size(2)))

    def _log(self, parts: Mapping[str, Sequence[str]], copied: Sequence[str], count: int) -> None:
        scratch = [part for part in parts if part not in copied]
        tensors = sum(len(parts[part]) for part in scratch)
        used = {self.find_origin(key) for part in copied for key in parts[part]}
        layers = tuple(f"encoder.layers.{number - 1}." for number in self.layers)
        unused = sorted(
            key
            for key in self.weights
            if key not in used
            and key.startswith(_ENCODER_PARTS)
            and (key.startswith(layers) or not key.startswith("encoder.layers."))
        )
        logger.info(
            f"taken over: {count} tensors; from scratch: {tensors} ({shorten(scratch)}); of these layers and the other "
            f"parts of the checkpoint's encoder not used: {len(unused)} ({shorten(unused)})"
        )


def shorten(names: Sequence[str], most: int = 12) -> str:
    """Names for a log line."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"


def describe_choice(student: EncoderConfig, source: EncoderConfig, layers: Sequence[int], chosen: UnitChoice) -> str:
    """How many units of how many are kept, for the log."""

    def of(kept: Sequence[Optional[Tensor]], there: Sequence[int]) -> str:
        return " ".join("none" if k is None else f"{len(k)}/{n}" for k, n in zip(kept, there)) or "none"

    channels = [count for count, _, _ in source.conv_layers]
    conv = "none (another structure, or more channels)" if chosen.conv is None else of(chosen.conv, channels)
    return (
        f"width {len(chosen.width)}/{source.encoder_embed_dim}; convolutions {conv}; layers {' '.join(map(str, layers))}: "
        f"heads {of(chosen.heads, [source.heads[n - 1] for n in layers])}; "
        f"feed-forward {of(chosen.ffn, [source.ffn_dims[n - 1] for n in layers])}; "
        f"{max(student.encoder_layers - len(layers), 0)} layers from scratch"
    )
