"""What the heads of a fine-tuned multi-task model reach: accuracy of classifications, error rates of verifications."""

import logging
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from ..data.labels import read_labels
from ..data.manifest import Manifest, read_manifest
from ..data.waves import process_waves
from ..errors import UserError
from ..multitask.model import MultitaskModel
from ..multitask.task_list import TaskSettings
from .classification import measure_classes
from .trials import Trials, find_trials, pair_all
from .verification import measure_scores, score_trials

logger = logging.getLogger(__name__)


def evaluate_heads(
    model: MultitaskModel, data: Path, split: str = "test", trials: Optional[Path] = None
) -> Dict[str, Any]:
    """Measure each head that SPLIT.<label> is there for; utterances go through the model one by one.

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
    verifications = [task.name for task in model.tasks if task.kind == "verification"]
    if trials is not None and not verifications:
        raise UserError(f"--trials {trials}: none of this model's tasks is a verification")
    speakers = [labels[name] for name in verifications if name in labels]
    listed = None if trials is None else find_trials(trials, data, manifest, *speakers)
    rows = sorted({row for own in labels.values() for row, label in enumerate(own) if label})

    @torch.inference_mode()
    def run_heads(wave: torch.Tensor) -> Dict[str, Tuple[np.ndarray, np.ndarray]]:
        output = model.run_wave(wave)
        # hidden states are not kept: a whole manifest's would not fit into memory
        return {
            name: (output.scores[name][0].float().numpy(), output.embeddings[name][0].float().numpy())
            for name in labels
        }

    cfg = model.cfg
    outputs, unreadable = process_waves(manifest, rows, cfg.sample_rate, cfg.shortest_wave, run_heads, "heads on")
    unreadable.log()
    tasks: Dict[str, Any] = {}
    for task in (task for task in model.tasks if task.name in labels):
        used = [row for row in outputs if labels[task.name][row]]
        if not used:
            raise UserError(
                f"task {task.name}: no utterance of {data / split}.tsv that could be read has a label for it"
            )
        scores, embeddings = (np.stack(parts) for parts in zip(*(outputs[row][task.name] for row in used)))
        own = np.asarray([labels[task.name][row] for row in used])
        if task.kind == "classification":
            found = _measure_decisions(task.name, scores, model.classes[task.name], own)
        else:
            pairs = pair_all(own.tolist()) if listed is None else listed.keep(used)
            skipped = None if listed is None else len(listed.same) - len(pairs.same)
            found = {"trials_skipped": skipped, **_measure_pairs(task.name, embeddings, pairs, own)}
        tasks[task.name] = {"kind": task.kind, "utterances": len(used), **found}
    return {
        "data": str(data),
        "split": split,
        "skipped": {"unreadable": len(unreadable), "unlabelled": len(manifest.paths) - len(rows)},
        "tasks": tasks,
        "seconds": round(time.time() - started, 1),
    }


def _read_all_labels(tasks: Sequence[TaskSettings], manifest: Manifest, data: Path, split: str) -> Dict[str, List[str]]:
    """Labels of each task that has a file there, "" where a line is empty."""
    files = {task.name: data / f"{split}.{task.label}" for task in tasks}
    labels = {name: read_labels(file, len(manifest.paths)) for name, file in files.items() if file.is_file()}
    if not labels:
        raise UserError(
            f"none of {', '.join(map(str, files.values()))} is there: labels of {split}.tsv for a task of this model "
            "are needed"
        )
    left_out = [f"{name} ({file})" for name, file in files.items() if name not in labels]
    if left_out:
        logger.warning(f"not measured, as there are no labels: {', '.join(left_out)}")
    return labels


def _measure_decisions(name: str, scores: np.ndarray, classes: List[str], labels: np.ndarray) -> Dict[str, Any]:
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        logger.warning(f"task {name}: {', '.join(unknown)} was not in training, and is always wrong")
    predicted = [classes[best] for best in scores.argmax(1)]
    return {"classes": len(classes), **measure_classes(predicted, labels)}


def _measure_pairs(name: str, embeddings: np.ndarray, pairs: Trials, speakers: np.ndarray) -> Dict[str, Any]:
    same, different = pairs.count()
    if not same or not different:
        raise UserError(
            f"task {name}: {same} pairs of the same speaker and {different} of different ones; an error rate needs both"
        )
    found = measure_scores(score_trials(embeddings, pairs), pairs.same, speakers[pairs.enrol], speakers[pairs.test])
    return {"same_pairs": same, "different_pairs": different, **found}
