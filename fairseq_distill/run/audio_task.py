"""What our tasks share: waves of any length go in, and no dictionary is fairseq's."""

import sys
from dataclasses import dataclass, field
from typing import Any, Optional, Tuple

from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask

from .settings import find_run, find_section, find_seed
from .workers import check_workers


@dataclass
class AudioTaskConfig(FairseqDataclass):
    """How waves become batches; names and meanings are fairseq's.

    Not a subclass of fairseq's AudioPretrainingConfig: its fields differ from version to version, and a model's file
    must open in all of them.
    """

    sample_rate: int = field(default=16_000, metadata={"help": "samples a second; files at another rate are not used"})
    enable_padding: bool = field(
        default=False, metadata={"help": "pad a batch to its longest wave; otherwise crop it to its shortest"}
    )
    max_sample_size: Optional[int] = field(
        default=None, metadata={"help": "longer waves are cropped to this many samples, from a random place"}
    )
    min_sample_size: Optional[int] = field(
        default=None, metadata={"help": "shorter waves are left out; at least the receptive field of the encoder"}
    )
    max_broken: float = field(
        default=0.01,
        metadata={"help": "fraction of a set's files that may be unreadable before the run stops; they are skipped"},
    )


class AudioTask(FairseqTask):
    """A task on waves."""

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "AudioTask":
        """Set the task up; neither data nor teacher is touched."""
        if not kwargs.get("from_checkpoint"):  # 0.12.2 never says so; what was trained has settings that pass
            check_workers(find_run(cfg))
        return cls(cfg)

    def __init__(self, cfg: Any, **kwargs: Any):
        super().__init__(cfg, **kwargs)
        self.train_split = (find_section(find_run(cfg), "dataset") or {}).get("train_subset", "train")

    def find_seed(self, split: str) -> int:
        """Of a split's crops: the run's in training, 0 elsewhere, so that held-out losses are of the same samples."""
        return find_seed(self.cfg) if split == self.train_split else 0

    def get_batch_iterator(self, *args: Any, **kwargs: Any) -> EpochBatchIterator:
        """Fairseq's, whose DataLoader workers end with their epoch.

        Every epoch and every validation has an iterator of its own, and its workers lived on in all fairseq versions.
        """
        batches = super().get_batch_iterator(*args, **kwargs)
        begin_epoch = batches._get_iterator_for_epoch

        def begin(*args: Any, **kwargs: Any) -> Any:
            epoch_itr = begin_epoch(*args, **kwargs)
            if batches.dataloader is not None:  # which has not begun; its own setter refuses
                vars(batches.dataloader)["persistent_workers"] = False
            return epoch_itr

        batches._get_iterator_for_epoch = begin
        return batches

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
