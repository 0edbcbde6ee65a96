"""fairseq's FileAudioDataset that skips broken files with a count, up to a limit, instead of crashing in mid-epoch."""

import logging
import os
import time
from typing import Any, Callable, List, Optional, TypeVar, Union

import numpy as np
import torch
from fairseq.data import FairseqDataset, FileAudioDataset

from ..errors import UserError
from .audio_file import BrokenAudio, Fault
from .audio_settings import MIN_SAMPLES_ORIGIN, AudioSettings
from .long_wave import LongWave, open_wave
from .manifest import check_audio, read_manifest
from .unit_labels import UnitLabels
from .unreadable import UnreadableLimit

logger = logging.getLogger(__name__)

# As fairseq's main branch waits, but only for what time can mend: input/output errors.
_RETRY_PAUSES = (1, 2)
_SHOWN_FILES = 5
Wave = TypeVar("Wave")


class DistillationAudioDataset(FileAudioDataset):
    """Waves of a manifest; batching, buckets, cropping and padding are FileAudioDataset's.

    A file that cannot be used comes as `{"id": index, "source": None}`, which fairseq's collater drops. It is warned
    about once and not tried again. One more than `max_broken` allows raises UserError. The flags are shared with
    DataLoader workers; each process of a distributed run keeps its own.

    Where a wave is cropped follows from seed, epoch and row alone: held-out losses of two checkpoints, which fairseq
    computes as epoch 1, are of the same samples, and a resumed run crops as one that was not interrupted.

    Of a file of more than a minute, longer than `max_sample_size`, only the crop is read, where `read_parts` is set.
    Rows that alone are more than `dataset.max_tokens` are left out with a warning, as many as `max_broken` allows.

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
        self.read_parts = True
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

        A long wave is a `LongWave`, of which the collater reads the crop. With labels, also "labels" (frames,) of it.
        """
        if not self._faults[index]:
            try:
                wave = self._read(index)
            except BrokenAudio as error:
                broken = error
            else:
                if not isinstance(wave, LongWave):
                    wave = self.postprocess(wave, self.sample_rate)
                sample = {"id": index, "source": wave}
                return sample if self.labels is None else {**sample, "labels": self.labels[self.rows[index]]}
            self._count_broken(index, broken)  # out of the handler, so that its UserError shows no second traceback
        return {"id": index, "source": None}

    def collater(self, samples: list) -> dict:
        """Collate as fairseq does, but put the next good file into a batch of which nothing is left.

        fairseq would repeat its first batch in place of an empty one, count its loss, and fail if that one is empty.
        An empty list stays an empty batch: it fills up the last round of a distributed epoch.
        """
        batch = self._collate(samples)
        while samples and not batch:  # again where a crop of the stand-in cannot be read
            batch = self._collate([self._find_stand_in(samples[-1]["id"])])
        return batch

    def size(self, index: int) -> int:
        """Samples of a row in its batch, where it is cropped, also in a padded one: fairseq counts it whole there."""
        return min(int(self.sizes[index]), self.max_sample_size)

    def batch_by_size(self, indices: Any, max_tokens: Optional[int] = None, **limits: Any) -> Any:
        """As fairseq's; rows too long for a batch, where fairseq fails an assertion, are left out or refused."""
        indices = leave_out_long(self, indices, max_tokens, self.manifest_path, self.limit)
        return super().batch_by_size(indices, max_tokens=max_tokens, **limits)

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
        cropped = [self._crop(sample, longest) for sample in samples]
        samples = [sample for sample in cropped if sample is not None]
        batch = super().collater(samples)
        if batch and self.labels is not None:
            samples_wide = batch["net_input"]["source"].size(1)  # a bucket may be wider than its longest wave
            batch["target_list"] = [self.labels.collate([sample["labels"] for sample in samples], samples_wide)]
        return batch

    def _crop(self, sample: dict, longest: int) -> Optional[dict]:
        """The sample with at most `longest` samples of its wave, from a random place, and their labels.

        With a generator of its own: fairseq collates in a thread, beside which NumPy's is used by others. None if a
        part cannot be read.
        """
        wave, labels = sample["source"], self.labels
        stride = 1 if labels is None else labels.stride  # a crop starts where a frame does
        generator = np.random.default_rng([self.seed, self.epoch, int(sample["id"])])
        start = stride * int(generator.integers(max(len(wave) - longest, 0) // stride + 1))
        try:
            part = (
                wave[start : start + longest] if torch.is_tensor(wave) else _persist(lambda: wave.cut(start, longest))
            )
        except BrokenAudio as error:
            self._count_broken(sample["id"], error)
            return None
        sample = {**sample, "source": part}
        return sample if labels is None else {**sample, "labels": labels.cut(sample["labels"], start, len(part))}

    def _read(self, index: int) -> Union[torch.Tensor, LongWave]:
        size = int(self.sizes[index])
        wanted = self.max_sample_size if self.read_parts else size
        request = (self.path(index), self.sample_rate, size, self.min_sample_size or 0, wanted, self.normalize)
        return _persist(lambda: open_wave(*request))

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


def leave_out_long(
    dataset: FairseqDataset, indices: Any, max_tokens: Optional[int], name: str, limit: UnreadableLimit
) -> np.ndarray:
    """The indices without those that alone are more than `max_tokens`, with a warning.

    Raises:
        UserError: they are more than `limit` allows, or all; `name` says of which data.
    """
    indices = np.asarray(indices)
    sizes = np.array([dataset.size(index) for index in indices.tolist()] if max_tokens else [])
    long: List[int] = indices[: len(sizes)][sizes > (max_tokens or 0)].tolist()
    if not long:
        return indices
    report = (
        f"{name}: {len(long)} of {len(indices)} rows have more samples than dataset.max_tokens={max_tokens}, which "
        f"a batch has at most; the longest has {sizes.max():,}"
    )
    if limit.is_exceeded(len(long)) or len(long) == len(indices):
        raise UserError(
            f"{report}. That is more than {limit.setting}={limit.share:g} allows: crop them by task.max_sample_size, "
            "raise dataset.max_tokens, or take their rows out of the manifest"
        )
    logger.warning(f"{report}: they are left out")
    return indices[sizes <= (max_tokens or 0)]


def limit_broken(max_broken: float, num_files: int) -> UnreadableLimit:
    """How many of so many files `task.max_broken` allows to be unusable."""
    return UnreadableLimit(num_files, max_broken, setting="task.max_broken")


def _persist(read: Callable[[], Wave]) -> Wave:
    """What `read` returns, which is tried again after an input/output error, as time may mend it."""
    for pause in _RETRY_PAUSES:
        try:
            return read()
        except BrokenAudio as error:
            if error.fault != Fault.SYSTEM_ERROR:
                raise
            time.sleep(pause)
    return read()
