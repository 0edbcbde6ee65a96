"""Heads that turn the student's hidden states into predictions of teacher layers; dropped after distillation."""

from typing import Any, List, Optional, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .groups import FEATURES, Group

SHARE_HEADS = ("none", "layers")


class LinearHeads(nn.Module):
    """A Linear for each group, from that group's student layer to the teacher's width.

    Groups may share one: `users` has for each group the number of its Linear, from 0. Where the widths are equal it starts as the identity, so that a student that starts as its teacher starts at loss
    zero (DPHuBERT, 2305.17651, its code).
    """

    def __init__(self, width: int, target_width: int, groups: int, users: Optional[Sequence[int]] = None):
        super().__init__()
        self.users = list(users or range(groups))
        self.projections = nn.ModuleList(nn.Linear(width, target_width) for _ in range(max(self.users) + 1))
        for projection in self.projections:
            nn.init.zeros_(projection.bias)
            if width == target_width:
                nn.init.eye_(projection.weight)
            else:
                nn.init.normal_(projection.weight, std=0.02)

    def forward(self, hidden: Sequence[Tensor]) -> List[Tensor]:
        """One hidden state (batch, frames, width) per group to predictions, each (batch, frames, target_width)."""
        return [self.projections[head](x) for head, x in zip(self.users, hidden)]


class SplitHeads(nn.Module):
    """DistilHuBERT's heads: a shared Linear to one width per group, GELU, then a Linear for each (2110.01900, fig. 1)."""

    def __init__(self, width: int, target_width: int, groups: int):
        super().__init__()
        self.shared = nn.Linear(width, width * groups)
        self.outputs = nn.ModuleList(nn.Linear(width, target_width) for _ in range(groups))

    def forward(self, hidden: Sequence[Tensor]) -> List[Tensor]:
        """The same hidden state (batch, frames, width) for every group to predictions (batch, frames, target_width)."""
        parts = F.gelu(self.shared(hidden[0])).chunk(len(self.outputs), dim=-1)
        return [output(part) for output, part in zip(self.outputs, parts)]


HEADS = {"linear": LinearHeads, "split": SplitHeads}


def build_heads(kind: str, width: int, target_width: int, groups: int, **options: Any) -> nn.Module:
    """Heads of the `kind` that `model.prediction_head` names, in float32 on the default device."""
    with torch.random.fork_rng(devices=[]):  # the rest of the student starts the same with any heads
        return HEADS[kind](width, target_width, groups, **options)


def assign_heads(groups: Sequence[Group], share: str) -> List[int]:
    """For each group the number of its head: its own ("none"), or one for all groups of layers and one for f ("layers")."""
    if share == "none":
        return list(range(len(groups)))
    of_features = [group == [FEATURES] for group in groups]
    return [int(f != of_features[0]) for f in of_features]
