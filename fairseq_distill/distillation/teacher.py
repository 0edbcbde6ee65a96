"""The frozen teacher, or several averaged: from a batch of waves to one target per group."""

import logging
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..checkpoints.reading import load_encoder
from ..encoder.layer_groups import Group
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from .states import Capture, View, look

logger = logging.getLogger(__name__)


class Targets(NamedTuple):
    """Targets per group, each (batch, frames, width), and the frames that are padding (batch, frames) or None.

    `pairs` and `maps` are those of `views.View`, where they were captured.
    """

    values: List[Tensor]
    padding_mask: Optional[Tensor]
    pairs: Sequence[Tuple[Tensor, Tensor]] = ()
    maps: Sequence[Tensor] = ()

    def cut(self, frames: int) -> "Targets":
        """The first frames alone; a student that reduces time may predict fewer than the teacher makes (`heads.LinearHeads`)."""
        if frames == self.values[0].size(1):
            return self
        mask = self.padding_mask
        return self._replace(
            values=[value[:, :frames] for value in self.values], padding_mask=None if mask is None else mask[:, :frames]
        )


class Teacher:
    """Frozen encoders that make targets; not an nn.Module, so that no model or criterion ever saves it.

    Args:
        paths: checkpoints.
        groups: groups of their layers.
        dtype: precision it runs in; None = that of the waves.
        capture: what targets hold beside the groups' means.
        separate: targets are those of each teacher, one after the other (ensemble distillation with a head for each,
            2302.12757); otherwise the mean over teachers.
        exact_padding: see SpeechEncoder.
    """

    def __init__(
        self,
        paths: Sequence[str],
        groups: Sequence[Group],
        dtype: Optional[torch.dtype] = torch.float32,
        capture: Capture = Capture(),
        separate: bool = False,
        exact_padding: bool = False,
    ):
        self.groups = list(groups)
        self.separate = separate
        self.dtype = dtype
        self.capture = capture
        self.encoders = [load_encoder(path) for path in paths]
        for encoder in self.encoders:
            encoder.requires_grad_(False)
            encoder.exact_padding = exact_padding
            encoder.normalize_input = False  # the task's data set normalises, before it crops or pads
        self.checked = False

    def compute_targets(
        self, source: Tensor, padding_mask: Optional[Tensor] = None, mask_indices: Optional[Tensor] = None
    ) -> Targets:
        """What the teacher says of waves (batch, samples); of several, their mean, or each for itself if `separate`.

        Args:
            padding_mask: (batch, samples) bool, True = padding, or None.
            mask_indices: (batch, frames) bool, frames that the student does not see. The teacher then runs twice, and masked
                frames get the target of the run that saw them, the others that of the run that did not see the masked ones
                (masking distillation of ARMHuBERT, 2305.11685, its code).
        """
        total: Optional[View] = None
        combine = _append if self.separate else _add
        for encoder in self.encoders:
            if not self.checked:  # the first batch says where and in what precision the run computes
                encoder.to(device=source.device, dtype=self.dtype or source.dtype)
            with torch.inference_mode():
                view = self._look(encoder, source, padding_mask, mask_indices)
            # added outside inference mode: autograd refuses to save inference tensors
            total = _clone(view) if total is None else combine(total, view)
        if not self.separate and len(self.encoders) > 1:
            total = _divide(total, len(self.encoders))
        if not self.checked:
            self._check_finite(total.means)
        return Targets(total.means, total.padding_mask, total.pairs, total.maps)

    def _look(
        self, encoder: SpeechEncoder, source: Tensor, padding_mask: Optional[Tensor], mask_indices: Optional[Tensor]
    ) -> View:
        """What one teacher says; with `mask_indices` after two passes through its layers."""
        features = encoder.compute_features(source.to(self.dtype or source.dtype), padding_mask)
        seen = look(encoder, features, self.groups, self.capture)
        if mask_indices is None:
            return seen
        unseen = look(encoder, features, self.groups, mask_indices=mask_indices)
        frames = mask_indices.unsqueeze(-1)
        return seen._replace(
            means=[torch.where(frames, whole, masked) for whole, masked in zip(seen.means, unseen.means)]
        )

    def _check_finite(self, targets: Sequence[Tensor]) -> None:
        """Once, on the first batch: half precision overflows in some large pre-norm models."""
        for group, target in zip(self.groups * len(self.encoders), targets):
            if not torch.isfinite(target).all():
                raise UserError(
                    f"the teacher's layers {group} are not finite in {target.dtype}: set task.teacher_dtype=float32, "
                    "or leave these layers out of criterion.groups"
                )
        self.checked = True


def _clone(view: View) -> View:
    """A view that autograd may save."""
    mask = view.padding_mask
    pairs = [(one.clone(), other.clone()) for one, other in view.pairs]
    return View(
        [m.clone() for m in view.means], pairs, [m.clone() for m in view.maps], None if mask is None else mask.clone()
    )


def _add(total: View, view: View) -> View:
    """Sum of what two teachers say; padding of either is padding."""
    pairs = [(a + c, b + d) for (a, b), (c, d) in zip(total.pairs, view.pairs)]
    means, maps = ([a + b for a, b in zip(x, y)] for x, y in ((total.means, view.means), (total.maps, view.maps)))
    mask = total.padding_mask
    return View(means, pairs, maps, mask if mask is None else mask | view.padding_mask)


def _append(total: View, view: View) -> View:
    """What two teachers say, one after the other; padding of either is padding."""
    view = _clone(view)
    mask = total.padding_mask
    mask = mask if mask is None else mask | view.padding_mask
    return View(total.means + view.means, total.pairs + view.pairs, total.maps + view.maps, mask)


def _divide(total: View, count: int) -> View:
    """A sum over teachers to their mean."""
    pairs = [(a / count, b / count) for a, b in total.pairs]
    return View([m / count for m in total.means], pairs, [m / count for m in total.maps], total.padding_mask)
