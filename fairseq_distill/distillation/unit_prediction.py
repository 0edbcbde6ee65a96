"""HuBERT's own objective on units of the teacher: predict the unit of each masked frame (DiceHuBERT, 2507.02911)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..encoder.model import Features, SpeechEncoder, require


class UnitTargets(NamedTuple):
    """What is to be predicted of a batch.

    Attributes:
        units: (batch, frames) long, symbols of the dictionary.
        mask_indices: (batch, frames) bool, the frames to mask.
        pad: symbol of frames without a unit.
    """

    units: Tensor
    mask_indices: Tensor
    pad: int


class UnitScores(NamedTuple):
    """Scalars over the masked frames that have a unit.

    Attributes:
        loss: mean cross-entropy; 0 where there is no such frame.
        correct: frames whose most probable unit is theirs.
        count: frames.
    """

    loss: Tensor
    correct: Tensor
    count: Tensor  # type: ignore[assignment]  # tuples have a method of that name


def predict_units(encoder: SpeechEncoder, features: Features, targets: UnitTargets) -> UnitScores:
    """Cross-entropy of HuBERT's masked prediction (2106.07447, eq. 3): of the units of masked frames alone.

    The probability of a unit is the softmax, over all units, of the cosine similarity of the projected output and the
    unit's embedding, divided by the encoder's `logit_temp`.

    Args:
        encoder: built with a dictionary of units.
        features: of a batch of waves, as the encoder computed them.
        targets: what is to be predicted.
    """
    output = encoder.encode_features(features, {encoder.depth}, mask_indices=targets.mask_indices)
    chosen = targets.mask_indices & (targets.units != targets.pad)
    if output.padding_mask is not None:
        chosen &= ~output.padding_mask
    assert encoder.final_proj is not None, "an encoder without a dictionary predicts no units"
    projected = encoder.final_proj(require(output.x)[chosen])
    embeddings = (
        encoder.label_embs_concat if encoder.target_glu is None else encoder.target_glu(encoder.label_embs_concat)
    )
    similarity = F.normalize(projected.float(), dim=-1) @ F.normalize(embeddings.float(), dim=-1).T
    logits, units = similarity / encoder.logit_temp, targets.units[chosen]
    count = chosen.sum()
    loss = F.cross_entropy(logits, units, reduction="sum") / count.clamp(min=1)
    return UnitScores(loss, (logits.argmax(-1) == units).sum(), count)
