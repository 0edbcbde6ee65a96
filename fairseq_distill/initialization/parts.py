"""Parts of a student, each of which starts as a checkpoint's part or from scratch, whole."""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn


class Copied(NamedTuple):
    """What of a student started as a checkpoint: names of parts, each with its tensors' names."""

    taken: Dict[str, List[str]]
    scratch: Dict[str, List[str]]


@torch.no_grad()
def copy_parts(student: nn.Module, name_part: Callable[[str], str], find: Callable[[str], Optional[Tensor]]) -> Copied:
    """Copy into `student` every part of which all tensors are found in the student's shapes.

    Args:
        student: what is copied into.
        name_part: the part that a tensor of the student belongs to, from the tensor's name.
        find: what a tensor of the student starts as, from its name; None where there is nothing.
    """
    own = student.state_dict(keep_vars=True)
    parts: Dict[str, List[str]] = {}
    for key in own:
        parts.setdefault(name_part(key), []).append(key)
    copied = Copied({}, {})
    for part, keys in parts.items():
        values = [find(key) for key in keys]
        if any(value is None or value.shape != own[key].shape for key, value in zip(keys, values)):
            copied.scratch[part] = keys
            continue
        for key, value in zip(keys, values):
            own[key].copy_(value)
        copied.taken[part] = keys
    return copied


def find_origin(key: str, layers: Sequence[int]) -> Optional[str]:
    """The checkpoint's name of what a student's tensor starts as; None in a layer that starts as none.

    Args:
        key: the student's tensor.
        layers: the student's layer i starts as the checkpoint's layer `layers[i]`, numbered from 1.
    """
    pieces = key.split(".")
    if pieces[:2] == ["encoder", "layers"]:
        place = int(pieces[2])
        if place >= len(layers):
            return None
        pieces[2] = str(layers[place] - 1)
    return ".".join(pieces)


def name_part(key: str) -> str:
    """The part of an encoder that a tensor belongs to, by its name: "layer 3", "encoder.pos_conv", "layer_norm"."""
    pieces = key.split(".")
    if pieces[:2] == ["encoder", "layers"]:
        return f"layer {int(pieces[2]) + 1}"
    return ".".join(pieces[:2]) if pieces[0] == "encoder" else pieces[0]


def name_half(key: str) -> str:
    """As `name_part`, with the halves of a layer apart: "attention of layer 3", "feed-forward of layer 3"."""
    part = name_part(key)
    if not part.startswith("layer "):
        return part
    pieces = key.split(".")
    if len(pieces) > 4 and pieces[4].startswith("grep_"):
        return f"gate of the position bias of {part}"
    return f"attention of {part}" if pieces[3].startswith("self_attn") else f"feed-forward of {part}"
