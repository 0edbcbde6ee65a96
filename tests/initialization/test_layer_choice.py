"""Which layers of a checkpoint a shallower student starts as."""

import numpy as np
import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.errors import UserError
from fairseq_distill.initialization.layer_choice import choose_layers, find_middles, space_layers
from fairseq_distill.initialization.start import shape_like
from fairseq_distill.layer_clusters.clustering import cluster_layers
from fairseq_distill.layer_clusters.similarity import Similarity
from fairseq_distill.layer_clusters.storage import write_clusters

from ..builders import build_student, save_teacher
from ..layer_clusters.similarities import make_blocks


def write_file(path, similarity, clusters=None, **options):
    write_clusters(path, cluster_layers(similarity, clusters, **options))
    return str(path)


def make_star():
    """Similarities of h[0] to h[6]: in layers 1 to 4, layer 3 is nearest to the others; 5 and 6 are a pair."""
    values = np.full((7, 7), 0.1)
    values[1:5, 1:5] = 0.7
    values[3, 1:5] = values[1:5, 3] = 0.9
    values[5, 6] = values[6, 5] = 0.95
    np.fill_diagonal(values, 1)
    return Similarity(values)


@pytest.mark.parametrize(
    "depth, source, layers",
    [
        (3, 12, [4, 8, 12]),
        (5, 12, [3, 5, 8, 10, 12]),
        (1, 12, [12]),
        (12, 12, list(range(1, 13))),
        (2, 3, [2, 3]),
        (4, 2, [1, 1, 2, 2]),
    ],
)
def test_every_is_evenly_spaced_and_ends_with_the_last(depth, source, layers):
    assert space_layers(depth, source) == layers
    assert choose_layers("every", [], "", depth, source) == layers


def test_first_and_given_layers():
    assert choose_layers("first", [], "", 2, 12) == [1, 2]
    assert choose_layers("first", [], "", 3, 2) == [1, 2], "the third starts from scratch"
    assert choose_layers("first", [12, 1], "", 2, 12) == [12, 1]


def test_the_middle_of_a_cluster_is_the_layer_nearest_to_its_others(tmp_path):
    path = write_file(tmp_path / "clusters.json", make_star(), 2)
    assert find_middles(path, 2, 6) == [3, 5], "3 is nearest to 1, 2 and 4; of a pair, the lower"
    assert choose_layers("clusters", [], path, 2, 6) == [3, 5]
    assert find_middles(path, 6, 6) == [1, 2, 3, 4, 5, 6], (
        "the tree is cut anew, into as many as the student has layers"
    )
    all_in_one = make_star().values[1:, 1:].sum(1)
    assert find_middles(path, 1, 6) == [1 + int(all_in_one.argmax())]


def test_layer_0_counts_as_a_neighbour_but_is_not_taken(tmp_path):
    similarity = make_blocks(3, 4)  # similarity falls with the distance: the middle of h[0], 1, 2 is 1
    path = write_file(tmp_path / "with0.json", similarity, 2, include_layer0=True)
    assert find_middles(path, 2, 6) == [1, 4]
    path = write_file(tmp_path / "alone.json", make_blocks(1, 6), 2, include_layer0=True)
    with pytest.raises(UserError, match=r"one is h\[0\] alone"):
        find_middles(path, 2, 6)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("every", [1, 2], "", 2, 12), "model.init_layers=.* and model.init_choice=every"),
        (("first", [], "some.json", 2, 12), "belong together"),
        (("clusters", [], "", 2, 12), "belong together"),
        (("clusters", [], "/nowhere.json", 2, 12), "model.init_clusters=/nowhere.json: no such file"),
        (("first", [13], "", 1, 12), "has layers 1 to 12"),
        (("first", [1], "", 2, 12), "names 1 layers for a student of 2"),
    ],
)
def test_contradictions_are_sentences(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        choose_layers(*arguments)


def test_clusters_of_another_encoder_or_too_few(tmp_path):
    path = write_file(tmp_path / "clusters.json", make_star(), 2)
    with pytest.raises(UserError, match="of an encoder of 6 layers; model.init has 12"):
        find_middles(path, 2, 12)
    with pytest.raises(UserError, match="make no 7 clusters"):
        find_middles(path, 7, 6)


def test_students_start_as_the_layers_chosen_and_their_settings_stand_alone(tmp_path):
    teacher = save_teacher(tmp_path / "teacher.pt")
    theirs = load_encoder(teacher).state_dict()
    values = np.array([[1, 0.2, 0.2, 0.2], [0.2, 1, 0.9, 0.3], [0.2, 0.9, 1, 0.5], [0.2, 0.3, 0.5, 1]])
    clusters = write_file(tmp_path / "clusters.json", Similarity(values))
    choices = ({"init_choice": "every"}, [2, 3]), ({"init_choice": "clusters", "init_clusters": clusters}, [1, 3])
    for options, layers in choices:
        student = build_student(teacher, **options)
        for place, number in enumerate(layers):
            name = "self_attn.k_proj.weight"
            assert torch.equal(
                student.state_dict()[f"encoder.layers.{place}.{name}"], theirs[f"encoder.layers.{number - 1}.{name}"]
            )
    with pytest.raises(UserError, match=r"layers \[2, 3\] of model.init: the student's layer 1 does not fit"):
        build_student(teacher, init_choice="every", encoder_ffn_embed_dim=40)


def test_reduced_time_and_reused_maps_are_taken_over_where_there_are_some():
    plain = EncoderConfig.from_settings({"encoder_layers": 6})
    assert not {"time_reduction", "reuse_attention"} & set(shape_like(plain, "layers", 6, [])), "the user's are kept"
    config = EncoderConfig.from_settings({"encoder_layers": 6, "time_reduction": 2, "reuse_attention": [2, 4, 6]})
    assert "time_reduction" not in shape_like(config, "front", 6, [])
    everything = shape_like(config, "all", 9, [])
    assert everything["time_reduction"] == 2 and everything["reuse_attention"] == [2, 4, 6]
    assert shape_like(config, "layers", 4, [])["reuse_attention"] == [2, 4]
    assert shape_like(config, "layers", 3, [2, 3, 4])["reuse_attention"] == [3], "the first has nothing to reuse"
