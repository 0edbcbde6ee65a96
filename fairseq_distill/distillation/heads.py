"""Heads that turn the student's hidden states into predictions of teacher layers; dropped after distillation."""

from typing import List, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class LinearHeads(nn.Module):
    """One Linear per group, from that group's student layer to the teacher's width.

    Where the widths are equal it starts as the identity, so that a student that starts as its teacher starts at loss
    zero (DPHuBERT, 2305.17651, section 2.1 of its code).
    """

    def __init__(self, width: int, target_width: int, groups: int):
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(width, target_width) for _ in range(groups))
        for projection in self.projections:
            nn.init.zeros_(projection.bias)
            if width == target_width:
                nn.init.eye_(projection.weight)
            else:
                nn.init.normal_(projection.weight, std=0.02)

    def forward(self, hidden: Sequence[Tensor]) -> List[Tensor]:
        """One hidden state (batch, frames, width) per group to predictions, each (batch, frames, target_width)."""
        return [projection(x) for projection, x in zip(self.projections, hidden)]


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


def build_heads(kind: str, width: int, target_width: int, groups: int) -> nn.Module:
    """Heads of the `kind` that `model.prediction_head` names, in float32 on the default device."""
    with torch.random.fork_rng(devices=[]):  # the rest of the student starts the same with any heads
        return HEADS[kind](width, target_width, groups)
