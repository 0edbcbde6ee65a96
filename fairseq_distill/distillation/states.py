"""What an encoder, teacher or student, says about a batch at each group of its layers."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor

from ..encoder.layer_groups import FEATURES, Group, average_groups, find_deepest, layers_to_run
from ..encoder.model import Features, SpeechEncoder
from ..errors import UserError


class Capture(NamedTuple):
    """What is wanted of a group beside the mean of its layers, both of its deepest layer.

    Attributes:
        pairs: the layer's input and output.
        maps: the layer's attention, averaged over heads.
    """

    pairs: bool = False
    maps: bool = False


class View(NamedTuple):
    """Per group: the mean of its layers (batch, frames, width), and what was captured of its deepest layer.

    Attributes:
        means: one tensor a group.
        pairs: (input, output) of the deepest layer, each (batch, frames, width); empty if not captured.
        maps: (batch, queries, keys) probabilities; empty if not captured.
        padding_mask: (batch, frames) bool, True = padding, or None.
    """

    means: List[Tensor]
    pairs: List[Tuple[Tensor, Tensor]]
    maps: List[Tensor]
    padding_mask: Optional[Tensor]


def look(
    encoder: SpeechEncoder,
    features: Features,
    groups: Sequence[Group],
    capture: Capture = Capture(),
    mask_indices: Optional[Tensor] = None,
) -> View:
    """Run an encoder as far as the groups need it.

    Args:
        features: of a batch of waves, as the encoder computed them.
        groups: groups of this encoder's layers.
        mask_indices: (batch, frames) bool, frames to mask before the first layer, or None.
    """
    layers = layers_to_run(groups)
    deepest = find_deepest(groups) if capture.pairs or capture.maps else []
    if capture.pairs:
        layers |= {layer - 1 for layer in deepest}
    output = encoder.encode_features(features, layers, deepest if capture.maps else None, mask_indices)
    pairs = [(output.hidden[layer - 1], output.hidden[layer]) for layer in deepest] if capture.pairs else []
    maps = [output.maps[layer] for layer in deepest] if capture.maps else []
    return View(average_groups(output, groups), pairs, maps, output.padding_mask)


def check_captured(groups: Sequence[Group], names: Sequence[str]) -> None:
    """Raise UserError where a group's deepest layer is none of the transformer: it has no input and no attention."""
    for group in groups:
        if find_deepest([group])[0] in (FEATURES, 0):
            raise UserError(
                f"criterion.{' and criterion.'.join(names)} compare what a transformer layer does, and group {group} has none: "
                "leave it out of criterion.groups"
            )
