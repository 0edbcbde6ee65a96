"""Speaker verification without training: error rates of cosine scores between pooled embeddings."""

from collections import Counter
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np
from sklearn.preprocessing import normalize

from .bootstrap import DRAWS, percentile_interval, resample_speakers
from .detection import cross_rates, equal_error_rate, find_error_rates, minimum_cost
from .trials import Trials, pair_all

TARGET_PROBABILITIES = (0.01, 0.05)  # those of VoxCeleb's challenges and of NIST SRE
_BLOCK = 10_000  # trials scored at a time


def score_pairs(embeddings: np.ndarray, speakers: Sequence[str]) -> Tuple[np.ndarray, np.ndarray]:
    """Cosine of every pair of different utterances.

    Of embeddings (utterances, width) and a speaker's name for each, (scores, same), each (utterances * (utterances - 1)
    / 2,): the cosine, and whether the speakers are the same.
    """
    unit, names = normalize(embeddings), np.unique(np.asarray(speakers), return_inverse=True)[1]
    pairs = np.triu(np.ones((len(names), len(names)), dtype=bool), k=1)
    return (unit @ unit.T)[pairs], (names[:, None] == names)[pairs]


def score_trials(embeddings: np.ndarray, trials: Trials) -> np.ndarray:
    """Cosine of the two utterances of each trial, (trials,); embeddings are (utterances, width)."""
    unit = normalize(embeddings)
    starts = range(0, len(trials.same), _BLOCK)
    sides = ((trials.enrol[start : start + _BLOCK], trials.test[start : start + _BLOCK]) for start in starts)
    return np.concatenate([np.einsum("nw,nw->n", unit[enrol], unit[test]) for enrol, test in sides])


def verify(
    features: np.ndarray, layer_weights: np.ndarray, speakers: Sequence[str], trials: Optional[Trials] = None
) -> float:
    """Equal error rate of a weighted sum of layers, over a list of trials or all pairs.

    Args:
        features: (utterances, layers + 1, width), standardised.
        layer_weights: (layers + 1,).
        speakers: one name an utterance.
        trials: the pairs; None = all.
    """
    return equal_error_rate(*_score(features, layer_weights, speakers, trials))


def measure_verification(
    features: np.ndarray,
    layer_weights: np.ndarray,
    speakers: Sequence[str],
    trials: Optional[Trials] = None,
) -> Dict[str, Any]:
    """What `measure_scores` returns for scores as in `verify`."""
    scores, same = _score(features, layer_weights, speakers, trials)
    pairs = pair_all(speakers) if trials is None else trials
    names = np.asarray(speakers)
    return measure_scores(scores, same, names[pairs.enrol], names[pairs.test])


def measure_scores(
    scores: np.ndarray, same: np.ndarray, first: np.ndarray, second: np.ndarray, draws: int = DRAWS
) -> Dict[str, Any]:
    """Figures of scored pairs, with 95 % intervals over speakers that are drawn again (`bootstrap.resample_speakers`).

    Args:
        scores: (pairs,), higher = more alike.
        same: (pairs,) bool.
        first: (pairs,) one side's speaker, a name or a number.
        second: (pairs,) the other side's.
        draws: of the bootstrap over speakers.

    Returns:
        "eer" and "eer_interval"; "min_dcf" and "min_dcf_interval", by target probability as text; "eer_speakers", how
        many there are; "draws_left_out", draws in which no pair of one kind is left.

    Raises:
        ValueError: all pairs are of one kind, or a score is not finite.
    """
    rates = find_error_rates(scores, same)
    speakers, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    first, second = np.split(numbers, 2)
    drawn = [
        [cross_rates(block), *(minimum_cost(block, p) for p in TARGET_PROBABILITIES)]
        for block in resample_speakers(scores, same, first, second, draws)
    ]
    eers, *costs = (np.concatenate(figure) for figure in zip(*drawn))
    return {
        "eer": float(cross_rates(rates)),
        "eer_interval": list(percentile_interval(eers)),
        "min_dcf": {str(p): float(minimum_cost(rates, p)) for p in TARGET_PROBABILITIES},
        "min_dcf_interval": {str(p): list(percentile_interval(cost)) for p, cost in zip(TARGET_PROBABILITIES, costs)},
        "eer_speakers": len(speakers),
        "draws_left_out": draws - len(eers),
    }


def count_pairs(speakers: Sequence[str]) -> Tuple[int, int]:
    """(pairs of the same, pairs of different speakers) among these utterances; an error rate needs some of both."""
    same = sum(n * (n - 1) // 2 for n in Counter(speakers).values())
    return same, len(speakers) * (len(speakers) - 1) // 2 - same


def _score(
    features: np.ndarray, layer_weights: np.ndarray, speakers: Sequence[str], trials: Optional[Trials]
) -> Tuple[np.ndarray, np.ndarray]:
    """(scores, same) of a list of trials, or of all pairs."""
    embeddings = np.einsum("l,nlw->nw", layer_weights, features)
    if trials is None:
        return score_pairs(embeddings, speakers)
    return score_trials(embeddings, trials), trials.same
