"""What a student says for distillation: states at its groups, predictions of the teacher, units of masked frames."""

from dataclasses import replace
from typing import NamedTuple, Optional

from torch import Tensor, nn

from ..encoder.model import EncoderOutput, Features, SpeechEncoder, require
from .heads import upsample_mask
from .plan import PredictionPlan
from .states import GroupStates, encode_groups
from .unit_prediction import UnitScores


class StudentOutput(NamedTuple):
    """What a student says about a batch.

    Attributes:
        states: with its predictions. Their `padding_mask` is that of the predictions, which has time_reduction times
            the frames of `hidden`, up to time_reduction - 1 fewer than the teacher makes.
        unit_scores: where units were to be predicted.
    """

    states: GroupStates
    unit_scores: Optional[UnitScores] = None


def predict_groups(
    encoder: SpeechEncoder,
    heads: nn.Module,
    plan: PredictionPlan,
    features: Features,
    mask_indices: Optional[Tensor] = None,
) -> GroupStates:
    """Run a student as far as the plan needs it, and predict the plan's groups.

    Args:
        encoder: the student.
        heads: those of `heads.build_heads`.
        plan: of what is predicted.
        features: of a batch of waves, as the encoder computed them.
        mask_indices: (batch, frames) bool, frames to mask before the first layer, or None.
    """
    if plan.student_groups:
        states = encode_groups(encoder, features, plan.student_groups, plan.captures, mask_indices)
    else:
        states = repeat_output(encoder.encode_features(features, {encoder.depth}, mask_indices=mask_indices), plan)
    return add_predictions(states, heads, encoder.cfg.time_reduction)


def repeat_output(output: EncoderOutput, plan: PredictionPlan) -> GroupStates:
    """An encoder's final output as what every group is predicted from."""
    return GroupStates([require(output.x)] * len(plan.groups), padding_mask=output.padding_mask)


def add_predictions(states: GroupStates, heads: nn.Module, time_reduction: int) -> GroupStates:
    """States with the predictions that heads make of `hidden`, and the mask of these."""
    mask = upsample_mask(states.padding_mask, time_reduction)
    predictions = heads(states.hidden)
    if mask is not None:  # features that nothing else is predicted beside have a few frames more
        predictions = [prediction[:, : mask.size(1)] for prediction in predictions]
    return replace(states, predictions=predictions, padding_mask=mask)
