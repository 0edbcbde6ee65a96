"""What an encoder, teacher or student, says about a batch at each group of its layers."""

from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Callable, Collection, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from ..encoder.layer_groups import FEATURES, Group, average_groups, find_deepest, layers_to_run
from ..encoder.model import EncoderOutput, Features, SpeechEncoder, require
from ..errors import UserError


def _per_group(frame_dims: int = 1, **capture: Any) -> Any:
    """A field with a tensor (batch, frames, ...) for each group; the `frame_dims` dimensions after batch are frames."""
    return field(default_factory=list, metadata={"frame_dims": frame_dims, **capture})


def _of_deepest(read: Callable[[EncoderOutput, int], Tensor], hidden: int = 0, maps: bool = False, frame_dims: int = 1):
    """A field that is captured of each group's deepest layer, where the objective asks for it.

    Args:
        read: takes it out of an encoder's output, given the layer's number.
        hidden: it needs the hidden state of that many layers after the deepest.
        maps: it needs the layer's attention map.
        frame_dims: see `_per_group`.
    """
    return _per_group(frame_dims, read=read, hidden=hidden, maps=maps)


@dataclass(frozen=True)
class GroupStates:
    """For each group of layers: the mean of its layers, predictions of it, and what was captured of its deepest layer.

    A new thing to capture is one more field here.

    Attributes:
        hidden: the mean of the group's layers, (batch, frames, width).
        predictions: of a student: its predictions of the teacher's `hidden`, (batch, frames, teacher's width).
        inputs, outputs: of the deepest layer, (batch, frames, width).
        maps: attention of the deepest layer, averaged over heads: (batch, queries, keys) probabilities.
        padding_mask: (batch, frames) bool, True = padding, or None.
    """

    hidden: List[Tensor] = _per_group()
    predictions: List[Tensor] = _per_group()
    inputs: List[Tensor] = _of_deepest(lambda output, layer: require(output.hidden[layer - 1]), hidden=-1)
    outputs: List[Tensor] = _of_deepest(lambda output, layer: require(output.hidden[layer]))
    maps: List[Tensor] = _of_deepest(lambda output, layer: require(output.maps[layer]), maps=True, frame_dims=2)
    padding_mask: Optional[Tensor] = None

    def add(self, other: "GroupStates") -> "GroupStates":
        """Group by group the sum with what another encoder says; padding of either is padding."""
        return self._merge(other, lambda mine, its: [a + b for a, b in zip(mine, its)])

    def append(self, other: "GroupStates") -> "GroupStates":
        """These groups, then those of another encoder; padding of either is padding."""
        return self._merge(other, lambda mine, its: [*mine, *its])

    def divide(self, count: int) -> "GroupStates":
        """A sum over encoders to their mean."""
        return self._change(lambda x, dims: x / count)

    def clone(self) -> "GroupStates":
        """The same in memory of its own."""
        mask = self.padding_mask
        return replace(self._change(lambda x, dims: x.clone()), padding_mask=None if mask is None else mask.clone())

    def cut(self, frames: int) -> "GroupStates":
        """The first frames alone."""
        mask = self.padding_mask
        cut = self._change(lambda x, dims: x[:, :frames] if dims == 1 else x[:, :frames, :frames])
        return replace(cut, padding_mask=None if mask is None else mask[:, :frames])

    def where(self, frames: Tensor, other: "GroupStates") -> "GroupStates":
        """These means where `frames` (batch, frames) is True, elsewhere those of `other`; the rest stays."""
        frames = frames.unsqueeze(-1)
        return replace(self, hidden=[torch.where(frames, a, b) for a, b in zip(self.hidden, other.hidden)])

    def _change(self, function: Callable[[Tensor, int], Tensor]) -> "GroupStates":
        """With every tensor changed, given how many of its dimensions are frames."""
        changed: Dict[str, Any] = {}
        for one in _GROUP_FIELDS:
            changed[one.name] = [function(x, one.metadata["frame_dims"]) for x in getattr(self, one.name)]
        return replace(self, **changed)

    def _merge(
        self, other: "GroupStates", function: Callable[[List[Tensor], List[Tensor]], List[Tensor]]
    ) -> "GroupStates":
        merged: Dict[str, Any] = {}
        for one in _GROUP_FIELDS:
            merged[one.name] = function(getattr(self, one.name), getattr(other, one.name))
        return replace(self, **merged, padding_mask=merge_masks(self.padding_mask, other.padding_mask))


_GROUP_FIELDS: List[Field] = [one for one in fields(GroupStates) if one.name != "padding_mask"]
CAPTURED: Dict[str, Field] = {one.name: one for one in _GROUP_FIELDS if "read" in one.metadata}


def merge_masks(one: Optional[Tensor], other: Optional[Tensor]) -> Optional[Tensor]:
    """Padding of either; both (batch, frames), or None without padding."""
    if one is None or other is None:
        return one if other is None else other
    return one | other


def encode_groups(
    encoder: SpeechEncoder,
    features: Features,
    groups: Sequence[Group],
    captures: Collection[str] = frozenset(),
    mask_indices: Optional[Tensor] = None,
) -> GroupStates:
    """Run an encoder as far as the groups need it.

    Args:
        encoder: a teacher or a student.
        features: of a batch of waves, as the encoder computed them.
        groups: groups of this encoder's layers.
        captures: names in `CAPTURED`, what to keep of each group's deepest layer.
        mask_indices: (batch, frames) bool, frames to mask before the first layer, or None.
    """
    wanted = {name: CAPTURED[name].metadata for name in captures}
    deepest = find_deepest(groups) if wanted else []
    layers = layers_to_run(groups) | {layer + how["hidden"] for layer in deepest for how in wanted.values()}
    maps = layers_to_run([deepest]) if any(how["maps"] for how in wanted.values()) else None
    output = encoder.encode_features(features, layers, maps, mask_indices)
    captured = {name: [how["read"](output, layer) for layer in deepest] for name, how in wanted.items()}
    return GroupStates(average_groups(output, groups), padding_mask=output.padding_mask, **captured)


def check_captured(groups: Sequence[Group], names: Sequence[str]) -> None:
    """Raise UserError where a group's deepest layer is none of the transformer: it has no input and no attention."""
    for group in groups:
        if find_deepest([group])[0] in (FEATURES, 0):
            raise UserError(
                f"criterion.{' and criterion.'.join(names)} compare what a transformer layer does, and group {group} "
                "has none: leave it out of criterion.groups"
            )
