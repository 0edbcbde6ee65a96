"""What our tasks share: waves of any length go in, and no dictionary is fairseq's."""

import sys
from dataclasses import dataclass, field
from typing import Any, Optional, Tuple

from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask

from .ranges import COUNT, FRACTION, NOT_NEGATIVE


@dataclass
class AudioTaskConfig(FairseqDataclass):
    """How waves become batches; names and meanings are fairseq's.

    Not a subclass of fairseq's AudioPretrainingConfig: its fields differ from version to version, and a model's file
    must open in all of them.
    """

    sample_rate: int = field(
        default=16_000, metadata={"help": "samples a second; files at another rate are not used", "range": COUNT}
    )
    enable_padding: bool = field(
        default=False, metadata={"help": "pad a batch to its longest wave; otherwise crop it to its shortest"}
    )
    max_sample_size: Optional[int] = field(
        default=None,
        metadata={"help": "longer waves are cropped to this many samples, from a random place", "range": COUNT},
    )
    min_sample_size: Optional[int] = field(
        default=None,
        metadata={
            "help": "shorter waves are left out; at least the receptive field of the encoder",
            "range": NOT_NEGATIVE,
        },
    )
    max_broken: float = field(
        default=0.01,
        metadata={
            "help": "fraction of a set's files that may be unreadable before the run stops; they are skipped",
            "range": FRACTION,
        },
    )


class AudioTask(FairseqTask):
    """A task on waves."""

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "AudioTask":
        """Set the task up; neither data nor teacher is touched."""
        return cls(cfg)

    def max_positions(self) -> Tuple[int, int]:
        """Waves of any length."""
        return sys.maxsize, sys.maxsize

    @property
    def source_dictionary(self) -> None:
        """Fine-tuning models ask; there is none."""
        return None

    @property
    def target_dictionary(self) -> None:
        """Fine-tuning models ask; there is none."""
        return None
