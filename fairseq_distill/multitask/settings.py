"""Settings of the model and of the criterion `speech_multitask`."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import ChoiceEnum

from ..distillation.distances import DISTANCES
from ..distillation.plan import PredictionSettings
from ..distillation.settings import make_weights
from ..encoder.config import EncoderConfig
from ..run.ranges import MAX_WIDTH, NOT_NEGATIVE, Range

FREEZE = ("none", "cnn", "all")
WEIGHTINGS = ("fixed", "uncertainty")

# terms that compare predictions from the encoder's final output; there are no others here
DistanceWeights: Any = make_weights("DistanceWeights", DISTANCES, __name__, cosine=0.0, log_sigmoid_cosine=1.0)


@dataclass
class SpeechMultitaskConfig(PredictionSettings, EncoderConfig):
    """An encoder, whose shape comes from `init`, and how it is trained; the heads are described by `task.tasks`."""

    init: str = field(
        default="",
        metadata={
            "help": "checkpoint whose encoder to start from: a teacher, a student, anything that loads; its shape is "
            "taken over, dropout is as set here; empty = an encoder of this shape from scratch"
        },
    )
    freeze: ChoiceEnum(FREEZE) = field(
        default="none",
        metadata={
            "help": "what of the encoder stays as it is: none; cnn = the convolutions; all = only heads are trained"
        },
    )
    freeze_updates: int = field(
        default=0,
        metadata={
            "help": "the whole encoder stays as it is for this many updates, while the heads settle",
            "range": NOT_NEGATIVE,
        },
    )
    exact_padding: bool = field(
        default=True,
        metadata={
            "help": "a wave gives the same in a padded batch as alone, in every network; false = as in stock fairseq, "
            "where the first norm, batch norm and data2vec's stack of positions take padding for sound, and short "
            "waves beside long ones are not what they will be in use"
        },
    )
    learn_task_weights: bool = field(
        default=False, metadata={"help": "a variance for each task; the task writes it from criterion.weighting"}
    )
    adapter: int = field(
        default=0,
        metadata={
            "help": "with criterion.distillation: width of a bottleneck beside each feed-forward part that only the "
            "tasks go through, not the distillation (OS-KDFT: 64); 0 = none",
            "range": Range(0, MAX_WIDTH),
        },
    )


@dataclass
class SpeechMultitaskCriterionConfig(DistanceWeights):
    """How the tasks' losses are added; their weights are those of `task.tasks`."""

    weighting: ChoiceEnum(WEIGHTINGS) = field(
        default="fixed",
        metadata={
            "help": "fixed = weight * loss; uncertainty = weight * (exp(-s) * loss + s / 2) with a learned s for each "
            "task (Kendall et al., 1705.07115)"
        },
    )
    distillation: float = field(
        default=0.0,
        metadata={
            "help": "weight of the distances to layers of task.teacher, predicted from the encoder's final output on "
            "the same waves (OS-KDFT, 2305.17394: 1); 0 = none",
            "range": NOT_NEGATIVE,
        },
    )
    groups: Any = field(
        default="[[4],[8],[12]]",
        metadata={
            "help": "with distillation: groups of teacher layers, each averaged into one target, written as for "
            "speech_distillation, without auto"
        },
    )
