"""Distillation beside the tasks (OS-KDFT, 2305.17394): teacher layers predicted from the same waves, and adapters."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.reading import EncoderCheckpoint
from ..distillation.distances import count_frames_that_count, sum_distances
from ..distillation.heads import SplitHeads, find_upsampling, upsample_mask
from ..distillation.teacher import Targets
from ..encoder.config import EncoderConfig
from ..encoder.layer_groups import Group, name_group
from ..encoder.model import EncoderOutput, SpeechEncoder
from ..errors import UserError


class TeacherPredictions(NamedTuple):
    """Predicted teacher layers: (batch, frames, teacher width) for each group, and padding (batch, frames) or None."""

    values: List[Tensor]
    padding_mask: Optional[Tensor]


class Distances(NamedTuple):
    """How far predictions are from targets, summed over `frames` frames that are not padding."""

    total: Tensor  # weighted by distance, mean over groups
    parts: Dict[str, Tensor]  # "l1_4", without weights
    frames: Tensor


class TeacherHeads(nn.Module):
    """DistilHuBERT's heads on the encoder's final output, as OS-KDFT has: Linear, GELU, and a Linear for each group."""

    def __init__(self, cfg: EncoderConfig, target_width: int, groups: int):
        super().__init__()
        self.time_reduction = cfg.time_reduction
        upsample = find_upsampling([[cfg.encoder_layers]] * groups, cfg.time_reduction)
        self.heads = SplitHeads(cfg.encoder_embed_dim, target_width, groups, upsample)

    def forward(self, output: EncoderOutput) -> TeacherPredictions:
        """Predictions from an encoder's output."""
        return TeacherPredictions(self.heads([output.x]), upsample_mask(output.padding_mask, self.time_reduction))


class Adapter(nn.Module):
    """A bottleneck beside a feed-forward part: width to `bottleneck`, ReLU, back; it starts as nothing.

    OS-KDFT's noise on the bottleneck is left out: its size is not known to us.
    """

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, width) to the same shape."""
        return self.up(F.relu(self.down(x)))


@contextmanager
def attach(encoder: SpeechEncoder, adapters: Sequence[nn.Module]) -> Iterator[None]:
    """Add each adapter's output to that of its layer's feed-forward part, until the end of the block."""
    layers = list(encoder.encoder.layers)
    for layer, adapter in zip(layers, adapters):
        layer.feed_forward = _add(layer.feed_forward, adapter)  # before the class's own
    try:
        yield
    finally:
        for layer in layers:
            del layer.feed_forward


def _add(feed_forward: Any, adapter: nn.Module) -> Any:
    return lambda x, gates=None: feed_forward(x, gates) + adapter(x)


def measure_distances(
    predictions: TeacherPredictions, targets: Targets, groups: Sequence[Group], weights: Dict[str, float]
) -> Distances:
    """Distances of predicted teacher layers, by group.

    Args:
        groups: the teacher's layers behind each prediction, for names.
        weights: of the distances in `losses.DISTANCES`; those of weight 0 are left out.
    """
    targets = targets.cut(predictions.values[0].size(1))
    mask = predictions.padding_mask
    if mask is not None:
        mask = mask | targets.padding_mask  # families round the length of padded audio differently
    total, parts = torch.zeros((), device=predictions.values[0].device), {}
    for group, prediction, target in zip(groups, predictions.values, targets.values):
        for name, value in sum_distances(prediction, target, mask, weights).items():
            total = total + weights[name] * value / len(groups)
            parts[f"{name}_{name_group(group)}"] = value.detach()
    return Distances(total, parts, count_frames_that_count(predictions.values[0], mask))


def check_teacher(teacher: EncoderCheckpoint, student: EncoderConfig) -> None:
    """Raise UserError where teacher and student need other waves or make frames at another rate."""
    for name in ("normalize", "frame_stride"):
        theirs, ours = getattr(teacher.config, name), getattr(student, name)
        if name == "frame_stride":
            ours //= student.time_reduction
        if theirs != ours:
            raise UserError(
                f"task.teacher={teacher.path} has {name}={theirs}, the encoder of model.init {ours}: distillation on the "
                "same waves needs a teacher that agrees"
            )
