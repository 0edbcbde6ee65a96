"""What our tasks share: waves of any length go in, and no dictionary is fairseq's."""

import sys
from typing import Any, Tuple

from fairseq.tasks import FairseqTask


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
