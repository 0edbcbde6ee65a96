"""What the heads of a fine-tuned multi-task model reach: accuracy of classifications, error rates of verifications."""

import logging
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ..data.labels import read_labels
from ..data.manifest import Manifest, read_manifest
from ..data.waves import process_waves
from ..errors import UserError
from ..multitask.model import MultitaskModel
from ..multitask.task_list import TaskSettings
from .classification import measure_classes
from .trials import Trials, check_speakers, pair_all, read_trials
from .verification import measure_scores, score_trials

logger = logging.getLogger(__name__)

Arrays = Dict[str, np.ndarray]  # by task


class HeadOutputs(NamedTuple):
    """What a task's head makes of the utterances that have a label for it."""

    task: TaskSettings
    classes: List[str]
    rows: List[int]  # of the manifest
    labels: List[str]
    scores: np.ndarray  # (utterances, classes)
    embeddings: np.ndarray  # (utterances, embedding)


def evaluate_heads(
    model: MultitaskModel, data: Path, split: str = "test", trials: Optional[Path] = None
) -> Dict[str, Any]:
    """Measure each head that SPLIT.<label> is there for; utterances go through the model one by one, whole.

    Args:
        model: a SpeechMultitask, as `load_multitask` gives it.
        data: folder of SPLIT.tsv and its label files.
        split: name of the manifest.
        trials: list of pairs for verification, also looked for in `data`; None = all pairs.

    Returns:
        "tasks": by name, of a classification what `measure_classes` returns, of a verification what `measure_scores`
        returns, each with "utterances" and "kind"; beside them what was measured.

    Raises:
        UserError: something cannot be read, or no task has labels there.
    """
    started = time.time()
    manifest = read_manifest(data / f"{split}.tsv")
    labels = _read_all_labels(model.tasks, manifest, data, split)
    listed = _read_listed_trials(model.tasks, labels, trials, data, manifest)
    rows = sorted({row for own in labels.values() for row, label in enumerate(own) if label})

    @torch.inference_mode()
    def run_heads(wave: torch.Tensor) -> Tuple[Arrays, Arrays]:
        output = model(wave.unsqueeze(0))
        # hidden states are not kept: a whole manifest's would not fit into memory
        return _as_arrays(output.scores), _as_arrays(output.embeddings)

    outputs, unreadable = process_waves(manifest, rows, model.cfg.shortest_wave, run_heads, "heads on")
    unreadable.log()
    tasks: Dict[str, Any] = {}
    for task in (task for task in model.tasks if task.name in labels):
        used = [row for row in outputs if labels[task.name][row]]
        if not used:
            raise UserError(
                f"task {task.name}: no utterance of {data / split}.tsv that could be read has a label for it"
            )
        scores, embeddings = (np.stack([outputs[row][i][task.name] for row in used]) for i in (0, 1))
        own = [labels[task.name][row] for row in used]
        head = HeadOutputs(task, model.classes[task.name], used, own, scores, embeddings)
        if task.kind == "classification":
            found = _measure_classes(head)
        else:
            found = _measure_speakers(head, *_choose_pairs(head, listed))
        tasks[task.name] = {"kind": task.kind, "utterances": len(used), **found}
    return {
        "data": str(data),
        "split": split,
        "skipped": {"unreadable": len(unreadable), "unlabelled": len(manifest.paths) - len(rows)},
        "tasks": tasks,
        "seconds": round(time.time() - started, 1),
    }


def _as_arrays(tensors: Dict[str, torch.Tensor]) -> Arrays:
    """By task, what a batch of one utterance gave."""
    return {name: tensor.squeeze(0).float().numpy() for name, tensor in tensors.items()}


def _read_all_labels(tasks: Sequence[TaskSettings], manifest: Manifest, data: Path, split: str) -> Dict[str, List[str]]:
    """Labels of each task that has a file there, "" where a line is empty."""
    files = {task.name: data / f"{split}.{task.label}" for task in tasks}
    labels = {name: read_labels(file, len(manifest.paths)) for name, file in files.items() if file.is_file()}
    if not labels:
        raise UserError(
            f"none of {', '.join(map(str, files.values()))} is there: labels of {split}.tsv for a task of this model "
            "are needed"
        )
    left_out = [name for name in files if name not in labels]
    if left_out:
        logger.warning(
            f"not measured, as there are no labels: {', '.join(f'{name} ({files[name]})' for name in left_out)}"
        )
    return labels


def _read_listed_trials(
    tasks: Sequence[TaskSettings], labels: Dict[str, List[str]], path: Optional[Path], data: Path, manifest: Manifest
) -> Optional[Trials]:
    """The list, from there or from below `data`, compared with the speaker labels before any work is done."""
    if path is None:
        return None
    verifications = [task.name for task in tasks if task.kind == "verification"]
    if not verifications:
        raise UserError(f"--trials {path}: none of this model's tasks is a verification")
    path = path if path.is_file() or not (data / path).is_file() else data / path
    listed = read_trials(path, manifest)
    for name in (name for name in verifications if name in labels):
        check_speakers(path, listed, labels[name])
    return listed


def _measure_classes(outputs: HeadOutputs) -> Dict[str, Any]:
    unknown = sorted(set(outputs.labels) - set(outputs.classes))
    if unknown:
        logger.warning(f"task {outputs.task.name}: {', '.join(unknown)} was not in training, and is always wrong")
    predicted = [outputs.classes[best] for best in outputs.scores.argmax(1)]
    return {"classes": len(outputs.classes), **measure_classes(predicted, outputs.labels)}


def _choose_pairs(outputs: HeadOutputs, listed: Optional[Trials]) -> Tuple[Trials, Optional[int]]:
    """Pairs of utterances, and how many of the list had to be left out; None without a list."""
    if listed is None:
        return pair_all(outputs.labels), None
    pairs = listed.keep(outputs.rows)
    return pairs, len(listed.same) - len(pairs.same)


def _measure_speakers(outputs: HeadOutputs, pairs: Trials, skipped: Optional[int]) -> Dict[str, Any]:
    same, different = pairs.count()
    if not same or not different:
        raise UserError(
            f"task {outputs.task.name}: {same} pairs of the same speaker and {different} of different ones; an error "
            "rate needs both"
        )
    speakers = np.asarray(outputs.labels)
    found = measure_scores(
        score_trials(outputs.embeddings, pairs), pairs.same, speakers[pairs.enrol], speakers[pairs.test]
    )
    return {"same_pairs": same, "different_pairs": different, "trials_skipped": skipped, **found}
