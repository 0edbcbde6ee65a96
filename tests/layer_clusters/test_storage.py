"""Clusters on disk come back as they were; what is no such file is a sentence."""

import json

import numpy as np
import pytest

from fairseq_distill.errors import UserError
from fairseq_distill.layer_clusters.clustering import cluster_layers
from fairseq_distill.layer_clusters.storage import read_clusters, read_groups, write_clusters

from .similarities import make_blocks


def test_round_trip(tmp_path):
    found = cluster_layers(make_blocks(3, 4), 2, linkage="complete", adjacent=True)
    found.about = {"data": {"seconds": 1.5}}
    write_clusters(tmp_path / "new" / "clusters.json", found)
    back = read_clusters(tmp_path / "new" / "clusters.json")
    for name, value in vars(found).items():
        if name not in ("similarity", "tree"):
            assert getattr(back, name) == value
    np.testing.assert_array_equal(back.tree, found.tree)
    np.testing.assert_array_equal(back.similarity.values, found.similarity.values)
    assert back.similarity.measure == "cka"
    assert read_groups(tmp_path / "new" / "clusters.json") == [[1, 2], [3, 4, 5, 6]]
    assert json.loads((tmp_path / "new" / "clusters.json").read_text())["groups"] == found.groups
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["clusters.json"]


def test_a_tree_that_was_not_cut_holds_no_groups(tmp_path):
    write_clusters(tmp_path / "tree.json", cluster_layers(make_blocks(3, 4)))
    assert read_clusters(tmp_path / "tree.json").groups is None
    with pytest.raises(UserError, match="tree.json holds no groups"):
        read_groups(tmp_path / "tree.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "groups": []}', "{", '"text"'])
def test_other_files_are_a_sentence(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match="other.json is no file of clusters"):
        read_clusters(tmp_path / "other.json")


def test_a_missing_file_and_one_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_clusters(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_clusters(tmp_path / "file" / "clusters.json", cluster_layers(make_blocks(3, 4)))
