"""The frozen teacher, or several averaged: from a batch of waves to its states at each group of layers."""

import logging
from typing import Collection, Optional, Sequence

import torch
from torch import Tensor

from ..checkpoints.reading import load_encoder
from ..encoder.layer_groups import Group
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from .states import GroupStates, encode_groups

logger = logging.getLogger(__name__)


class Teacher:
    """Frozen encoders that make targets; not an nn.Module, so that no model or criterion ever saves it.

    Args:
        paths: checkpoints.
        groups: groups of their layers.
        dtype: precision it runs in; None = that of the waves.
        captures: fields of `GroupStates` that targets hold beside the groups' means.
        separate: targets are those of each teacher, one after the other (ensemble distillation with a head for each,
            2302.12757); otherwise the mean over teachers.
        exact_padding: see SpeechEncoder.
    """

    def __init__(
        self,
        paths: Sequence[str],
        groups: Sequence[Group],
        dtype: Optional[torch.dtype] = torch.float32,
        captures: Collection[str] = (),
        separate: bool = False,
        exact_padding: bool = False,
    ):
        self.groups = list(groups)
        self.separate = separate
        self.dtype = dtype
        self.captures = frozenset(captures)
        self.encoders = [load_encoder(path) for path in paths]
        for encoder in self.encoders:
            encoder.requires_grad_(False)
            encoder.exact_padding = exact_padding
            encoder.normalize_input = False  # the task's data set normalises, before it crops or pads
        self.checked = False

    def compute_targets(
        self, source: Tensor, padding_mask: Optional[Tensor] = None, mask_indices: Optional[Tensor] = None
    ) -> GroupStates:
        """What the teacher says of waves; of several, their mean, or each for itself if `separate`.

        Args:
            source: (batch, samples).
            padding_mask: (batch, samples) bool, True = padding, or None.
            mask_indices: (batch, frames) bool, frames that the student does not see. The teacher then runs twice, and
                masked frames get the target of the run that saw them, the others that of the run that did not see the
                masked ones (masking distillation of ARMHuBERT, 2305.11685, its code).
        """
        total: Optional[GroupStates] = None
        for encoder in self.encoders:
            if not self.checked:  # the first batch says where and in what precision the run computes
                encoder.to(device=source.device, dtype=self.dtype or source.dtype)
            with torch.inference_mode():
                states = self._encode(encoder, source, padding_mask, mask_indices)
            # cloned and added outside inference mode: autograd refuses to save inference tensors
            if total is None:
                total = states.clone()
            else:
                total = total.append(states.clone()) if self.separate else total.add(states)
        assert total is not None, "there is no teacher"
        if not self.separate and len(self.encoders) > 1:
            total = total.divide(len(self.encoders))
        if not self.checked:
            self._check_finite(total.hidden)
        return total

    def _encode(
        self, encoder: SpeechEncoder, source: Tensor, padding_mask: Optional[Tensor], mask_indices: Optional[Tensor]
    ) -> GroupStates:
        """What one teacher says; with `mask_indices` after two passes through its layers."""
        features = encoder.compute_features(source.to(self.dtype or source.dtype), padding_mask)
        seen = encode_groups(encoder, features, self.groups, self.captures)
        if mask_indices is None:
            return seen
        unseen = encode_groups(encoder, features, self.groups, mask_indices=mask_indices)
        return seen.where(mask_indices, unseen)

    def _check_finite(self, targets: Sequence[Tensor]) -> None:
        """Once, on the first batch: half precision overflows in some large pre-norm models."""
        for group, target in zip(self.groups * len(self.encoders), targets):
            if not torch.isfinite(target).all():
                raise UserError(
                    f"the teacher's layers {group} are not finite in {target.dtype}: set task.teacher_dtype=float32, "
                    "or leave these layers out of criterion.groups"
                )
        self.checked = True
