"""`fairseq-distill clusters` and `similarity`, on small encoders and on a real teacher."""

import argparse
import json

import numpy as np
import pytest

from fairseq_distill import load_encoder
from fairseq_distill.cli import clusters, similarity
from fairseq_distill.data.speech_sample import SpeechSample
from fairseq_distill.encoder.conv_spec import count_frames
from fairseq_distill.errors import UserError
from fairseq_distill.layer_clusters.similarity import compare_encoders, compute_similarity
from fairseq_distill.layer_clusters.storage import read_clusters, read_groups

from ..builders import save_teacher, write_data
from ..checkpoints import layouts


def run(module, *words):
    """The command as main runs it."""
    parser = argparse.ArgumentParser(epilog=module.EPILOG)
    module.add_arguments(parser)
    module.run(parser.parse_args([str(word) for word in words]))
    return 0  # where nothing is raised


def save_wavlm(path):
    """A small WavLM Large as Microsoft ships it: settings flat, the position bias in layer 0, waves normalised."""
    return layouts.write_wavlm(path, layouts.make_wavlm_state(large=True), **layouts.LARGE, normalize=True)


@pytest.fixture()
def manifest(tmp_path):
    return write_data(tmp_path / "data", lengths=(9000, 16_000), copies=3, splits=("train",)) / "train.tsv"


def test_clusters_writes_what_led_to_the_groups(tmp_path, manifest, capsys):
    teacher = save_teacher(tmp_path / "teacher.pt", encoder_layers=5)
    out = tmp_path / "clusters.json"
    assert run(clusters, teacher, manifest, "--clusters", 2, "--seconds", 3, "--seed", 4, "--out", out) == 0
    found = read_clusters(out)
    encoder = load_encoder(teacher)
    sample = SpeechSample(manifest, 3.0, 4, encoder.cfg)
    expected = compute_similarity(encoder, sample, seed=4)
    np.testing.assert_array_equal(found.similarity.values, expected.values)
    assert (found.similarity.frames, found.similarity.share, found.similarity.seed) == (expected.frames, 0.25, 4)
    assert found.about["data"] == sample.describe()
    assert found.about["teacher"]["path"] == teacher and len(found.about["teacher"]["weights_sha256"]) == 64
    assert (found.linkage, found.adjacent, found.clusters, found.layers) == ("average", False, 2, [1, 2, 3, 4, 5])
    assert sorted(sum(read_groups(out), [])) == found.layers and len(found.groups) == 2
    shown = capsys.readouterr().out
    groups = json.dumps(found.groups).replace(" ", "")
    assert f"groups      {groups}" in shown and shown.count(groups) == 2  # in the row of 2 clusters, and as the answer
    assert f"suggested   {found.about['suggestion']['clusters']} clusters, for the highest mean silhouette" in shown


def test_clusters_chooses_nothing_unasked(tmp_path, manifest, capsys):
    out = tmp_path / "clusters.json"
    assert run(clusters, save_teacher(tmp_path / "teacher.pt"), manifest, "--out", out, "--include-layer0") == 0
    found = read_clusters(out)
    assert found.groups is None and found.layers == [0, 1, 2, 3]
    assert found.about["suggestion"]["clusters"] in (2, 3)
    assert "groups      none: the tree was not cut, choose by --clusters or --height" in capsys.readouterr().out


def test_clusters_of_a_wavlm_as_it_is_shipped(tmp_path, manifest):
    out, plot = tmp_path / "clusters.json", tmp_path / "clusters.png"
    words = ["--height", 0.5, "--linkage", "complete", "--adjacent", "--measure", "debiased_cka", "--share", 1]
    assert run(clusters, save_wavlm(tmp_path / "wavlm.pt"), manifest, *words, "--out", out, "--plot", plot) == 0
    found = read_clusters(out)
    assert (found.height, found.linkage, found.adjacent) == (0.5, "complete", True)
    assert found.similarity.measure == "debiased_cka"
    assert found.similarity.frames == found.similarity.seen > 1000
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_weights_fingerprint_is_of_the_weights(tmp_path, manifest):
    marks = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / f"{name}.json"
        run(clusters, save_teacher(tmp_path / f"{name}.pt", seed), manifest, "--seconds", 1, "--out", out)
        marks.append(read_clusters(out).about["teacher"]["weights_sha256"])
    assert marks[0] == marks[1] != marks[2]


def test_impossible_numbers_are_refused_before_the_work(tmp_path, manifest, monkeypatch):
    monkeypatch.setattr(clusters, "compute_similarity", None)  # would fail if it ran
    teacher = save_teacher(tmp_path / "teacher.pt")
    with pytest.raises(UserError, match="clusters=4: must be from 1 to the 3 layers"):
        run(clusters, teacher, manifest, "--clusters", 4)
    with pytest.raises(SystemExit):
        run(clusters, teacher, manifest, "--clusters", 2, "--height", 0.1)


def test_similarity_of_two_encoders(tmp_path, manifest, capsys):
    student = save_teacher(tmp_path / "student.pt", 1, encoder_layers=2, encoder_embed_dim=32, encoder_ffn_embed_dim=40)
    teacher, plot = save_wavlm(tmp_path / "teacher.pt"), tmp_path / "map.png"
    assert run(similarity, student, teacher, manifest, "--json", "--plot", plot, "--seconds", 2) == 0
    found = json.loads(capsys.readouterr().out)
    one, other = load_encoder(student), load_encoder(teacher)
    expected = compare_encoders(one, other, SpeechSample(manifest, 2.0, 0, one.cfg, other.cfg))
    np.testing.assert_array_equal(found["values"], expected.values)
    assert found["frames"] == expected.frames
    assert (found["student"]["path"], found["teacher"]["path"]) == (student, str(teacher))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert run(similarity, student, teacher, manifest, "--seconds", 2) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("     1 "))
    assert row.split() == ["1", *(f"{value:.2f}" for value in expected.values[1]), str(expected.values[1].argmax())]


def test_similarity_refuses_other_frame_rates(tmp_path, manifest):
    slow = save_teacher(tmp_path / "slow.pt", conv_feature_layers="[(24,10,5)] + [(24,3,2)] * 2 + [(32,2,4)]")
    with pytest.raises(UserError, match="every 40 samples, the second every 80"):
        run(similarity, save_teacher(tmp_path / "teacher.pt"), slow, manifest)


def test_a_real_teachers_neighbours_are_most_alike(shared_data, tmp_path, capsys):
    rows = (shared_data / "speech" / "manifest" / "librispeech" / "valid.tsv").read_text().splitlines()
    manifest = tmp_path / "valid.tsv"
    manifest.write_text("\n".join([str(shared_data / "speech"), *rows[1:]]) + "\n")
    teacher, out = shared_data / "teacher" / "hubert_small.pt", tmp_path / "clusters.json"
    words = ["--seconds", 8, "--share", 1, "--clusters", 3, "--adjacent", "--out", out]
    assert run(clusters, teacher, manifest, *words) == 0
    found = read_clusters(out)
    values = found.similarity.values
    frames = count_frames(8 * 16_000, load_encoder(teacher).cfg.conv_layers)
    assert values.shape == (13, 13) and found.similarity.frames == frames
    assert all(values[layer, layer + 1] > values[layer, layer + 4] + 0.02 for layer in range(9))
    assert sum(found.groups, []) == list(range(1, 13))
