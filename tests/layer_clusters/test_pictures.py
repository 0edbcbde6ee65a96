"""Pictures: what is drawn where, and endings that are no picture's."""

import sys

import numpy as np
import pytest

from fairseq_distill.errors import UserError
from fairseq_distill.layer_clusters import pictures
from fairseq_distill.layer_clusters.clustering import cluster_layers
from fairseq_distill.layer_clusters.pictures import draw_clusters, draw_similarity
from fairseq_distill.layer_clusters.similarity import Similarity

from .similarities import make_blocks


@pytest.fixture()
def figures(monkeypatch):
    """Figures that were saved."""
    saved, save = [], pictures.save_figure
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved


@pytest.mark.parametrize("include_layer0", [False, True])
def test_matrix_and_tree_show_the_same_groups_in_the_same_rows(tmp_path, figures, include_layer0):
    found = cluster_layers(make_blocks(3, 4, 3), 3, include_layer0=include_layer0)
    draw_clusters(found, tmp_path / "clusters.png")
    matrix, tree = figures[0].axes[:2]
    np.testing.assert_array_equal(matrix.images[0].get_array(), found.similarity.values)
    names = [label.get_text() for label in tree.get_yticklabels()]
    assert names == [str(layer) for layer in found.layers]
    bottom, top = tree.get_ylim()  # ten units a layer, from the row above h[0] to that below h[9]
    assert (bottom, top) == (10 * len(found.layers), 0 if include_layer0 else -10)
    frames = [(patch.get_xy(), patch.get_width()) for patch in matrix.patches[1::2]]
    assert frames == [((group[0] - 0.5, group[0] - 0.5), len(group)) for group in found.groups]
    (line,) = [line for line in tree.lines if line.get_linestyle() == "--"]
    heights = found.tree[:, 2]
    assert heights[-3] < line.get_xdata()[0] < heights[-2]
    assert (tmp_path / "clusters.png").read_bytes().startswith(b"\x89PNG")


def test_cells_are_numbered_where_there_is_room(tmp_path, figures):
    draw_clusters(cluster_layers(make_blocks(3, 4, 3)), tmp_path / "few.svg")
    draw_clusters(cluster_layers(make_blocks(12, 13), 2), tmp_path / "many.pdf")
    few, many = (figure.axes[0].texts for figure in figures)
    assert [text.get_text() for text in few[:4]] == ["1", ".89", ".88", ".17"]
    assert not many


def test_a_tree_of_one_layer_is_a_picture_too(tmp_path):
    draw_clusters(cluster_layers(make_blocks(2), 1), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 0


def test_a_map_rings_the_highest_of_each_row(tmp_path, figures):
    values = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.8]])
    draw_similarity(Similarity(values, "cosine"), tmp_path / "map.png", "student's layer", "teacher's layer")
    axes = figures[0].axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [[0, 0], [2, 1]])
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("student's layer", "teacher's layer")


def test_an_ending_that_is_no_pictures_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="clusters.doc cannot be written"):
        draw_clusters(cluster_layers(make_blocks(3, 3)), tmp_path / "clusters.doc")
    assert not list(tmp_path.iterdir())


def test_matplotlib_missing_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="pip install"):
        draw_clusters(cluster_layers(make_blocks(3, 3)), tmp_path / "clusters.png")
