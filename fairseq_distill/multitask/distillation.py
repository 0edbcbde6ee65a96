"""Distillation beside the tasks (OS-KDFT, 2305.17394): teacher layers predicted from the same waves, and adapters."""

from contextlib import contextmanager
from typing import Any, Iterable, Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.reading import EncoderCheckpoint
from ..distillation.heads import SplitHeads, find_upsampling
from ..distillation.plan import PredictionPlan
from ..distillation.prediction import add_predictions, repeat_output
from ..distillation.states import GroupStates
from ..encoder.config import EncoderConfig
from ..encoder.model import EncoderOutput, SpeechEncoder
from ..errors import UserError


class TeacherHeads(nn.Module):
    """DistilHuBERT's heads on the encoder's final output, as OS-KDFT has: Linear, GELU, and a Linear for each group."""

    def __init__(self, cfg: EncoderConfig, plan: PredictionPlan):
        super().__init__()
        self.plan, self.time_reduction = plan, cfg.time_reduction
        groups = len(plan.groups)
        upsample = find_upsampling([[cfg.encoder_layers]] * groups, cfg.time_reduction)
        self.heads = SplitHeads(cfg.encoder_embed_dim, plan.width, groups, upsample)

    def forward(self, output: EncoderOutput) -> GroupStates:
        """The encoder's final output for every group, with predictions (batch, frames, teacher's width)."""
        return add_predictions(repeat_output(output, self.plan), self.heads, self.time_reduction)


class Adapter(nn.Module):
    """A bottleneck beside a feed-forward part: width to `bottleneck`, ReLU, back; it starts as nothing.

    OS-KDFT's noise on the bottleneck, of which we know no size, is left out.
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
def attach(encoder: SpeechEncoder, adapters: Iterable[nn.Module]) -> Iterator[None]:
    """Add each adapter's output to that of its layer's feed-forward part, until the end of the block."""
    layers = list(encoder.encoder.layers)
    for layer, adapter in zip(layers, adapters):
        # before the class's own
        layer.feed_forward = _add(layer.feed_forward, adapter)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.feed_forward


def _add(feed_forward: Any, adapter: nn.Module) -> Any:
    return lambda x, gates=None: feed_forward(x, gates) + adapter(x)


def check_teacher(teacher: EncoderCheckpoint, student: EncoderConfig) -> None:
    """Raise UserError where teacher and student need other waves or make frames at another rate."""
    ours = {
        "sample_rate": student.sample_rate,
        "normalize": student.normalize,
        "frame_stride": student.frame_stride // student.time_reduction,
    }
    for name, own in ours.items():
        theirs = getattr(teacher.config, name)
        if theirs != own:
            raise UserError(
                f"task.teacher={teacher.path} has {name}={theirs}, the encoder of model.init {own}: distillation on "
                "the same waves needs a teacher that agrees"
            )
