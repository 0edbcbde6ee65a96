"""Confidence intervals by the bootstrap: items are drawn again with replacement, each draw has a figure of its own.

Items are what may be taken as independent: utterances, or for verification the speakers (`resample_speakers`). A draw
is kept as how often it holds each item, so that a figure of many draws is a product with a matrix. The interval lies
between percentiles of the figure over the draws.
"""

from typing import Iterator, Tuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from tqdm import tqdm

from .detection import ErrorRates, accumulate_errors, find_segments

DRAWS = 1000
SEED = 0
_BLOCK = 1 << 22  # numbers of a block of draws in memory: 32 MB


def draw_counts(items: int, draws: int = DRAWS, seed: int = SEED, width: int = 0) -> Iterator[np.ndarray]:
    """Draw `items` out of as many, with replacement, `draws` times: how often each item is in each draw.

    Yields blocks (some draws, items) of integers, of a size that leaves room for `width` numbers of the caller's for
    each draw.
    """
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK // max(items, width))
    for start in tqdm(range(0, draws, size), desc="bootstrap", unit="block", delay=5, leave=False):
        yield generator.multinomial(items, np.full(items, 1 / items), size=min(size, draws - start))


def percentile_interval(values: np.ndarray, level: float = 0.95) -> Tuple[float, float]:
    """The middle `level` of the figures of all draws, (draws,)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_interval(part: ArrayLike, whole: ArrayLike, draws: int = DRAWS, seed: int = SEED) -> Tuple[float, float]:
    """95 % interval of sum(part) / sum(whole) over items that are drawn again: a rate such as errors to words.

    Args:
        part: (items,), what each item adds to the numerator.
        whole: (items,), what each adds to the denominator; positive.
        draws: how many.
        seed: of the draws.
    """
    columns = np.stack([np.asarray(part, dtype=float), np.asarray(whole, dtype=float)], axis=1)
    sums = np.concatenate([counts @ columns for counts in draw_counts(len(columns), draws, seed)])
    return percentile_interval(sums[:, 0] / sums[:, 1])


def resample_speakers(
    scores: np.ndarray,
    same: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Iterator[ErrorRates]:
    """Error rates of pairs when the speakers are drawn again, since pairs that share a speaker are not independent.

    Where a draw holds speaker a n(a) times, a pair of different speakers a, b counts n(a) n(b) times: each copy of one
    meets each copy of the other. A pair of the same speaker a counts n(a) times: a copy meets its own utterances, and
    copies of one speaker are not paired, as they would be neither the same utterances nor different speakers.
    Draws in which no pair of one kind is left have no rates and are left out.

    Args:
        scores: (pairs,), higher = more alike.
        same: (pairs,) bool.
        first: (pairs,) number of one side's speaker, from 0.
        second: (pairs,) of the other side's; equal where `same`.
        draws: how many.
        seed: of the draws.

    Yields:
        Rates of blocks of draws, each (corners, some draws).
    """
    speakers = 1 + int(max(first.max(), second.max()))
    segment = find_segments(scores, same)
    segments = 1 + int(segment.max())
    # pairs of the same two speakers weigh the same, so a draw's weights are those of the combinations that occur
    combinations, combination = np.unique(first[~same] * speakers + second[~same], return_inverse=True)
    left, right = np.divmod(combinations, speakers)
    ones = np.ones(len(same))  # of each pair at (segment, combination), which csr_matrix adds up
    others = csr_matrix((ones[~same], (segment[~same], combination)), shape=(segments, len(combinations)))
    targets = csr_matrix((ones[same], (segment[same], first[same])), shape=(segments, speakers))
    for counts in draw_counts(speakers, draws, seed, width=max(segments, len(combinations))):
        counts = counts.T.astype(float)
        weights = targets @ counts, others @ (counts[left] * counts[right])
        both = (weights[0].sum(axis=0) > 0) & (weights[1].sum(axis=0) > 0)
        yield accumulate_errors(*(weight[:, both] for weight in weights))
