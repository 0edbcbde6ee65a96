"""Agglomerative clustering of a few items, free or of neighbours only, as scipy's linkage matrix.

Average and complete linkage work on 1 - similarity. Ward's needs Euclidean distances, which 1 - similarity is not, but
sqrt(2 (1 - similarity)) is, for every measure here: linear CKA is the cosine of two matrices (the centred XX' and YY';
in the debiased form U-centred ones, Székely and Rizzo, arXiv 1310.2926), the mean cosine that of all frames of unit
length in one vector, and unit vectors of cosine s lie sqrt(2 (1 - s)) apart. So Ward's linkage works on these, its
heights are such distances, and a matrix that holds no cosines is refused.
"""

from typing import List

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from ..errors import UserError
from . import LINKAGES

TOLERANCE = 1e-4  # of eigenvalues below 0: float32's rounding in the similarities, and far below what spoils a distance


def similarity_to_distance(similarity: np.ndarray, linkage: str) -> np.ndarray:
    """Distances (n, n), symmetric, 0 on the diagonal, that the linkage works on.

    Raises:
        UserError: an unknown linkage, or Ward's for a matrix that is none of cosines.
    """
    if linkage not in LINKAGES:
        raise UserError(f"linkage={linkage}: must be one of {', '.join(LINKAGES)}")
    distances = np.maximum(1 - (similarity + similarity.T) / 2, 0)
    np.fill_diagonal(distances, 0)
    if linkage != "ward":
        return distances
    lowest = np.linalg.eigvalsh(1 - distances).min()
    if lowest < -TOLERANCE * len(distances):
        raise UserError(
            "linkage=ward needs Euclidean distances, and these similarities are no cosines (an eigenvalue is "
            f"{lowest:.2g}): use average or complete"
        )
    return np.sqrt(2 * distances)


def link(distances: np.ndarray, linkage: str, adjacent: bool) -> np.ndarray:
    """Scipy's linkage matrix (n - 1, 4) for n items; with `adjacent`, only neighbouring clusters merge."""
    if len(distances) < 2:
        return np.empty((0, 4))
    if adjacent:
        return link_neighbours(distances, linkage)
    return hierarchy.linkage(squareform(distances, checks=False), linkage)


def link_neighbours(distances: np.ndarray, linkage: str) -> np.ndarray:
    """Merge the nearest two neighbouring clusters (the first of equals) until one is left.

    The distance of two clusters takes in all their items. scikit-learn's agglomeration under a connectivity knows the
    distances along its edges only, so in a chain its average and complete linkage see one pair of items.

    Under this constraint a merge can be nearer than the one before it, and no tree can be cut or drawn then, so a
    merge's height is that of the highest until then.

    Returns:
        linkage matrix (n - 1, 4): the two clusters' numbers, the height, the number of items.
    """
    runs = [[item] for item in range(len(distances))]
    numbers = list(range(len(distances)))
    merges: List[List[float]] = []
    height = 0.0
    while len(runs) > 1:
        gaps = [compute_cluster_distance(distances, one, other, linkage) for one, other in zip(runs, runs[1:])]
        first = int(np.argmin(gaps))
        height = max(height, gaps[first])
        runs[first : first + 2] = [runs[first] + runs[first + 1]]
        merges.append([numbers[first], numbers[first + 1], height, len(runs[first])])
        numbers[first : first + 2] = [len(distances) + len(merges) - 1]
    return np.array(merges, dtype=np.float64).reshape(-1, 4)


def compute_cluster_distance(distances: np.ndarray, one: List[int], other: List[int], linkage: str) -> float:
    """Distance between two clusters: the mean, the largest, or Ward's, of the distances between their items.

    Ward's is sqrt(2 ab / (a + b)) times the distance of the centres of a and b items, as in scipy.
    """
    between = distances[np.ix_(one, other)]
    if linkage == "average":
        return float(between.mean())
    if linkage == "complete":
        return float(between.max())
    within = [np.square(distances[np.ix_(items, items)]).mean() for items in (one, other)]
    centres = np.square(between).mean() - sum(within) / 2
    return float(np.sqrt(max(2 * len(one) * len(other) / (len(one) + len(other)) * centres, 0)))
