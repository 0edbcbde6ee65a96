"""Waves of one or several manifests, each with its class in every task that it has a label for."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from fairseq.data import ConcatDataset

from ..data.audio_dataset import DistillationAudioDataset, leave_out_long, limit_broken, load_audio_dataset
from ..data.audio_settings import AudioSettings
from ..errors import UserError
from .augmentation import Augmentation
from .heads import NO_LABEL
from .labels import number_labels
from .sampling import compute_probabilities
from .task_list import TaskSettings

logger = logging.getLogger(__name__)


class MultitaskDataset(ConcatDataset):
    """fairseq's ConcatDataset over manifests, with "targets" (batch, tasks) long in every batch, NO_LABEL = none.

    Utterances without any label are not used. In training, with `sampling` or `balanced` in a task, an epoch is as many
    draws as there are utterances; otherwise each comes once. Draws, augmentation and crops follow from the epoch and
    the rows alone, so a resumed run continues as one that was not interrupted.

    Args:
        datasets: one a manifest, alike but for their manifests, which do not normalise.
        targets: (utterances of all of them, tasks).
        tasks: their settings.
        normalize: zero mean and unit variance for each wave, after augmentation.
        augmentation: of the waves, in training.
        training: whether utterances are drawn and shuffled.
        group_by_length: in training, make batches of waves of like length.
    """

    def __init__(
        self,
        datasets: Sequence[DistillationAudioDataset],
        targets: np.ndarray,
        tasks: Sequence[TaskSettings],
        normalize: bool = False,
        augmentation: Optional[Augmentation] = None,
        training: bool = True,
        group_by_length: bool = False,
    ):
        super().__init__(datasets)
        self.targets, self.normalize, self.augmentation, self.training = targets, normalize, augmentation, training
        self.group_by_length = group_by_length
        self.epoch = 1
        self.used = np.flatnonzero((targets != NO_LABEL).any(axis=1))
        self.probabilities = compute_probabilities(targets, tasks) if training else None
        self._sizes = np.minimum(super().sizes, datasets[0].max_sample_size)

    @property
    def sizes(self) -> np.ndarray:
        """Samples of each utterance as it comes, at its own speed."""
        return self._sizes

    def path(self, index: int) -> str:
        """The audio file of an utterance."""
        number, row = self._get_dataset_and_sample_index(index)
        return self.datasets[number].path(row)

    def size(self, index: int) -> int:
        """Samples of an utterance."""
        return int(self._sizes[index])

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """No: draws change with the epoch, and DataLoader workers that live on would augment as in the first one."""
        return False

    def batch_by_size(self, indices: Any, max_tokens: Optional[int] = None, **limits: Any) -> Any:
        """As fairseq's; utterances too long for a batch are left out or refused, as of a single manifest."""
        name = ", ".join(dataset.manifest_path for dataset in self.datasets)
        limit = limit_broken(self.datasets[0].limit.share, len(self))
        indices = leave_out_long(self, indices, max_tokens, name, limit)
        return super().batch_by_size(indices, max_tokens=max_tokens, **limits)

    def set_epoch(self, epoch: int) -> None:
        """Fairseq calls this before each epoch, and with 1 before each validation."""
        super().set_epoch(epoch)
        self.epoch = epoch

    def ordered_indices(self) -> np.ndarray:
        """The epoch's utterances, drawn or shuffled; fairseq seeds NumPy by the epoch before."""
        if not self.training:
            return self.used
        indices = np.random.permutation(self.used)
        if self.probabilities is not None:
            indices = np.random.choice(len(self), size=len(self.used), p=self.probabilities)
        return indices[np.argsort(-self._sizes[indices], kind="stable")] if self.group_by_length else indices

    def __getitem__(self, index: int) -> Dict[str, Any]:
        """`{"id": index, "source": wave or None, "targets": (tasks,) long}`; source None for a broken file."""
        sample = {**super().__getitem__(index), "id": int(index), "targets": torch.from_numpy(self.targets[index])}
        wave = sample["source"]
        if wave is None:
            return sample
        if self.augmentation is not None:
            wave = self.augmentation(wave, self.epoch, int(index))
        return {**sample, "source": F.layer_norm(wave, wave.shape) if self.normalize else wave}

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """Collate as fairseq does, with the next good file in place of a batch of which nothing is left."""
        good = [sample for sample in samples if sample["source"] is not None]
        if samples and not good:
            good = [self._find_stand_in(samples[-1]["id"])]
        batch = self.datasets[0].collater(good)
        if good:
            batch["targets"] = torch.stack([sample["targets"] for sample in good])
        return batch

    def _find_stand_in(self, index: int) -> Dict[str, Any]:
        """The next good utterance; each dataset has warned of what is broken, and stops the run at too much."""
        start = int(np.searchsorted(self.used, index))
        for step in range(1, len(self.used)):
            sample = self[self.used[(start + step) % len(self.used)]]
            if sample["source"] is not None:
                return sample
        raise UserError(f"{', '.join(d.manifest_path for d in self.datasets)}: no usable file is left")


def load_multitask_dataset(
    split: str,
    tasks: Sequence[TaskSettings],
    folders: Sequence[Sequence[str]],
    classes: Dict[str, List[str]],
    settings: AudioSettings,
    *,
    augmentation: Optional[Augmentation],
    training: bool,
    group_by_length: bool = False,
) -> MultitaskDataset:
    """Read FOLDER/SPLIT.tsv of all folders and the label files of the tasks that have each folder.

    `folders` and `classes` (by name) are those of each task; `settings` say how audio is read, but its waves are
    normalised after the augmentation; the last three arguments are as in `MultitaskDataset`.

    Raises:
        UserError: something is missing or broken, or no utterance has a label that the tasks know.
    """
    every = list(dict.fromkeys(folder for own in folders for folder in own))
    datasets, targets = [], []
    for folder in every:
        dataset = load_audio_dataset(os.path.join(folder, f"{split}.tsv"), replace(settings, normalize=False))
        dataset.read_parts = False  # augmentation is of whole waves, and so is the normalisation after it
        numbers = np.full((len(dataset), len(tasks)), NO_LABEL, dtype=np.int64)
        for column, (task, own) in enumerate(zip(tasks, folders)):
            if folder in own:
                path = Path(folder, f"{split}.{task.label}")
                numbers[:, column] = number_labels(path, dataset.num_rows, dataset.rows, classes[task.name])
        datasets.append(dataset)
        targets.append(numbers)
    whole = MultitaskDataset(
        datasets, np.concatenate(targets), tasks, settings.normalize, augmentation, training, group_by_length
    )
    counts = {task.name: int((column != NO_LABEL).sum()) for task, column in zip(tasks, whole.targets.T)}
    where = f"{split} of {', '.join(every)}"
    if not len(whole.used):
        message = f"{where}: no utterance has a label that its task knows, so there is nothing to do with it"
        if not training:
            message += (
                "; speakers who are not in training have no loss: set dataset.disable_validation=true, and measure the "
                "model with fairseq-distill evaluate heads"
            )
        raise UserError(message)
    counted = ", ".join(f"{count} for {name}" for name, count in counts.items())
    logger.info(f"{where}: {len(whole.used)} of {len(whole)} utterances have labels: {counted}")
    return whole
