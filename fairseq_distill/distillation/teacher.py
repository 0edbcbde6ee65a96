"""The frozen teacher, or several averaged: from a batch of waves to one target per group."""

import logging
from typing import List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from ..checkpoints import load_encoder
from ..errors import UserError
from .groups import Group, average_groups, layers_to_run

logger = logging.getLogger(__name__)


class Targets(NamedTuple):
    """Targets per group, each (batch, frames, width), and the frames that are padding (batch, frames) or None."""

    values: List[Tensor]
    padding_mask: Optional[Tensor]


class Teacher:
    """Frozen encoders that make targets; not an nn.Module, so that no model or criterion ever saves it.

    Args:
        paths: checkpoints; the targets of several are averaged.
        groups: groups of their layers.
        dtype: precision it runs in; None = that of the waves.
    """

    def __init__(self, paths: Sequence[str], groups: Sequence[Group], dtype: Optional[torch.dtype] = torch.float32):
        self.groups = list(groups)
        self.dtype = dtype
        self.layers = layers_to_run(groups)
        self.encoders = [load_encoder(path) for path in paths]
        for encoder in self.encoders:
            encoder.requires_grad_(False)
            encoder.normalize_input = False  # the task's data set normalises, before it crops or pads
        self.checked = False

    def compute_targets(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Targets:
        """Group means of the teacher's hidden states for waves (batch, samples), averaged over teachers."""
        dtype = self.dtype or source.dtype
        sums: List[Tensor] = []
        frame_mask = None
        for encoder in self.encoders:
            if not self.checked:  # the first batch says where and in what precision the run computes
                encoder.to(device=source.device, dtype=dtype)
            with torch.inference_mode():
                output = encoder.encode(source.to(dtype), padding_mask, self.layers)
                means = average_groups(output, self.groups)
            # added outside inference mode: autograd refuses to save inference tensors
            sums = [m + s for m, s in zip(means, sums)] if sums else [m.clone() for m in means]
            if output.padding_mask is not None:
                frame_mask = output.padding_mask.clone() if frame_mask is None else frame_mask | output.padding_mask
        targets = [s / len(self.encoders) for s in sums] if len(self.encoders) > 1 else sums
        if not self.checked:
            self._check_finite(targets)
        return Targets(targets, frame_mask)

    def _check_finite(self, targets: Sequence[Tensor]) -> None:
        """Once, on the first batch: half precision overflows in some large pre-norm models."""
        for group, target in zip(self.groups, targets):
            if not torch.isfinite(target).all():
                raise UserError(
                    f"the teacher's layers {group} are not finite in {target.dtype}: set task.teacher_dtype=float32, "
                    "or leave these layers out of criterion.groups"
                )
        self.checked = True
