"""Groups of teacher layers: what one prediction of the student is compared with (their mean).

Written as lists, "[[0],[4],[8,12]]": one inner list for each group. Layer 0 enters the first transformer layer, l is
layer l's output, and "f" is the projected features before the positional convolution (DPHuBERT's "layer 0").

Or written as a rule that fits teachers of any depth, "f, every 4": entries with commas between them, each making
groups of one layer.

    f         the features
    7         layer 7
    every N   layers N, 2N, ..., and the last one where the depth is no multiple of N

A layer that several entries name has one group. "f, every 4" is [[f],[4],[8],[12]] for 12 layers, [[f],[3]] for 3, and
[[f],[4],[8],[12],[16],[20],[24]] for 24.
"""

import re
import sys
from typing import Any, Collection, Dict, List, Optional, Sequence, Set, Union

import yaml
from omegaconf import OmegaConf
from torch import Tensor

from ..errors import UserError
from .model import EncoderOutput, require

FEATURES = "f"
Layer = Union[int, str]
Group = List[Layer]

_RULE_ENTRY = re.compile(rf"(?P<features>{FEATURES})|(?P<layer>\d+)|every +(?P<step>[1-9]\d*)")


def parse_groups(spec: Any, depth: Optional[int] = None) -> List[Group]:
    """Read groups written as lists or as a rule, and check them against an encoder of `depth` layers.

    Args:
        spec: "[[4],[8],[12]]", the same as lists, or a rule such as "f, every 4".
        depth: of the encoder whose layers are named; None = not known, so only lists can be read and nothing is
            checked.

    Raises:
        UserError: neither lists nor a rule, or a layer that the encoder does not have.
    """
    if OmegaConf.is_config(spec):
        spec = OmegaConf.to_container(spec)
    groups = _apply_rule(spec, depth) if isinstance(spec, str) and depth is not None else None
    groups = groups or _read_lists(spec)
    deepest = sys.maxsize if depth is None else depth
    for layer in (layer for group in groups for layer in group):
        if layer != FEATURES and not (type(layer) is int and 0 <= layer <= deepest):
            raise UserError(
                f"criterion.groups={format_groups(groups)}: the teacher has layers 0 to {depth} and f, not {layer!r}"
            )
    return groups


def _apply_rule(rule: str, depth: int) -> List[Group]:
    """The groups that a rule makes for `depth` layers; [] if the text is no rule."""
    groups: List[Group] = []
    for entry in (_RULE_ENTRY.fullmatch(part.strip()) for part in rule.split(",")):
        if entry is None:
            return []
        if entry["features"]:
            groups.append([FEATURES])
        elif entry["layer"]:
            groups.append([int(entry["layer"])])
        else:
            step = int(entry["step"])
            groups += [[layer] for layer in range(step, depth + 1, step)]
            groups += [[depth]] if depth % step else []
    return [group for place, group in enumerate(groups) if group not in groups[:place]]


def _read_lists(spec: Any) -> List[Group]:
    """Groups written as lists, not checked against a depth."""
    try:
        groups = yaml.safe_load(spec) if isinstance(spec, str) else spec
    except yaml.YAMLError:
        groups = None
    if not (isinstance(groups, list) and groups and all(isinstance(group, list) and group for group in groups)):
        raise UserError(
            "criterion.groups must be lists of teacher layers such as [[4],[8],[12]], or a rule such as 'f, every 4', "
            f"not {spec!r}"
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

    The student's layer for a teacher's layer l is at the same relative depth, ceil(l * student_depth / teacher_depth),
    so that equal depths are matched one to one and the last with the last; 0 and f match themselves.

    Args:
        groups: of the teacher's layers.
        student_depth: layers of the student.
        teacher_depth: layers of the teacher.
        average: all layers of the student that match one of the group's, to be averaged (SKILL, 2402.16830); otherwise
            the one that matches the group's deepest.
    """

    def match(layer: Layer) -> Layer:
        return layer if isinstance(layer, str) else -(-layer * student_depth // teacher_depth)

    chosen = groups if average else [[layer] for layer in find_deepest(groups)]
    return [list(dict.fromkeys(map(match, group))) for group in chosen]


def find_deepest(groups: Sequence[Group]) -> List[Layer]:
    """The deepest layer of each group; f lies before layer 0."""
    return [max(group, key=lambda layer: -1 if layer == FEATURES else layer) for group in groups]


def layers_to_run(groups: Sequence[Collection[Layer]]) -> Set[int]:
    """Layer numbers whose hidden states the groups need, for `SpeechEncoder.encode(layers=...)`."""
    return {layer for group in groups for layer in group if not isinstance(layer, str)} or {0}


def get_layer(output: EncoderOutput, layer: Layer) -> Tensor:
    """The hidden state (batch, frames, width) that a layer's number or "f" names."""
    return output.features if isinstance(layer, str) else require(output.hidden[layer])


def average_groups(output: EncoderOutput, groups: Sequence[Group]) -> List[Tensor]:
    """Mean over the layers of each group, each (batch, frames, width); of one layer, that layer itself."""
    states = [[get_layer(output, layer) for layer in group] for group in groups]
    return [sum(group[1:], group[0]) / len(group) if len(group) > 1 else group[0] for group in states]


def describe_groups(groups: Sequence[Group], student_groups: Sequence[Group]) -> Dict[str, str]:
    """For the log: what each group is predicted from."""
    sources = [name_group(group) for group in student_groups] or ["last"] * len(groups)
    return {name_group(group): f"student layer {source}" for group, source in zip(groups, sources)}
