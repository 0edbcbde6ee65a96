"""Speaker verification without training: equal error rate of cosine scores between pooled embeddings."""

from collections import Counter
from typing import Sequence, Tuple

import numpy as np
from sklearn.metrics import roc_curve


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """Rate at which as many different pairs are accepted as same pairs are rejected, between 0 and 1.

    Between two thresholds of the ROC curve the rates are interpolated linearly.

    Args:
        scores: (pairs,), higher = more alike.
        same: (pairs,) bool, True = the same speaker; both values must occur.

    Raises:
        ValueError: all pairs are of one kind, so there is no such rate.
    """
    if np.all(same) or not np.any(same):
        raise ValueError("an equal error rate needs pairs of the same and pairs of different speakers")
    accepted_wrongly, accepted, _ = roc_curve(same, scores)
    excess = (1 - accepted) - accepted_wrongly  # falls from 1 to -1 along the curve
    right = int(np.argmax(excess <= 0))
    step = excess[right - 1] / (excess[right - 1] - excess[right])
    return float(accepted_wrongly[right - 1] + step * (accepted_wrongly[right] - accepted_wrongly[right - 1]))


def score_pairs(embeddings: np.ndarray, speakers: Sequence[str]) -> Tuple[np.ndarray, np.ndarray]:
    """Cosine of every pair of different utterances.

    Args:
        embeddings: (utterances, width).
        speakers: one name an utterance.

    Returns:
        (scores, same), each (utterances * (utterances - 1) / 2,): the cosine, and whether the speakers are the same.
    """
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(length, np.finfo(embeddings.dtype).tiny)
    names = np.unique(np.asarray(speakers), return_inverse=True)[1]
    pairs = np.triu(np.ones((len(names), len(names)), dtype=bool), k=1)
    return (unit @ unit.T)[pairs], (names[:, None] == names[None, :])[pairs]


def verify(features: np.ndarray, layer_weights: np.ndarray, speakers: Sequence[str]) -> float:
    """Equal error rate of a weighted sum of layers: standardised features (utterances, layers + 1, width)."""
    return equal_error_rate(*score_pairs(np.einsum("l,nlw->nw", layer_weights, features), speakers))


def count_pairs(speakers: Sequence[str]) -> Tuple[int, int]:
    """(pairs of the same, pairs of different speakers) among these utterances; an error rate needs some of both."""
    same = sum(n * (n - 1) // 2 for n in Counter(speakers).values())
    return same, len(speakers) * (len(speakers) - 1) // 2 - same
