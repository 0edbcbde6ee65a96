"""What of two training checkpoints differs in any bit: weights, gates, multipliers, optimizer, criterion, position."""

from typing import Any, Dict, Iterator, List, Tuple

import torch

COMPARED = ("model", "criterion", "last_optimizer_state")


def walk(value: Any, name: str) -> Iterator[Tuple[str, Any]]:
    """(name, tensor or plain value) of everything in a nested structure."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, f"{name}/{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from walk(item, f"{name}/{index}")
    else:
        yield name, value


def flatten(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """Everything that training goes on from, by name."""
    found = {name: value for part in COMPARED for name, value in walk(checkpoint.get(part), part)}
    found.update(walk(checkpoint["extra_state"]["train_iterator"], "train_iterator"))
    found.update(walk(checkpoint["optimizer_history"][-1], "history"))  # those before tell of the stops
    return found


def is_same(one: Any, other: Any) -> bool:
    """To the bit, so NaN equals NaN and 0 is not -0."""
    if torch.is_tensor(one) and torch.is_tensor(other):
        same_kind = one.dtype == other.dtype and one.shape == other.shape
        return same_kind and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
    return type(one) is type(other) and one == other


def find_differences(one: Dict[str, Any], other: Dict[str, Any]) -> List[str]:
    """Names of what is not the same, or not in both."""
    left, right = flatten(one), flatten(other)
    missing = object()
    names = {**left, **right}
    return [name for name in names if not is_same(left.get(name, missing), right.get(name, missing))]
