"""Errors of a detector at every threshold: equal error rate and minimum detection cost, for many weightings at once.

A pair (a trial) is accepted where its score is at or above the threshold. As the threshold falls, the two error rates
run along the ROC curve from (miss 1, false alarm 0) to (0, 1). Between its corners nothing new is found, so pairs are
summed by segment of the curve first: that makes a thousand weightings of the same pairs, as the bootstrap needs them,
cheap.
"""

from typing import NamedTuple

import numpy as np


class ErrorRates(NamedTuple):
    """Error rates at the corners of the ROC curve, each (corners, weightings) or (corners,), by falling threshold."""

    miss: np.ndarray  # share of the target pairs that are rejected, from 1 to 0
    false_alarm: np.ndarray  # share of the other pairs that are accepted, from 0 to 1


def find_segments(scores: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Number of the ROC segment that each pair lies on, from 0 at the highest scores.

    Neighbours in score share a segment while they are of one kind; pairs of equal score always do.

    Args:
        scores: (pairs,), higher = more alike.
        same: (pairs,) bool, True = a target pair.
    """
    _, tie = np.unique(-scores, return_inverse=True)
    targets, pairs = np.bincount(tie, weights=same), np.bincount(tie)
    kind = np.where(targets == 0, 0, np.where(targets == pairs, 1, 2))  # 2 = both kinds at one score
    begins = np.ones(len(kind), dtype=bool)
    begins[1:] = (kind[1:] != kind[:-1]) | (kind[1:] == 2)
    return (np.cumsum(begins) - 1)[tie]


def accumulate_errors(target_weight: np.ndarray, other_weight: np.ndarray) -> ErrorRates:
    """Error rates at each corner from the weight of target and of other pairs on each segment.

    Args:
        target_weight: of target pairs, (segments,) or (segments, weightings); each weighting's sum must not be 0.
        other_weight: the same of other pairs.
    """
    accepted, accepted_wrongly = (
        np.concatenate([np.zeros_like(weight[:1]), np.cumsum(weight, axis=0)]) / weight.sum(axis=0)
        for weight in (np.asarray(target_weight, dtype=float), np.asarray(other_weight, dtype=float))
    )
    return ErrorRates(1 - accepted, accepted_wrongly)


def find_error_rates(scores: np.ndarray, same: np.ndarray) -> ErrorRates:
    """Error rates at the corners of the ROC curve, every pair counting once: each (corners,); pairs as above.

    Raises:
        ValueError: all pairs are of one kind, or a score is not finite.
    """
    scores, same = np.asarray(scores), np.asarray(same, dtype=bool)
    if np.all(same) or not np.any(same):
        raise ValueError("error rates need pairs of the same and pairs of different speakers")
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are not finite")
    segment = find_segments(scores, same)
    return accumulate_errors(np.bincount(segment, weights=same), np.bincount(segment, weights=~same))


def cross_rates(rates: ErrorRates) -> np.ndarray:
    """Rate at which both errors are equal, () or (weightings,), interpolated linearly between the curve's corners."""
    excess = rates.miss - rates.false_alarm  # falls from 1 to -1 along the curve
    right = np.argmax(excess <= 0, axis=0)[None]
    before, after = (np.take_along_axis(excess, corner, axis=0) for corner in (right - 1, right))
    low, high = (np.take_along_axis(rates.false_alarm, corner, axis=0) for corner in (right - 1, right))
    return (low + before / (before - after) * (high - low))[0]


def minimum_cost(rates: ErrorRates, target_probability: float) -> np.ndarray:
    """Minimum detection cost (NIST SRE, VoxCeleb), () or (weightings,), at the best of all thresholds.

    The cost is miss * p + false alarm * (1 - p), with both errors costing 1, over that of the better of accepting all
    and rejecting all, min(p, 1 - p): so it lies between 0 and 1.

    Args:
        rates: of every threshold.
        target_probability: p, the prior probability of a target pair, between 0 and 1.
    """
    p = target_probability
    return (p * rates.miss + (1 - p) * rates.false_alarm).min(axis=0) / min(p, 1 - p)


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """`cross_rates` of every pair counting once; arguments and errors as in `find_error_rates`."""
    return float(cross_rates(find_error_rates(scores, same)))
