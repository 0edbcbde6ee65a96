"""Heads that turn the student's hidden states into predictions of teacher layers; dropped after distillation."""

from typing import Any, List, Optional, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..encoder.layer_groups import FEATURES, Group, format_groups
from ..errors import UserError

SHARE_HEADS = ("none", "layers")


class Upsampler(nn.ConvTranspose1d):
    """`factor` frames of each: FitHuBERT's transposed convolution of that kernel and stride (2207.00555)."""

    def __init__(self, width: int, factor: int):
        super().__init__(width, width, factor, stride=factor)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # a ConvTranspose1d for its weights alone
        """(batch, frames, width) to (batch, frames * factor, width)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class LinearHeads(nn.Module):
    """A Linear for each group, from its student layer to the teacher's width; before it an `Upsampler` if asked for.

    Groups may share one: `users` has for each group the number of its Linear, from 0. Where the widths are equal it
    starts as the identity: a student that starts as its teacher starts at loss zero (DPHuBERT, 2305.17651, its code).

    Args:
        width, target_width: of the student and of the teacher.
        groups: number of groups.
        users: see above; None = one for each.
        upsample: for each group the factor from the rate of its hidden state to the teacher's, see `find_upsampling`;
            groups that share a Linear have the same. None = 1 for all.
    """

    def __init__(
        self,
        width: int,
        target_width: int,
        groups: int,
        users: Optional[Sequence[int]] = None,
        upsample: Optional[Sequence[int]] = None,
    ):
        super().__init__()
        self.users = list(users or range(groups))
        projections = [nn.Linear(width, target_width) for _ in range(max(self.users) + 1)]
        for projection in projections:
            nn.init.zeros_(projection.bias)
            if width == target_width:
                nn.init.eye_(projection.weight)
            else:
                nn.init.normal_(projection.weight, std=0.02)
        self.projections = nn.ModuleList(projections)
        factors = dict(zip(self.users, upsample or [1] * groups))
        self.upsamplers = nn.ModuleDict({str(n): Upsampler(width, f) for n, f in sorted(factors.items()) if f > 1})

    def forward(self, hidden: Sequence[Tensor]) -> List[Tensor]:
        """One hidden state (batch, frames, width) per group to predictions, each (batch, frames, target_width).

        Where some are upsampled, all predictions have as many frames as the shortest: factor times those of the hidden
        states, up to factor - 1 fewer than the teacher makes, whose last frames are not predicted then. `upsample_mask`
        says which of the predictions are padding.
        """
        states = [self.upsamplers[str(n)](x) if str(n) in self.upsamplers else x for n, x in zip(self.users, hidden)]
        frames = min(x.size(1) for x in states)
        return [self.projections[n](x[:, :frames]) for n, x in zip(self.users, states)]


class SplitHeads(nn.Module):
    """DistilHuBERT's heads: a shared Linear to one width per group, GELU, then a Linear for each (2110.01900, fig. 1).

    Before them one `Upsampler` where `upsample`, equal for all groups, is more than 1.
    """

    def __init__(self, width: int, target_width: int, groups: int, upsample: Optional[Sequence[int]] = None):
        super().__init__()
        self.shared = nn.Linear(width, width * groups)
        self.outputs = nn.ModuleList(nn.Linear(width, target_width) for _ in range(groups))
        factor = max(upsample or [1])
        self.upsampler = Upsampler(width, factor) if factor > 1 else None

    def forward(self, hidden: Sequence[Tensor]) -> List[Tensor]:
        """The same hidden state (batch, frames, width) for every group to predictions (batch, frames, target_width)."""
        x = hidden[0] if self.upsampler is None else self.upsampler(hidden[0])
        parts = F.gelu(self.shared(x)).chunk(len(self.outputs), dim=-1)
        return [output(part) for output, part in zip(self.outputs, parts)]


class NoHeads(nn.Module):
    """For objectives that compare no features (STaR, 2312.09040): the hidden states as they are."""

    def __init__(self, width: int, target_width: int, groups: int, upsample: Optional[Sequence[int]] = None):
        super().__init__()

    def forward(self, hidden: Sequence[Tensor]) -> List[Tensor]:
        """The hidden states."""
        return list(hidden)


PREDICTION_HEADS = {"linear": LinearHeads, "split": SplitHeads, "none": NoHeads}


def build_heads(kind: str, width: int, target_width: int, groups: int, **options: Any) -> nn.Module:
    """Heads of the `kind` that `model.prediction_head` names, in float32 on the default device."""
    with torch.random.fork_rng(devices=[]):  # the rest of the student starts the same with any heads
        return PREDICTION_HEADS[kind](width, target_width, groups, **options)


def assign_heads(groups: Sequence[Group], share: str) -> List[int]:
    """For each group the number of its head.

    Args:
        groups: of the teacher's layers.
        share: "none" = each group has its own; "layers" = one for all groups of layers, and one for f.
    """
    if share == "none":
        return list(range(len(groups)))
    of_features = [group == [FEATURES] for group in groups]
    return [int(f != of_features[0]) for f in of_features]


def find_upsampling(student_groups: Sequence[Group], time_reduction: int) -> List[int]:
    """For each group the factor from the rate of what it is predicted from to the teacher's; features are not reduced.

    Args:
        student_groups: the student's layers that each group is predicted from.
        time_reduction: the student's.

    Raises:
        UserError: a group averages the features with layers, which have fewer frames.
    """
    mixed = [group for group in student_groups if FEATURES in group and set(group) != {FEATURES}]
    if mixed and time_reduction > 1:
        raise UserError(
            f"criterion.groups: {format_groups(mixed)} averages the student's features f with layers, which have "
            f"{time_reduction} times fewer frames (model.time_reduction): give f a group of its own"
        )
    return [1 if FEATURES in group else time_reduction for group in student_groups]


def upsample_mask(padding_mask: Optional[Tensor], time_reduction: int) -> Optional[Tensor]:
    """Mask (batch, frames) of hidden states to that of predictions, (batch, frames * time_reduction).

    A predicted frame is padding where the frame that it was made of is. That one is padding if any of the features'
    frames that it stands for is, so up to time_reduction - 1 frames at the end of a wave are predicted in no batch.
    """
    if padding_mask is None or time_reduction == 1:
        return padding_mask
    return padding_mask.repeat_interleave(time_reduction, dim=1)
