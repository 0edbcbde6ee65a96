"""How the audio of a manifest is read in training: one record, checked in one place."""

from dataclasses import dataclass
from typing import Optional

from ..encoder.config import EncoderConfig
from ..errors import UserError

MIN_SAMPLES_ORIGIN = "(task.min_sample_size, or the model's receptive field where that is larger)"


@dataclass(frozen=True)
class AudioSettings:
    """How a task reads its audio; errors name the task's settings, `task.*`.

    Attributes:
        sample_rate: samples a second; files at another rate cannot be used.
        min_sample_size: samples; shorter rows are left out.
        max_sample_size: samples; longer waves are cropped. None = never.
        pad: pad a batch to its longest wave; otherwise crop it to its shortest.
        normalize: zero mean and unit variance for each wave.
        num_buckets: number of lengths that batches are padded to, with `pad`; 0 = any.
        max_broken: fraction of the files that may be unusable, from 0 to 1; rounded up to whole files.
        shuffle: random order, among waves of like length.
        seed: of the places that crops are taken from.

    Raises:
        UserError: a value that cannot be, or two that contradict each other.
    """

    sample_rate: int = EncoderConfig.sample_rate
    min_sample_size: int = 1
    max_sample_size: Optional[int] = None
    pad: bool = False
    normalize: bool = False
    num_buckets: int = 0
    max_broken: float = 0.01
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sample_rate < 1:
            raise UserError(f"task.sample_rate={self.sample_rate} must be a number of samples a second, at least 1")
        if not 0 <= self.max_broken <= 1:
            raise UserError(f"task.max_broken={self.max_broken} must be a fraction from 0 to 1")
        if self.num_buckets and not self.pad:
            raise UserError(f"task.num_batch_buckets={self.num_buckets} needs task.enable_padding=true")
        if self.max_sample_size is not None and self.max_sample_size < self.min_sample_size:
            raise UserError(
                f"task.max_sample_size={self.max_sample_size} crops below the least of {self.min_sample_size} samples "
                f"{MIN_SAMPLES_ORIGIN}"
            )
