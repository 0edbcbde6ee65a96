"""Similar layers as groups to distil from: a tree over an encoder's hidden states, and where to cut it."""

import logging
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import numpy as np
from scipy.cluster import hierarchy
from sklearn.metrics import silhouette_score

from ..encoder.layer_groups import format_groups
from ..errors import UserError
from .linkage import link, similarity_to_distance
from .similarity import Similarity

logger = logging.getLogger(__name__)


@dataclass
class LayerClusters:
    """A tree over layers, and the groups it was cut into.

    SKILL (arXiv 2402.16830) clusters a teacher's layers bottom-up by CKA; the number of clusters is its one setting.
    Its linkage, its data and its clusters are not known (docs/papers/skill.md): those found here are the data's.

    Attributes:
        similarity: of all hidden states of the encoder, h[0] to h[L].
        layers: numbers of those that were clustered.
        tree: scipy's linkage matrix (len(layers) - 1, 4); item i is layers[i].
        linkage, adjacent: how it was made, see `linkage.py`.
        clusters, height: where it was cut: into so many groups, or below a height; None = not so.
        groups: lists of layer numbers, each ascending, the lists by their first; None if the tree was not cut.
        about: anything to be kept with them: which teacher, which data.
    """

    similarity: Similarity
    layers: List[int]
    tree: np.ndarray
    linkage: str = "average"
    adjacent: bool = False
    clusters: Optional[int] = None
    height: Optional[float] = None
    groups: Optional[List[List[int]]] = None
    about: Dict[str, Any] = field(default_factory=dict)


def cluster_layers(
    similarity: Similarity,
    clusters: Optional[int] = None,
    height: Optional[float] = None,
    linkage: str = "average",
    adjacent: bool = False,
    include_layer0: bool = False,
) -> LayerClusters:
    """Cluster an encoder's layers, and cut the tree if `clusters` or `height` says where.

    Args:
        similarity: of an encoder with itself, from `compute_similarity`.
        clusters: number of groups, from 1 to the number of layers.
        height: merge what is no further apart than this: 1 - similarity; for Ward's linkage see `linkage.py`.
        linkage: "average", "complete" or "ward".
        adjacent: merge neighbouring layers only, so that every group is a run of layers.
        include_layer0: cluster h[0], what enters the first layer, with the outputs of the layers.

    Raises:
        UserError: an impossible setting.
    """
    if len(set(similarity.values.shape)) > 1:
        raise UserError("layers can only be clustered by the similarities of an encoder with itself")
    layers = list_clustered_layers(len(similarity.values) - 1, clusters, height, include_layer0)
    tree = link(_distances(similarity, layers, linkage), linkage, adjacent)
    found = LayerClusters(similarity, layers, tree, linkage, adjacent, clusters, height)
    if clusters is not None or height is not None:
        found.groups = cut(found, clusters or 1 + int((tree[:, 2] > height).sum()))
    for group in found.groups or []:
        if len(group) != group[-1] - group[0] + 1:
            logger.warning(
                f"the group {format_groups([group])} is not a run of neighbouring layers: see in the picture whether "
                "another number of clusters, another linkage or more audio mend that, or ask for adjacent layers"
            )
    return found


def list_clustered_layers(
    depth: int, clusters: Optional[int], height: Optional[float], include_layer0: bool
) -> List[int]:
    """The layers to cluster of an encoder with `depth` of them, if they can be; arguments and errors as above."""
    layers = list(range(0 if include_layer0 else 1, depth + 1))
    if clusters is not None and height is not None:
        raise UserError(f"clusters={clusters} and height={height}: the tree can be cut by one of them only")
    if clusters is not None and not 1 <= clusters <= len(layers):
        raise UserError(f"clusters={clusters}: must be from 1 to the {len(layers)} layers that are clustered")
    if height is not None and not height >= 0:
        raise UserError(f"height={height}: must not be below 0")
    return layers


def cut(found: LayerClusters, clusters: int) -> List[List[int]]:
    """Groups of layers with all but the last `clusters` - 1 merges made."""
    if len(found.layers) == 1:
        return [list(found.layers)]
    labels = hierarchy.cut_tree(found.tree, n_clusters=clusters).ravel()
    groups: Dict[int, List[int]] = {}
    for layer, label in zip(found.layers, labels.tolist()):
        groups.setdefault(label, []).append(layer)
    return list(groups.values())  # in the order of their first layers, as layers ascend


def score_cuts(found: LayerClusters) -> Dict[int, float]:
    """Mean silhouette of the layers for every number of clusters from 2 to one below the number of layers.

    A layer's silhouette is (b - a) / max(a, b), a being its mean distance to the others of its cluster, b that to the
    nearest other cluster; 0 for a layer alone (Rousseeuw 1987). Distances are those that the linkage works on.
    """
    distances = _distances(found.similarity, found.layers, found.linkage)
    scores = {}
    for clusters in range(2, len(found.layers)):
        labels = hierarchy.cut_tree(found.tree, n_clusters=clusters).ravel()
        scores[clusters] = float(silhouette_score(distances, labels, metric="precomputed"))
    return scores


def suggest_clusters(scores: Dict[int, float]) -> Optional[int]:
    """The number of clusters with the highest score of `score_cuts`, the lowest of equals; None if there is no score.

    A suggestion only: nothing here uses it.
    """
    return max(scores, key=lambda clusters: (scores[clusters], -clusters)) if scores else None


def _distances(similarity: Similarity, layers: List[int], linkage: str) -> np.ndarray:
    return similarity_to_distance(similarity.values[np.ix_(layers, layers)], linkage)
