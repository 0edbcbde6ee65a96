"""The objective: student and teacher aligned, padding masked, every term weighed and summed, ready to be logged."""

from typing import Any, Dict, FrozenSet, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from fairseq import metrics
from torch import Tensor

from ..encoder.layer_groups import Group
from ..errors import UserError
from .distances import DISTANCES
from .plan import PredictionPlan
from .relations import RELATIONS
from .states import GroupStates, check_captured, merge_masks
from .terms import Term

TERMS: Dict[str, Term] = {**DISTANCES, **RELATIONS}
LOGGED = "distance"  # before the names of terms in logging outputs


class Distance(NamedTuple):
    """How far a student is from its teacher, summed over the frames that are not padding.

    Attributes:
        total: weighted sum over terms and groups, with gradient.
        parts: of each term and group, without its weight: {"l1_8-12": scalar}.
        frames: how many frames these are sums over.
    """

    total: Tensor
    parts: Dict[str, Tensor]
    frames: Tensor

    def to_log(self) -> Dict[str, Tensor]:
        """The parts as entries of a logging output, for `log_means`."""
        return {f"{LOGGED}/{name}": value for name, value in self.parts.items()}


class Objective:
    """A weighted sum of terms for each group, averaged (or summed) over groups, summed over frames.

    Args:
        weights: of terms in `TERMS`; those of weight 0 are left out.
        hint: weight of every group but the last of each teacher.
        reduce_groups: "mean" or "sum".
    """

    def __init__(self, weights: Mapping[str, float], hint: float = 1.0, reduce_groups: str = "mean"):
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.hint, self.reduce_groups = hint, reduce_groups

    @classmethod
    def from_settings(cls, criterion: Any) -> "Objective":
        """The objective that settings of the criterion `speech_distillation` ask for."""
        weights = {name: getattr(criterion, name) for name in TERMS}
        return cls(weights, criterion.hint, str(criterion.reduce_groups))

    @property
    def captures(self) -> FrozenSet[str]:
        """Fields of `GroupStates` that its terms read of each group's deepest layer, in student and teacher."""
        return frozenset(name for term in self.weights for name in TERMS[term].captures)

    def measure(self, student: GroupStates, teacher: GroupStates, plan: PredictionPlan) -> Distance:
        """Compare a student with its teacher on a batch.

        Args:
            student: with predictions of the first frames; of a student that reduces time they may be fewer than the
                teacher's (`heads.LinearHeads`).
            teacher: its states, for each of the plan's groups.
            plan: of what is predicted.
        """
        teacher, padding_mask = align(student, teacher)
        frames = count_valid_frames(student.predictions[0], padding_mask)
        total, parts = student.predictions[0].new_zeros((), dtype=torch.float32), {}
        for index, group in enumerate(plan.names):
            for name, weight in self.weights.items():
                per_frame = TERMS[name].measure(student, teacher, index, padding_mask)
                value = sum_frames(per_frame, padding_mask)
                total = total + weight * self.weigh_group(plan, index) * value
                parts[f"{name}_{group}"] = value.detach()
        return Distance(total, parts, frames)

    def weigh_group(self, plan: PredictionPlan, index: int) -> float:
        """A group's weight in the total; with a head for each teacher, the last group of each teacher is no hint."""
        hint = 1.0 if plan.is_last(index) else self.hint
        return hint / len(plan.groups) if self.reduce_groups == "mean" else hint


def align(student: GroupStates, teacher: GroupStates) -> Tuple[GroupStates, Optional[Tensor]]:
    """(teacher's states of the frames that the student predicts, mask (batch, frames) of padding of either)."""
    frames = student.predictions[0].size(1)
    if frames != teacher.hidden[0].size(1):
        teacher = teacher.cut(frames)
    # families round the length of padded audio differently
    return teacher, merge_masks(student.padding_mask, teacher.padding_mask)


def sum_frames(values: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Sum of (batch, frames) over the frames that are not padding."""
    return (values if padding_mask is None else values.masked_fill(padding_mask, 0.0)).sum()


def count_valid_frames(like: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Number of frames without padding in a batch shaped (batch, frames, ...), as a tensor (no GPU synchronisation)."""
    if padding_mask is None:
        return torch.tensor(like.size(0) * like.size(1), device=like.device)
    return (~padding_mask).sum()


def log_means(sums: Mapping[str, float], frames: float, *prefixes: str) -> None:
    """Log means over `frames` of the sums under names "PREFIX/NAME", as NAME.

    Args:
        sums: of all batches, see `run.logs.read_numbers`.
        frames: in all batches.
        *prefixes: default: those of `Distance.to_log`.
    """
    for key, value in sums.items():
        prefix, _, name = key.partition("/")
        if prefix in (prefixes or (LOGGED,)):
            metrics.log_scalar(name, value / frames, frames, round=4)


def check_objective(criterion: Any, groups: Sequence[Group], model_cfg: Any) -> None:
    """Raise UserError where terms that have a weight do not go with the other settings, or nothing trains the heads.

    Args:
        criterion: settings of the criterion.
        groups: of layers, of the teacher and of the student.
        model_cfg: settings of the student.
    """
    names = [name for name in TERMS if criterion[name]]
    if str(model_cfg.get("prediction_head", "linear")) != "none" and not any(name in DISTANCES for name in names):
        raise UserError(
            f"no distance of features has a weight ({', '.join(DISTANCES)}), so nothing would train the heads: set "
            "model.prediction_head=none"
        )
    for name in names:
        TERMS[name].check(name, criterion, model_cfg)
    capturing = [name for name in names if TERMS[name].captures]
    if capturing:
        check_captured(groups, capturing)
