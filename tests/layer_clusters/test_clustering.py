"""Groups of layers from similarities made by hand."""

import numpy as np
import pytest

from fairseq_distill.encoder.layer_groups import parse_groups
from fairseq_distill.errors import UserError
from fairseq_distill.layer_clusters.clustering import cluster_layers, cut, score_cuts, suggest_clusters
from fairseq_distill.layer_clusters.linkage import LINKAGES
from fairseq_distill.layer_clusters.similarity import Similarity

from .similarities import make_blocks


@pytest.mark.parametrize("linkage", LINKAGES)
@pytest.mark.parametrize("adjacent", [False, True])
def test_blocks_are_found(linkage, adjacent):
    found = cluster_layers(make_blocks(4, 6, 3), 3, linkage=linkage, adjacent=adjacent, include_layer0=True)
    assert found.groups == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9], [10, 11, 12]]
    assert suggest_clusters(score_cuts(found)) == 3
    assert parse_groups(found.groups, 12) == found.groups  # as criterion.groups takes them


def test_layer_0_is_in_or_out():
    blocks = make_blocks(1, 6, 6)
    assert cluster_layers(blocks, 2).groups == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]
    assert cluster_layers(blocks, 3, include_layer0=True).groups[0] == [0]
    assert cluster_layers(blocks).layers == list(range(1, 13))


def test_every_number_of_clusters_can_be_had_also_among_ties():
    same = Similarity(np.ones((5, 5)))
    for clusters in range(1, 6):
        for adjacent in (False, True):
            groups = cluster_layers(same, clusters, adjacent=adjacent, include_layer0=True).groups
            assert len(groups) == clusters and sorted(sum(groups, [])) == [0, 1, 2, 3, 4]


def test_a_height_merges_what_is_no_further_apart():
    blocks = make_blocks(2, 2, 2, inside=0.9, outside=0.2)
    heights = cluster_layers(blocks, include_layer0=True).tree[:, 2]
    np.testing.assert_allclose(heights[:3], 0.11)  # 1 - 0.9 and the fall from one layer to the next
    for height, count in ((0.0, 6), (0.1, 6), (0.12, 3), (heights[3] - 1e-6, 3), (heights[3], 2), (2.0, 1)):
        found = cluster_layers(blocks, height=height, include_layer0=True)
        assert len(found.groups) == count and found.height == height and found.clusters is None


def test_groups_with_gaps_are_warned_about_and_adjacent_ones_have_none(caplog):
    values = make_blocks(3, 3).values
    order = [0, 1, 5, 3, 4, 2]  # layers 2 and 5 have changed places
    swapped = Similarity(values[np.ix_(order, order)])
    free = cluster_layers(swapped, 2, include_layer0=True)
    assert free.groups == [[0, 1, 5], [2, 3, 4]]
    assert "[[0,1,5]] is not a run" in caplog.text and "[[2,3,4]]" not in caplog.text
    caplog.clear()
    runs = cluster_layers(swapped, 3, adjacent=True, include_layer0=True).groups
    assert all(group == list(range(group[0], group[-1] + 1)) for group in runs)
    assert not caplog.text


def test_nothing_is_cut_unasked():
    found = cluster_layers(make_blocks(3, 3))
    assert found.groups is None and found.tree.shape == (4, 4)
    assert cut(found, 2) == [[1, 2], [3, 4, 5]]


def test_silhouettes_by_hand():
    """Layers 0, 1 together and 2 alone: distances 0.2, 0.8, 0.6 give (0.8 - 0.2) / 0.8, (0.6 - 0.2) / 0.6 and 0."""
    values = 1 - np.array([[0, 0.2, 0.8], [0.2, 0, 0.6], [0.8, 0.6, 0]])
    scores = score_cuts(cluster_layers(Similarity(values), include_layer0=True))
    assert scores == {2: pytest.approx((0.75 + 2 / 3 + 0) / 3)}
    assert suggest_clusters(score_cuts(cluster_layers(Similarity(values)))) is None


@pytest.mark.parametrize("layers", [1, 2])
def test_very_few_layers(layers):
    found = cluster_layers(make_blocks(layers + 1), layers)
    assert found.groups == [[layer] for layer in range(1, layers + 1)]


@pytest.mark.parametrize(
    "settings, word",
    [
        (dict(clusters=0), "from 1 to the 5 layers"),
        (dict(clusters=6), "from 1 to the 5 layers"),
        (dict(height=-0.1), "must not be below 0"),
        (dict(clusters=2, height=0.1), "one of them only"),
        (dict(linkage="single"), "linkage=single"),
    ],
)
def test_impossible_settings_are_named(settings, word):
    with pytest.raises(UserError, match=word):
        cluster_layers(make_blocks(3, 3), **settings)


def test_a_map_between_two_encoders_is_refused():
    with pytest.raises(UserError, match="with itself"):
        cluster_layers(Similarity(np.ones((3, 4))), 2)
