"""Label files beside manifests: the classes of a task, and the class of each utterance."""

import logging
from collections import Counter
from pathlib import Path
from typing import List, Sequence

import numpy as np

from ..data.labels import read_labels
from ..data.manifest import read_manifest
from ..errors import UserError
from .heads import NO_LABEL
from .task_list import TaskSettings

logger = logging.getLogger(__name__)

_SHOWN = 5


def collect_classes(task: TaskSettings, folders: Sequence[str], split: str) -> List[str]:
    """The sorted labels of a task in `FOLDER/SPLIT.LABEL` of all its folders.

    Raises:
        UserError: a file is missing or does not fit its manifest, or there are fewer than two classes.
    """
    found = set()
    for folder in folders:
        rows = len(read_manifest(Path(folder, f"{split}.tsv")).paths)
        found.update(read_labels(Path(folder, f"{split}.{task.label}"), rows))
    classes = sorted(found - {""})
    if len(classes) < 2:
        files = ", ".join(f"{folder}/{split}.{task.label}" for folder in folders)
        raise UserError(
            f"task {task.name}: {files} holds {len(classes)} classes ({', '.join(classes)}); two are needed"
        )
    return classes


def number_labels(path: Path, num_rows: int, rows: Sequence[int], classes: Sequence[str]) -> np.ndarray:
    """Class of each of the `rows` of a manifest of `num_rows`, NO_LABEL where a line is empty or its class unknown.

    Labels that are none of `classes`, such as speakers who are not in training, are counted and reported.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    labels = read_labels(path, num_rows)
    labels = [labels[row] for row in rows]
    unknown = Counter(label for label in labels if label and label not in numbers)
    if unknown:
        shown = ", ".join(sorted(unknown)[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        logger.warning(
            f"{path}: {sum(unknown.values())} of {sum(map(bool, labels))} labelled utterances are of {len(unknown)} "
            f"classes that training does not have ({shown}): they are left out of this task's loss and accuracy"
        )
    return np.array([numbers.get(label, NO_LABEL) for label in labels], dtype=np.int64)
