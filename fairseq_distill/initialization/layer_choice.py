"""Which layers of a checkpoint a student's layers start as."""

from typing import Iterable, List, Sequence

import numpy as np

from ..errors import UserError
from ..run.paths import find_file

LAYER_CHOICES = ("first", "every", "clusters")


def choose_layers(choice: str, given: Sequence[int], clusters: str, depth: int, source_depth: int) -> List[int]:
    """Layers of the checkpoint, numbered from 1, that the student's layers start as, in their order.

    Args:
        choice: "first": the first ones; "every": see `space_layers`; "clusters": see `find_middles`.
        given: `model.init_layers`; takes the place of "first", and is an error with the other two.
        clusters: `model.init_clusters`, the file for "clusters".
        depth: number of the student's layers.
        source_depth: number of the checkpoint's.

    Returns:
        `depth` layers; fewer with "first" if the checkpoint has fewer: the student's others start from scratch.

    Raises:
        UserError: settings that contradict each other, or layers that do not exist.
    """
    given = list(given)
    if given and choice != "first":
        raise UserError(f"model.init_layers={given} and model.init_choice={choice}: leave one of them out")
    if bool(clusters) != (choice == "clusters"):
        raise UserError(
            f"model.init_choice={choice} with model.init_clusters={clusters or 'nothing'}: init_clusters, a file that "
            "fairseq-distill clusters --out writes, and init_choice=clusters belong together"
        )
    if given:
        if len(check_layers(given, source_depth)) != depth:
            raise UserError(f"model.init_layers={given} names {len(given)} layers for a student of {depth}")
        return given
    if choice == "every":
        return space_layers(depth, source_depth)
    if choice == "clusters":
        return find_middles(find_file(clusters, "model.init_clusters"), depth, source_depth)
    return list(range(1, min(depth, source_depth) + 1))


def check_layers(layers: Iterable[int], depth: int) -> List[int]:
    """The layer numbers as a list; UserError if one is not among 1 to `depth`."""
    layers = list(layers)
    wrong = [n for n in layers if not 1 <= n <= depth]
    if wrong:
        raise UserError(f"model.init_layers={layers}: the checkpoint has layers 1 to {depth}, not {wrong}")
    return layers


def space_layers(depth: int, source_depth: int) -> List[int]:
    """Evenly spaced layers: student layer l starts as layer ceil(l * source_depth / depth), the last one as the last.

    12 layers to 3: 4, 8, 12; to 5: 3, 5, 8, 10, 12. A student deeper than the checkpoint has layers more than once: 2
    to 4 gives 1, 1, 2, 2.
    """
    return [-(-layer * source_depth // depth) for layer in range(1, depth + 1)]


def find_middles(path: str, depth: int, source_depth: int) -> List[int]:
    """The middle layer of each cluster of a file that `fairseq-distill clusters --out` wrote, in ascending order.

    The file's tree is cut into as many clusters as the student has layers, however many groups it was cut into for
    distillation. The middle of a cluster is its medoid: the layer with the highest mean similarity to the cluster's
    others, by the file's measure; of equals, the lowest. h[0], where it was clustered too, counts as a neighbour but is
    no layer to start from.

    Raises:
        UserError: no such file, one of an encoder of another depth, or no `depth` clusters with a layer in each.
    """
    # imported where needed: scipy and scikit-learn take a second
    from ..layer_clusters.clustering import cut
    from ..layer_clusters.storage import read_clusters

    found = read_clusters(path)
    states = len(found.similarity.values) - 1
    if states != source_depth:
        raise UserError(
            f"model.init_clusters={path} is of an encoder of {states} layers; model.init has {source_depth}"
        )
    if depth > len(found.layers):
        raise UserError(
            f"model.init_clusters={path}: its {len(found.layers)} layers make no {depth} clusters, as many as the "
            "student has layers: give model.init_choice=every or fewer model.encoder_layers"
        )
    clusters = cut(found, depth)
    if [0] in clusters:
        raise UserError(
            f"model.init_clusters={path}: of its {depth} clusters one is h[0] alone, which is no layer: make the file "
            "without --include-layer0"
        )
    return sorted(_find_middle(cluster, found.similarity.values) for cluster in clusters)


def _find_middle(cluster: List[int], similarity: np.ndarray) -> int:
    def nearness(layer: int) -> float:
        others = [other for other in cluster if other != layer]
        # both orders: equal in the file up to rounding, which must not decide between equals
        return float(np.mean([similarity[layer, o] + similarity[o, layer] for o in others])) if others else 0.0

    return max((layer for layer in cluster if layer > 0), key=lambda layer: (nearness(layer), -layer))
