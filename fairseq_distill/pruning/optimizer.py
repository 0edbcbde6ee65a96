"""What gates need of the optimizer, checked before hours of training go by without them moving."""

from typing import Any

from ..errors import UserError
from ..run.settings import find_section

GROUPS = {"default", "gates", "multipliers"}


def check_optimizer(run: Any) -> None:
    """Raise UserError if the settings of a run (fairseq's sections) would not train gates as they need it.

    Gates move at a rate a hundred times that of weights, so they are in fairseq parameter groups of their own, which
    only its `composite` optimizer knows, and in half precision only where gradients are not flattened into one.
    """
    optimizer = find_section(run, "optimizer")
    if optimizer is None:
        return  # built in Python, where the caller has the optimizer
    if optimizer.get("_name") != "composite" or set(optimizer.get("groups") or {}) != GROUPS:
        raise UserError(
            "model.prune needs optimizer._name=composite with the groups default, gates and multipliers, each with its "
            "rate: see config/distill/dphubert.yaml"
        )
    common = find_section(run, "common") or {}
    half = common.get("fp16") or common.get("bf16")
    if half and not common.get("fp16_no_flatten_grads"):
        raise UserError(
            "model.prune in half precision needs common.fp16_no_flatten_grads=true: groups are lost otherwise"
        )
