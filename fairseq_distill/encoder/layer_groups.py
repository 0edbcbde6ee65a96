"""Groups of teacher layers: what one prediction of the student is compared with (their mean).

Written "[[0],[4],[8,12]]": one inner list per group. Layer 0 enters the first transformer layer, l is layer l's output, and
"f" is the projected features before the positional convolution (DPHuBERT's "layer 0").
"""

from typing import Any, Collection, Dict, List, Sequence, Set, Union

import yaml
from omegaconf import OmegaConf
from torch import Tensor

from ..errors import UserError
from .model import EncoderOutput

FEATURES = "f"
Layer = Union[int, str]
Group = List[Layer]


def parse_groups(spec: Any, depth: int) -> List[Group]:
    """Read groups from "[[4],[8],[12]]", or the same as lists, and check them against a teacher of `depth` layers.

    Raises:
        UserError: not a list of non-empty lists, or a layer that the teacher does not have.
    """
    if OmegaConf.is_config(spec):
        spec = OmegaConf.to_container(spec)
    try:
        groups = yaml.safe_load(spec) if isinstance(spec, str) else spec
    except yaml.YAMLError:
        groups = None
    well_formed = isinstance(groups, list) and groups and all(isinstance(g, list) and g for g in groups)
    if not well_formed:
        raise UserError(f"criterion.groups must be lists of teacher layers such as [[4],[8],[12]], not {spec!r}")
    for layer in (layer for group in groups for layer in group):
        if layer != FEATURES and not (type(layer) is int and 0 <= layer <= depth):
            raise UserError(
                f"criterion.groups={format_groups(groups)}: the teacher has layers 0 to {depth} and f, not {layer!r}"
            )
    return groups


def format_groups(groups: Sequence[Sequence[Layer]]) -> str:
    """The inverse of `parse_groups`: "[[4],[8,12]]"."""
    return "[" + ",".join("[" + ",".join(map(str, group)) + "]" for group in groups) + "]"


def name_group(group: Sequence[Layer]) -> str:
    """Name of a group in logs: "4", "8-12"."""
    return "-".join(map(str, group))


def match_student_layers(
    groups: Sequence[Group], student_depth: int, teacher_depth: int, average: bool = False
) -> List[Group]:
    """The student's layers that each group is predicted from, layer to layer.

    The student's layer for a teacher's layer l is at the same relative depth, ceil(l * student_depth / teacher_depth), so
    that equal depths are matched one to one and the last with the last; 0 and f match themselves.

    Args:
        average: all layers of the student that match one of the group's, to be averaged (SKILL, 2402.16830); otherwise the
            one that matches the group's deepest.
    """

    def match(layer: Layer) -> Layer:
        return layer if layer == FEATURES else -(-layer * student_depth // teacher_depth)

    chosen = groups if average else [[layer] for layer in find_deepest(groups)]
    return [list(dict.fromkeys(map(match, group))) for group in chosen]


def find_deepest(groups: Sequence[Group]) -> List[Layer]:
    """The deepest layer of each group; f lies before layer 0."""
    return [max(group, key=lambda layer: -1 if layer == FEATURES else layer) for group in groups]


def layers_to_run(groups: Sequence[Collection[Layer]]) -> Set[int]:
    """Layer numbers whose hidden states the groups need, for `SpeechEncoder.encode(layers=...)`."""
    return {layer for group in groups for layer in group if layer != FEATURES} or {0}


def get_layer(output: EncoderOutput, layer: Layer) -> Tensor:
    """The hidden state (batch, frames, width) that a layer's number or "f" names."""
    return output.features if layer == FEATURES else output.hidden[layer]


def average_groups(output: EncoderOutput, groups: Sequence[Group]) -> List[Tensor]:
    """Mean over the layers of each group, each (batch, frames, width); of one layer, that layer itself."""
    states = [[get_layer(output, layer) for layer in group] for group in groups]
    return [sum(group) / len(group) if len(group) > 1 else group[0] for group in states]


def describe_groups(groups: Sequence[Group], student_groups: Sequence[Group]) -> Dict[str, str]:
    """For the log: what each group is predicted from."""
    sources = [name_group(group) for group in student_groups] or ["last"] * len(groups)
    return {name_group(group): f"student layer {source}" for group, source in zip(groups, sources)}
