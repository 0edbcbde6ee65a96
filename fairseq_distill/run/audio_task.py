"""What our tasks share: waves of any length go in, and no dictionary is fairseq's."""

import logging
import sys
from dataclasses import dataclass, field
from typing import Any, Optional, Tuple

import torch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask
from torch import Tensor

from .ranges import COUNT, FRACTION, NOT_NEGATIVE
from .settings import check_run, find_run, find_section, find_seed
from .workers import check_workers

logger = logging.getLogger(__name__)


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
    """A task on waves.

    Attributes:
        train_split: name of the training set.
        num_not_finite: batches whose loss was not finite, in this process.
    """

    def __init__(self, cfg: Any, **kwargs: Any):
        super().__init__(cfg, **kwargs)
        self.train_split = (find_section(find_run(cfg), "dataset") or {}).get("train_subset", "train")
        self.num_not_finite = 0
        self._last_loss: Optional[Tuple[int, Tensor, Tensor]] = None  # update, rows, loss
        self._told: set = set()

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "AudioTask":
        """Set the task up; neither data nor teacher is touched."""
        if not kwargs.get("from_checkpoint"):  # 0.12.2 never says so; what was trained has settings that pass
            check_workers(find_run(cfg))
            check_run(find_run(cfg))
        return cls(cfg)

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

    def train_step(
        self, sample: Any, model: Any, criterion: Any, optimizer: Any, update_num: int, ignore_grad: bool = False
    ) -> Tuple[Tensor, Any, Any]:
        """As fairseq's, and the utterances of a loss that is not finite are named.

        fairseq does not step on it: it leaves the update out in float16, and otherwise stops the run, after this has
        been called once more. So each loss is looked at in the next call, where the GPU need not be waited for.
        """
        self._name_not_finite()
        loss, sample_size, logging_output = super().train_step(
            sample, model, criterion, optimizer, update_num, ignore_grad
        )
        if not ignore_grad:
            self._last_loss = update_num, sample["id"], loss.detach()
        return loss, sample_size, logging_output

    def _name_not_finite(self) -> None:
        """Warn if the last loss was not finite; of the same batch once."""
        last, self._last_loss = self._last_loss, None
        if last is None or bool(torch.isfinite(last[2]).all()):
            return
        update_num, ids = last[0], last[1].tolist()
        key = update_num, *ids
        if key not in self._told:
            self._told.add(key)
            self.num_not_finite += 1
            dataset = self.datasets[self.train_split]
            logger.warning(
                f"the loss of a batch in update {update_num + 1} is not finite ({self.num_not_finite} so far); its "
                f"utterances: {', '.join(dataset.path(index) for index in ids)}"
            )

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
