"""Figures of a classifier from its decisions: accuracy and macro F1, with bootstrap intervals over utterances."""

from typing import Any, Dict, Tuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, f1_score

from .bootstrap import DRAWS, SEED, draw_counts, percentile_interval, ratio_interval


def measure_classes(predicted: ArrayLike, labels: ArrayLike) -> Dict[str, Any]:
    """Accuracy and macro F1 of decisions, each between 0 and 1, with their 95 % intervals over utterances.

    Macro F1 is scikit-learn's: the mean over the classes that occur among labels or decisions. Of each utterance,
    `predicted` and `labels` have one class, a name or a number.
    """
    found, true = np.asarray(predicted), np.asarray(labels)
    right = found == true
    return {
        "accuracy": float(accuracy_score(true, found)),
        "accuracy_bootstrap": list(ratio_interval(right, np.ones(len(right)))),
        "macro_f1": float(f1_score(true, found, average="macro", zero_division=0)),
        "macro_f1_interval": list(macro_f1_interval(found, true)),
    }


def macro_f1_interval(
    predicted: np.ndarray, labels: np.ndarray, draws: int = DRAWS, seed: int = SEED
) -> Tuple[float, float]:
    """95 % interval of macro F1 over utterances that are drawn again, each draw's over the classes that occur in it."""
    classes = np.unique(np.concatenate([labels, predicted]))
    true, found = (values[:, None] == classes for values in (labels, predicted))
    # F1 = 2 hits / (true + found), so these two sums of each class are all that a draw needs
    parts = np.concatenate([true & found, true.astype(int) + found], axis=1).astype(float)
    values = []
    for counts in draw_counts(len(labels), draws, seed, width=2 * len(classes)):
        hits, total = np.split(counts @ parts, 2, axis=1)
        values.append((2 * hits / np.maximum(total, 1)).sum(axis=1) / (total > 0).sum(axis=1))
    return percentile_interval(np.concatenate(values))
