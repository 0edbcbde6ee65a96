"""fairseq's FileAudioDataset that skips broken files with a count, up to a limit, instead of crashing in mid-epoch."""

import logging
import os
import time
from typing import Any, Optional

import numpy as np
import torch
from fairseq.data import FileAudioDataset

from ..errors import UserError
from .audio_file import BrokenAudio, Fault, read_wave
from .audio_settings import MIN_SAMPLES_ORIGIN, AudioSettings
from .manifest import check_audio, read_manifest
from .unit_labels import UnitLabels
from .unreadable import UnreadableLimit

logger = logging.getLogger(__name__)

# As fairseq's main branch waits, but only for what time can mend: input/output errors.
_RETRY_PAUSES = (1, 2)
_SHOWN_FILES = 5


class DistillationAudioDataset(FileAudioDataset):
    """Waves of a manifest; batching, buckets, cropping and padding are FileAudioDataset's.

    A file that cannot be used comes as `{"id": index, "source": None}`, which fairseq's collater drops. It is warned
    about once and not tried again. One more than `max_broken` allows raises UserError. The flags are shared with
    DataLoader workers; each process of a distributed run keeps its own.

    Where a wave is cropped follows from seed, epoch and row alone: held-out losses of two checkpoints, which fairseq
    computes as epoch 1, are of the same samples, and a resumed run crops as one that was not interrupted.

    With `labels`, crops start where a frame does, and batches have `target_list`, as fairseq's HubertDataset names it:
    one tensor (batch, frames) of the labels of the frames that the model makes of `source`, filled up with their
    dictionary's pad where a wave ends.

    Args:
        manifest_path: fairseq's audio manifest.
        settings: how its audio is read.
        labels: of its rows, or None.
        kwargs: FileAudioDataset's others.
    """

    def __init__(self, manifest_path: str, settings: AudioSettings, labels: Optional[UnitLabels] = None, **kwargs: Any):
        super().__init__(
            manifest_path,
            settings.sample_rate,
            max_sample_size=settings.max_sample_size,
            min_sample_size=settings.min_sample_size,
            shuffle=settings.shuffle,
            pad=settings.pad,
            normalize=settings.normalize,
            num_buckets=settings.num_buckets,
            **kwargs,
        )
        self.manifest_path = str(manifest_path)
        self.limit = limit_broken(settings.max_broken, len(self))
        self.seed = settings.seed
        self.epoch = 1
        self.labels = labels
        self.num_rows = len(self) + len(self.skipped_indices)
        # of the manifest and its labels; fairseq's indices skip what is too short
        self.rows = [row for row in range(self.num_rows) if row not in self.skipped_indices]
        if labels is not None:
            labels.check(self.manifest_path, self.num_rows, self.rows, self.sizes, settings.max_broken)
        self._faults = torch.zeros(len(self), dtype=torch.uint8).share_memory_()
        if self.skipped_indices:
            logger.warning(
                f"{manifest_path}: left out {len(self.skipped_indices)} of {self.num_rows} rows, which are "
                f"shorter than {self.min_sample_size} samples {MIN_SAMPLES_ORIGIN}"
            )

    @property
    def num_broken(self) -> int:
        """Distinct files found broken so far, in this process and its DataLoader workers."""
        return int(self._faults.count_nonzero())

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """No: a run would keep the batches of the epoch that it started in, which are others after a resume."""
        return False

    def set_epoch(self, epoch: int) -> None:
        """Fairseq calls this before each epoch, and with 1 before each validation."""
        super().set_epoch(epoch)
        self.epoch = epoch

    def path(self, index: int) -> str:
        """The audio file of an index, joined as fairseq joins it."""
        name = self.fnames[index]
        name = name if isinstance(self.fnames, list) else name.as_py()
        return os.path.join(self.root_dir, self.text_compressor.decompress(name))

    def __getitem__(self, index: int) -> dict:
        """`{"id": index, "source": wave}` with wave (samples,) float32, or source None for a broken file.

        With labels, also "labels" (frames,) of a wave.
        """
        if not self._faults[index]:
            try:
                wave = self._read(index)
            except BrokenAudio as error:
                broken = error
            else:
                sample = {"id": index, "source": self.postprocess(wave, self.sample_rate)}
                return sample if self.labels is None else {**sample, "labels": self.labels[self.rows[index]]}
            self._count_broken(index, broken)  # out of the handler, so that its UserError shows no second traceback
        return {"id": index, "source": None}

    def collater(self, samples: list) -> dict:
        """Collate as fairseq does, but put the next good file into a batch of which nothing is left.

        fairseq would repeat its first batch in place of an empty one, count its loss, and fail if that one is empty.
        An empty list stays an empty batch: it fills up the last round of a distributed epoch.
        """
        batch = self._collate(samples)
        if samples and not batch:
            batch = self._collate([self._find_stand_in(samples[-1]["id"])])
        return batch

    def describe_broken(self) -> str:
        """How many files are broken, of which kinds, and the first few of them."""
        broken = self._faults.nonzero().flatten().tolist()
        kinds = [f"{int((self._faults == fault).sum())} {fault.label}" for fault in Fault if fault in self._faults]
        files = [f"{self.path(i)} ({Fault(int(self._faults[i])).label})" for i in broken[:_SHOWN_FILES]]
        more = ", ..." if len(broken) > _SHOWN_FILES else ""
        return f"{len(broken)} of {len(self)} files cannot be used ({', '.join(kinds)}): {', '.join(files)}{more}"

    def _collate(self, samples: list) -> dict:
        samples = [sample for sample in samples if sample["source"] is not None]
        if not samples:
            return {}
        sizes = [len(sample["source"]) for sample in samples]
        longest = min(max(sizes) if self.pad else min(sizes), self.max_sample_size)
        samples = [self._crop(sample, longest) for sample in samples]
        batch = super().collater(samples)
        if self.labels is not None:
            samples_wide = batch["net_input"]["source"].size(1)  # a bucket may be wider than its longest wave
            batch["target_list"] = [self.labels.collate([sample["labels"] for sample in samples], samples_wide)]
        return batch

    def _crop(self, sample: dict, longest: int) -> dict:
        """The sample with at most `longest` samples of its wave, from a random place, and their labels.

        With a generator of its own: fairseq collates in a thread, beside which NumPy's is used by others.
        """
        wave, labels = sample["source"], self.labels
        stride = 1 if labels is None else labels.stride  # a crop starts where a frame does
        generator = np.random.default_rng([self.seed, self.epoch, int(sample["id"])])
        start = stride * int(generator.integers(max(len(wave) - longest, 0) // stride + 1))
        wave = wave[start : start + longest]
        cropped = {**sample, "source": wave}
        return cropped if labels is None else {**cropped, "labels": labels.cut(sample["labels"], start, len(wave))}

    def _read(self, index: int) -> torch.Tensor:
        request = (self.path(index), self.sample_rate, int(self.sizes[index]), self.min_sample_size or 0)
        for pause in _RETRY_PAUSES:
            try:
                return read_wave(*request)
            except BrokenAudio as error:
                if error.fault != Fault.SYSTEM_ERROR:
                    raise
                time.sleep(pause)
        return read_wave(*request)

    def _count_broken(self, index: int, error: BrokenAudio) -> None:
        self._faults[index] = int(error.fault)
        count = self.num_broken
        logger.warning("skipped %d of %d files so far: %s: %s", count, len(self), self.path(index), error)
        if self.limit.is_exceeded(count):
            raise self.limit.error(f"{self.manifest_path}: {self.describe_broken()}")

    def _find_stand_in(self, index: int) -> dict:
        for step in range(1, len(self)):
            sample = self[(index + step) % len(self)]
            if sample["source"] is not None:
                logger.warning("all files of a batch are broken: %s stands in for them", self.path(sample["id"]))
                return sample
        raise UserError(f"{self.manifest_path}: no usable file is left: {self.describe_broken()}")


def load_audio_dataset(
    manifest_path: str, settings: Optional[AudioSettings] = None, labels: Optional[UnitLabels] = None, **fields: Any
) -> DistillationAudioDataset:
    """Read and check a manifest, then build its dataset.

    Args:
        manifest_path: the manifest.
        settings: how its audio is read.
        labels: of its frames, or None.
        **fields: of `AudioSettings`, where these are not given.

    Raises:
        UserError: for what `read_manifest` refuses, and if more of the checked files than `max_broken` allows are bad;
            fewer are logged.
    """
    settings = settings or AudioSettings(**fields)
    least = settings.min_sample_size
    report = check_audio(read_manifest(manifest_path), settings.sample_rate, least)
    if not report.num_files:
        raise UserError(f"{manifest_path}: all rows are shorter than {least} samples {MIN_SAMPLES_ORIGIN}")
    limit = limit_broken(settings.max_broken, report.num_checked)
    if limit.is_exceeded(report.num_bad):
        raise limit.error(report.describe())
    logger.log(logging.WARNING if report.num_bad or report.num_stereo else logging.INFO, "%s", report.describe())
    return DistillationAudioDataset(manifest_path, settings, labels)


def limit_broken(max_broken: float, num_files: int) -> UnreadableLimit:
    """How many of so many files `task.max_broken` allows to be unusable."""
    return UnreadableLimit(num_files, max_broken, setting="task.max_broken")
