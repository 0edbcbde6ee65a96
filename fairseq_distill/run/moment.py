"""When random numbers are drawn: what follows from it alone is the same in a run that was stopped and resumed."""

from typing import NamedTuple

import numpy as np
from fairseq.distributed import utils as distributed_utils


class Moment(NamedTuple):
    """A batch in the course of a run.

    Attributes:
        seed: of the run.
        update: number of updates done before.
        micro_batch: number of the batch within the update, from 0.
    """

    seed: int
    update: int
    micro_batch: int

    def make_generator(self) -> np.random.Generator:
        """Of random numbers for this batch, others on every worker."""
        return np.random.default_rng([*self, distributed_utils.get_global_rank()])


class Clock:
    """Counts the batches of an update, which fairseq hands over one by one without a number."""

    def __init__(self, seed: int):
        self.seed, self._batches = seed, 0

    def begin_update(self) -> None:
        """The next batch is an update's first."""
        self._batches = 0

    def tick(self, update: int) -> Moment:
        """The moment of the next batch of an update."""
        self._batches += 1
        return Moment(self.seed, update, self._batches - 1)
