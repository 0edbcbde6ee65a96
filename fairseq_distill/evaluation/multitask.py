"""What the heads of a fine-tuned multi-task model reach on a manifest: accuracy of keywords, error rates of speakers."""

import logging
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch

from ..data.manifest import Manifest, read_manifest
from ..errors import UserError
from ..models.speech_multitask import MultitaskOutput, SpeechMultitask, load_multitask
from ..multitask.task_list import TaskSettings
from .classification import measure_classes
from .labels import read_labels
from .trials import check_speakers, pair_all, read_trials
from .verification import measure_scores, score_trials
from .waves import describe_unreadable, process_waves

logger = logging.getLogger(__name__)


def evaluate_heads(path: Path, data: Path, split: str = "test", trials: Optional[Path] = None) -> Dict[str, Any]:
    """Measure each head that SPLIT.<label> is there for; utterances go through the model one by one, whole.

    Args:
        path: a checkpoint of speech_multitask.
        data: folder of SPLIT.tsv and its label files.
        trials: list of pairs for verification, also looked for in `data`; None = all pairs.

    Returns:
        "tasks": by name, of a classification what `measure_classes` returns, of a verification what `measure_scores`
        returns, each with "utterances" and "kind"; beside them what was measured.

    Raises:
        UserError: something cannot be read, or no task has labels there.
    """
    started = time.time()
    model, manifest = load_multitask(path), read_manifest(data / f"{split}.tsv")
    labels = _read_all_labels(model, manifest, data, split)
    trials = _find_trials(model, trials, data)
    rows = sorted({row for own in labels.values() for row, label in enumerate(own) if label})

    @torch.inference_mode()
    def hear(wave: torch.Tensor) -> MultitaskOutput:
        output = model(wave.unsqueeze(0))
        return output._replace(encoder=None)  # hidden states of a whole manifest would not fit into memory

    outputs, unreadable = process_waves(manifest, rows, model.cfg.shortest_wave, hear, "heads on")
    if unreadable:
        logger.warning(describe_unreadable(manifest, unreadable))
    tasks: Dict[str, Any] = {}
    for task in (task for task in model.tasks if task.name in labels):
        used = [row for row in outputs if labels[task.name][row]]
        measure = _measure_keywords if task.kind == "classification" else _measure_speakers
        found = measure(model, task, manifest, outputs, used, labels[task.name], trials)
        tasks[task.name] = {"kind": task.kind, "utterances": len(used), **found}
    return {
        "checkpoint": str(path),
        "data": str(data),
        "split": split,
        "skipped": {"unreadable": len(unreadable), "unlabelled": len(manifest.paths) - len(rows)},
        "tasks": tasks,
        "seconds": round(time.time() - started, 1),
    }


def _read_all_labels(model: SpeechMultitask, manifest: Manifest, data: Path, split: str) -> Dict[str, List[str]]:
    """Labels of each task that has a file there, "" where a line is empty."""
    files = {task.name: data / f"{split}.{task.label}" for task in model.tasks}
    labels = {name: read_labels(file, len(manifest.paths)) for name, file in files.items() if file.is_file()}
    if not labels:
        raise UserError(
            f"none of {', '.join(map(str, files.values()))} is there: labels of {split}.tsv for a task of this model are needed"
        )
    left_out = [name for name in files if name not in labels]
    if left_out:
        logger.warning(f"not measured, as there are no labels: {', '.join(f'{name} ({files[name]})' for name in left_out)}")
    return labels


def _find_trials(model: SpeechMultitask, trials: Optional[Path], data: Path) -> Optional[Path]:
    """The list, where it is there or below `data`."""
    if trials is None:
        return None
    if not any(task.kind == "verification" for task in model.tasks):
        raise UserError(f"--trials {trials}: none of this model's tasks is a verification")
    return trials if trials.is_file() or not (data / trials).is_file() else data / trials


def _measure_keywords(
    model: SpeechMultitask,
    task: TaskSettings,
    manifest: Manifest,
    outputs: Dict[int, MultitaskOutput],
    rows: List[int],
    labels: List[str],
    trials: Optional[Path],
) -> Dict[str, Any]:
    classes = model.classes[task.name]
    unknown = sorted({labels[row] for row in rows} - set(classes))
    if unknown:
        logger.warning(f"task {task.name}: {', '.join(unknown)} was not in training, and is always wrong")
    predicted = [classes[int(outputs[row].scores[task.name].argmax())] for row in rows]
    return {"classes": len(classes), **measure_classes(predicted, [labels[row] for row in rows])}


def _measure_speakers(
    model: SpeechMultitask,
    task: TaskSettings,
    manifest: Manifest,
    outputs: Dict[int, MultitaskOutput],
    rows: List[int],
    labels: List[str],
    trials: Optional[Path],
) -> Dict[str, Any]:
    embeddings = np.concatenate([outputs[row].embeddings[task.name].float().numpy() for row in rows])
    speakers = np.asarray([labels[row] for row in rows])
    if trials is None:
        pairs, total = pair_all(speakers), None
    else:
        whole = read_trials(trials, manifest)
        check_speakers(trials, whole, labels)
        pairs, total = whole.keep(rows), len(whole.same)
    same, different = pairs.count()
    if not same or not different:
        raise UserError(
            f"task {task.name}: {same} pairs of the same speaker and {different} of different ones; an error rate needs both"
        )
    found = measure_scores(score_trials(embeddings, pairs), pairs.same, speakers[pairs.enrol], speakers[pairs.test])
    skipped = None if total is None else total - len(pairs.same)
    return {"same_pairs": same, "different_pairs": different, "trials_skipped": skipped, **found}
