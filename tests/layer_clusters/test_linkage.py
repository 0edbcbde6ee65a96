"""Trees over a few items: against scipy on points, scikit-learn under a constraint, and brute force."""

import itertools

import numpy as np
import pytest
from scipy.cluster import hierarchy
from sklearn.cluster import AgglomerativeClustering

from fairseq_distill.errors import UserError
from fairseq_distill.layer_clusters.linkage import LINKAGES, compute_cluster_distance, link, similarity_to_distance


def make_cosines(items=9, axes=6, seed=0, drift=0.0):
    """(unit vectors, their cosines); with `drift`, each vector is near the one before it, as layers are."""
    vectors = np.random.default_rng(seed).standard_normal((items, axes))
    vectors = np.cumsum(vectors, 0) * drift + vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, vectors @ vectors.T


def list_groups(tree, items, count):
    """Groups after all but the last `count` - 1 merges, by playing the tree back."""
    nodes = {item: [item] for item in range(items)}
    for number, (one, other, *_) in enumerate(tree[: items - count]):
        nodes[items + number] = nodes.pop(int(one)) + nodes.pop(int(other))
    return sorted(sorted(group) for group in nodes.values())


def test_free_linkage_is_scipys():
    _, cosines = make_cosines()
    upper = (1 - cosines)[np.triu_indices(9, 1)]
    for linkage in ("average", "complete"):
        tree = link(similarity_to_distance(cosines, linkage), linkage, adjacent=False)
        np.testing.assert_allclose(tree, hierarchy.linkage(upper, linkage))


def test_wards_heights_are_those_of_the_vectors_themselves():
    vectors, cosines = make_cosines()
    tree = link(similarity_to_distance(cosines, "ward"), "ward", adjacent=False)
    np.testing.assert_allclose(tree, hierarchy.linkage(vectors, "ward"), atol=1e-7)


def test_ward_is_refused_for_what_are_no_cosines():
    _, cosines = make_cosines(items=3)
    impossible = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    similarity_to_distance(cosines, "ward"), similarity_to_distance(impossible, "average")
    with pytest.raises(UserError, match="needs Euclidean distances"):
        similarity_to_distance(impossible, "ward")
    with pytest.raises(UserError, match="one of average, complete, ward"):
        similarity_to_distance(cosines, "single")


@pytest.mark.parametrize("linkage", LINKAGES)
@pytest.mark.parametrize("seed", range(8))
def test_neighbours_merge_as_in_brute_force(linkage, seed):
    """All splits into runs that merge two neighbours of the last split; the nearest two by a definition on vectors."""
    vectors, cosines = make_cosines(seed=seed, drift=1.0)

    def gap(one, other):
        if linkage == "ward":
            a, b = len(one), len(other)
            return np.sqrt(2 * a * b / (a + b)) * np.linalg.norm(vectors[one].mean(0) - vectors[other].mean(0))
        pairs = [1 - cosines[i, j] for i, j in itertools.product(one, other)]
        return max(pairs) if linkage == "complete" else sum(pairs) / len(pairs)

    tree = link(similarity_to_distance(cosines, linkage), linkage, adjacent=True)
    runs, highest = [[item] for item in range(9)], 0.0
    for count in range(8, 0, -1):
        best = min(range(count), key=lambda place: gap(runs[place], runs[place + 1]))
        highest = max(highest, gap(runs[best], runs[best + 1]))
        runs = runs[:best] + [runs[best] + runs[best + 1]] + runs[best + 2 :]
        assert list_groups(tree, 9, count) == runs
        assert tree[8 - count, 2] == pytest.approx(highest, abs=1e-6)
    assert hierarchy.is_valid_linkage(tree) and hierarchy.is_monotonic(tree)


@pytest.mark.parametrize("seed", range(8))
def test_neighbours_merge_by_ward_as_in_scikit_learn(seed):
    """Of scikit-learn's linkages only Ward's sees all items of two clusters under a connectivity."""
    vectors, cosines = make_cosines(seed=seed, drift=1.0)
    chain = np.eye(9, k=1) + np.eye(9, k=-1)
    tree = link(similarity_to_distance(cosines, "ward"), "ward", adjacent=True)
    for count in (2, 4, 6):
        labels = AgglomerativeClustering(n_clusters=count, connectivity=chain).fit(vectors).labels_
        assert list_groups(tree, 9, count) == sorted(np.flatnonzero(labels == label).tolist() for label in set(labels))


def test_a_merge_nearer_than_the_one_before_is_drawn_at_its_height():
    distances = np.array([[0, 1, 0.1], [1, 0, 1.1], [0.1, 1.1, 0]])
    assert compute_cluster_distance(distances, [0, 1], [2], "average") == pytest.approx(0.6)
    np.testing.assert_allclose(link(distances, "average", adjacent=True), [[0, 1, 1, 2], [3, 2, 1, 3]])
