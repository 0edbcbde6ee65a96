"""Groups of teacher layers: what one prediction of the student is compared with (their mean).

Written "[[0],[4],[8,12]]": one inner list per group. Layer 0 enters the first transformer layer, l is layer l's output, and
"f" is the projected features before the positional convolution (DPHuBERT's "layer 0").
"""

from typing import Any, Collection, Dict, List, Sequence, Set, Union

import yaml
from omegaconf import OmegaConf
from torch import Tensor

from ..encoder.model import EncoderOutput
from ..errors import UserError

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


def match_student_layers(groups: Sequence[Group], student_depth: int, teacher_depth: int) -> List[Layer]:
    """The student layer that each group is predicted from, layer to layer.

    A group is led by its deepest layer l; the student's layer is at the same relative depth, ceil(l * student_depth /
    teacher_depth), so that equal depths are matched one to one and the last with the last. 0 and f match themselves.
    """

    def match(layer: Layer) -> Layer:
        return layer if layer == FEATURES else -(-layer * student_depth // teacher_depth)

    return [match(max(group, key=lambda layer: -1 if layer == FEATURES else layer)) for group in groups]


def layers_to_run(groups: Sequence[Collection[Layer]]) -> Set[int]:
    """Layer numbers whose hidden states the groups need, for `SpeechEncoder.encode(layers=...)`."""
    return {layer for group in groups for layer in group if layer != FEATURES} or {0}


def get_layer(output: EncoderOutput, layer: Layer) -> Tensor:
    """The hidden state (batch, frames, width) that a layer's number or "f" names."""
    return output.features if layer == FEATURES else output.hidden[layer]


def average_groups(output: EncoderOutput, groups: Sequence[Group]) -> List[Tensor]:
    """Mean over the layers of each group, each (batch, frames, width)."""
    return [sum(get_layer(output, layer) for layer in group) / len(group) for group in groups]


def describe_groups(groups: Sequence[Group], student_layers: Sequence[Layer]) -> Dict[str, str]:
    """For the log: what each group is predicted from."""
    sources = student_layers or ["last"] * len(groups)
    return {name_group(group): f"student layer {source}" for group, source in zip(groups, sources)}
