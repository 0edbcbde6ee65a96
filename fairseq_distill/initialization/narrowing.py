"""From a checkpoint's tensors and a choice of what to keep of them to the tensors of a narrower student.

Every tensor is cut along each axis of the anatomy, so what is kept computes on what is kept as it did. Where what is
left out sends nothing, the student is the checkpoint exactly, up to its norms over channels (LayerNorms of the layers,
and of the convolutions' output or of each convolution): they have the statistics of the channels that are left, which
is another scale even where the others were zero. That is an approximation, and training starts from it.
"""

import logging
from typing import List, Mapping, Optional, Sequence

import torch
from torch import Tensor

from ..encoder.anatomy import BIAS_HEADS, GROUPED, NORM_OF_V, STRETCHES, WIDTH, Axis, Row, list_rows, select_places
from ..encoder.config import EncoderConfig
from ..encoder.model import SpeechEncoder
from .parts import Copied, copy_parts, find_origin, name_half
from .selection import Selection

logger = logging.getLogger(__name__)

_ENCODER_PARTS = ("feature_extractor.", "feature_scale", "layer_norm.", "post_extract_proj.", "encoder.")


class Narrowing:
    """The tensors of a checkpoint, cut for a student.

    Args:
        weights: the checkpoint's.
        source: its settings.
        student: the student's settings.
        layers: the student's layer i starts as the checkpoint's layer `layers[i]`, numbered from 1.
        chosen: what to keep.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        source: EncoderConfig,
        student: EncoderConfig,
        layers: Sequence[int],
        chosen: Selection,
    ):
        self.weights, self.source, self.student = dict(weights), source, student
        self.layers, self.keep = list(layers), chosen.keep
        self.same_width = len(self.keep[WIDTH]) == source.encoder_embed_dim
        if not source.has_projection and student.has_projection:  # the checkpoint's is the identity
            self.weights["post_extract_proj.weight"] = torch.eye(source.encoder_embed_dim)
            self.weights["post_extract_proj.bias"] = torch.zeros(source.encoder_embed_dim)

    def copy_into(self, student: SpeechEncoder) -> List[str]:
        """Copy each part that fits whole into the student, log what was and what was not; names of the parts copied."""
        classes = getattr(student, "num_classes", ())
        rows = {row.name: row for row in list_rows(self.student, classes) if not row.name.startswith("gates.")}
        copied = copy_parts(student, name_half, lambda key: self.cut(key, rows.get(key)))
        self._log(copied)
        return list(copied.taken)

    def cut(self, key: str, row: Optional[Row]) -> Optional[Tensor]:
        """What the student's tensor `key` starts as, its shape still to be compared; None if it starts from scratch."""
        origin = find_origin(key, self.layers)
        if origin not in self.weights:
            return None
        value = self.weights[origin]
        if row is None:  # of a head: it says nothing of its dimensions
            return value if self.same_width else None
        if row.rule in (GROUPED, NORM_OF_V):
            return self._cut_positions(key, value)
        if row.rule == STRETCHES and not (self.same_width and self._keeps_bias_heads()):
            return None
        missing = any(axis not in self.keep for dim in row.dims for axis in dim.axes)
        return None if missing or value.dim() != len(row.dims) else select_places(value, row, self.keep)

    def _keeps_bias_heads(self) -> bool:
        return len(self.keep.get(BIAS_HEADS, ())) == self.source.encoder_attention_heads

    def _cut_positions(self, key: str, value: Tensor) -> Optional[Tensor]:
        """A weight of the positional convolution, with the channels kept in each of its groups."""
        if self.same_width:
            return value
        if self.student.conv_pos_groups != self.source.conv_pos_groups:
            return None
        if key.endswith("weight_g"):  # g v / |v|: the norm is over what is left
            whole = self.weights[key[:-1] + "v"].float()
            return value * self._cut_groups(whole).norm(dim=(0, 1), keepdim=True) / whole.norm(dim=(0, 1), keepdim=True)
        return self._cut_groups(value)

    def _cut_groups(self, weight: Tensor) -> Tensor:
        """(width, width / groups, kernel) to the same of the kept channels: a row reads those of its own group."""
        groups = self.source.conv_pos_groups
        size = weight.size(1)
        kept = self.keep[WIDTH].view(groups, -1)  # equally many of each group
        inputs = (kept - size * torch.arange(groups)[:, None]).repeat_interleave(kept.size(1), dim=0)
        rows = weight.index_select(0, kept.flatten())
        return rows.gather(1, inputs[:, :, None].expand(-1, -1, weight.size(2)))

    def _log(self, copied: Copied) -> None:
        taken, scratch = (sum(map(len, parts.values())) for parts in copied)
        used = {find_origin(key, self.layers) for keys in copied.taken.values() for key in keys}
        layers = tuple(f"encoder.layers.{number - 1}." for number in self.layers)
        unused = sorted(
            key
            for key in self.weights
            if key not in used
            and key.startswith(_ENCODER_PARTS)
            and (key.startswith(layers) or not key.startswith("encoder.layers."))
        )
        logger.info(
            f"taken over: {taken} tensors; from scratch: {scratch} ({shorten(list(copied.scratch))}); of these layers "
            f"and the other parts of the checkpoint's encoder not used: {len(unused)} ({shorten(unused)})"
        )


def shorten(names: Sequence[str], most: int = 12) -> str:
    """Names for a log line."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"


def describe_choice(student: EncoderConfig, source: EncoderConfig, layers: Sequence[int], chosen: Selection) -> str:
    """How many channels, heads and neurons of how many are kept, for the log."""

    def count(name: str, there: Sequence[int]) -> str:
        kept = [chosen.keep.get(Axis(name, place)) for place in range(len(there))]
        return " ".join("none" if k is None else f"{len(k)}/{n}" for k, n in zip(kept, there)) or "none"

    conv = "none (another structure, or more channels)"
    if Axis("conv") in chosen.keep:
        conv = count("conv", [channels for channels, _, _ in source.conv_layers])
    return (
        f"width {len(chosen.keep[WIDTH])}/{source.encoder_embed_dim}; convolutions {conv}; "
        f"layers {' '.join(map(str, layers))}: heads {count('heads', [source.heads[n - 1] for n in layers])}; "
        f"feed-forward {count('ffn', [source.ffn_dims[n - 1] for n in layers])}; "
        f"{max(student.encoder_layers - len(layers), 0)} layers from scratch"
    )
