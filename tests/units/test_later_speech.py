"""`fairseq-distill units --kmeans`: labels made later, in shards or elsewhere are those that one run makes."""

import argparse
import json
import shutil
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from fairseq_distill.cli import main, units
from fairseq_distill.data.manifest import read_manifest
from fairseq_distill.errors import UserError
from fairseq_distill.units import fitting, folder
from fairseq_distill.units.labelling import Labeller
from fairseq_distill.units.storage import read_kmeans

from ..builders import build_stock_hubert, save_teacher, write_data
from .test_units import read_waves

LENGTHS = (9000, 8003, 7000, 4100)


def run(teacher, manifests, out, *words):
    """The command as main runs it."""
    parser = argparse.ArgumentParser()
    units.add_arguments(parser)
    units.run(parser.parse_args([str(word) for word in [teacher, *manifests, *words, "--out", out]]))


@pytest.fixture(scope="module", autouse=True)
def quick_k_means():
    """20 starts and 100 rounds, as HuBERT's units have them, are for larger data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "_SETTINGS", {**fitting._SETTINGS, "n_init": 2, "max_iter": 5})
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(teacher, data, folder of train's and valid's units)"""
    folder = tmp_path_factory.mktemp("later")
    teacher, data = save_teacher(folder / "teacher.pt"), write_data(folder / "data", LENGTHS, copies=2)
    fit = ["--layer", 2, "--clusters", 12, "--seconds", 2]
    run(teacher, [data / "train.tsv", data / "valid.tsv"], folder / "units", *fit)
    run(teacher, [data / "train.tsv"], folder / "train", *fit)
    return teacher, data, folder / "units", folder / "train"


def read_folder(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_labels_made_later_are_those_made_at_once(made, tmp_path, capsys):
    teacher, data, at_once, train = made
    assert (train / "kmeans.npz").read_bytes() == (at_once / "kmeans.npz").read_bytes()
    run(teacher, [data / "valid.tsv"], tmp_path / "apart", "--kmeans", train / "kmeans.npz")
    expected = read_folder(at_once)
    apart = read_folder(tmp_path / "apart")
    assert apart.keys() == expected.keys() - {"train.km"}
    assert apart["valid.km"] == expected["valid.km"] and apart["kmeans.npz"] == expected["kmeans.npz"]
    facts = json.loads(apart["units.json"])
    assert facts == {**json.loads(expected["units.json"]), "manifests": facts["manifests"]}
    assert [row["labels"] for row in facts["manifests"]] == ["valid.km"]
    assert f"k-means     {train / 'kmeans.npz'}\n" in capsys.readouterr().out
    shutil.copytree(train, tmp_path / "beside")
    run(teacher, [data / "valid.tsv"], tmp_path / "beside", "--kmeans", tmp_path / "beside" / "kmeans.npz")
    assert read_folder(tmp_path / "beside") == expected, "beside train's it is the folder of one run"


def test_shards_make_the_whole_in_their_order(made, tmp_path):
    teacher, data, at_once, _ = made
    root, *rows = (data / "valid.tsv").read_text().splitlines()
    shards = [rows[:1], rows[1:6], rows[6:]]
    for number, shard in enumerate(shards):
        (tmp_path / f"valid_{number}.tsv").write_text("\n".join([root, *shard]) + "\n")
        out = tmp_path / "units" if number else tmp_path / "machine"
        run(teacher, [tmp_path / f"valid_{number}.tsv"], out, "--kmeans", at_once / "kmeans.npz")
    files = [tmp_path / "machine" / "valid_0.km", *(tmp_path / "units" / f"valid_{n}.km" for n in (1, 2))]
    assert b"".join(file.read_bytes() for file in files) == (at_once / "valid.km").read_bytes()
    counted = [line.split() for line in (tmp_path / "units" / "dict.km.txt").read_text().splitlines()]
    labels = " ".join(file.read_text() for file in files[1:]).split()
    assert counted == [[str(unit), str(labels.count(str(unit)))] for unit in range(12)]
    facts = json.loads((tmp_path / "units" / "units.json").read_text())
    assert [(row["labels"], row["rows"]) for row in facts["manifests"]] == [("valid_1.km", 5), ("valid_2.km", 2)]


def test_the_order_of_the_waves_changes_no_label(made, tmp_path):
    teacher, data, at_once, _ = made
    root, *rows = (data / "valid.tsv").read_text().splitlines()
    (tmp_path / "valid.tsv").write_text("\n".join([root, *rows[::-1]]) + "\n")
    run(teacher, [tmp_path / "valid.tsv"], tmp_path / "units", "--kmeans", at_once / "kmeans.npz")
    lines = (at_once / "valid.km").read_text().splitlines()
    assert (tmp_path / "units" / "valid.km").read_text().splitlines() == lines[::-1] and len(set(lines)) == len(rows)


def test_centroids_of_simple_kmeans_label_as_fairseq_does(tmp_path):
    """fairseq's dump_hubert_feature, learn_kmeans and dump_km_label: stock HuBERT, scikit-learn's own predict."""
    teacher = save_teacher(tmp_path / "teacher.pt")
    stock = build_stock_hubert()
    stock.load_state_dict(torch.load(teacher, weights_only=False)["model"])
    data = write_data(tmp_path / "data", LENGTHS, splits=("train",))
    with torch.no_grad():
        waves = read_waves(read_manifest(data / "train.tsv"))
        frames = [stock.extract_features(wave[None], output_layer=2)[0][0].numpy() for wave in waves]
    fitted = MiniBatchKMeans(12, random_state=0, n_init=1).fit(np.concatenate(frames))
    joblib.dump(fitted, tmp_path / "km.bin")
    np.savez(tmp_path / "km.npz", centroids=fitted.cluster_centers_)
    out = tmp_path / "units"
    with pytest.raises(UserError, match="km.bin is a pickle"):
        run(teacher, [data / "train.tsv"], out, "--kmeans", tmp_path / "km.bin", "--layer", 2)
    with pytest.raises(UserError, match="km.npz does not say of which layer its centroids are: give --layer L"):
        run(teacher, [data / "train.tsv"], out, "--kmeans", tmp_path / "km.npz")
    assert not out.exists()
    run(teacher, [data / "train.tsv"], out, "--kmeans", tmp_path / "km.npz", "--layer", 2)
    found = [[int(unit) for unit in line.split()] for line in (out / "train.km").read_text().splitlines()]
    assert found == [fitted.predict(part).tolist() for part in frames]
    kept = read_kmeans(out / "kmeans.npz")
    assert (kept.origin.layer, kept.origin.teacher, kept.made) == (2, str(teacher), None)
    facts = json.loads((out / "units.json").read_text())
    assert (facts["clusters"], facts["seed"], facts["fit"]) == (12, None, None)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--layer", 3], "--layer 3: .*kmeans.npz is of layer 2; leave --layer out"),
        (["--clusters", 12], "--clusters: of a new k-means, and .*kmeans.npz is one already"),
        (["--seconds", 5, "--seed", 0], "--seconds, --seed: of a new k-means"),
    ],
)
def test_what_contradicts_the_k_means_is_refused(made, tmp_path, words, message):
    teacher, data, at_once, _ = made
    with pytest.raises(UserError, match=message):
        run(teacher, [data / "valid.tsv"], tmp_path / "units", "--kmeans", at_once / "kmeans.npz", *words)
    assert not (tmp_path / "units").exists()


def test_other_teachers_are_refused(made, tmp_path):
    teacher, data, at_once, _ = made
    manifests = [data / "valid.tsv"]
    other = save_teacher(tmp_path / "other.pt", seed=1)
    with pytest.raises(
        UserError, match=f"kmeans.npz is of the teacher '{teacher}' .*, and .*other.pt has other weights"
    ):
        run(other, manifests, tmp_path / "units", "--kmeans", at_once / "kmeans.npz")
    save_teacher(tmp_path / "normalised.pt", normalize=True)
    with pytest.raises(UserError, match="normalize=False, and .*normalised.pt has normalize=True"):
        run(tmp_path / "normalised.pt", manifests, tmp_path / "units", "--kmeans", at_once / "kmeans.npz")
    np.save(tmp_path / "narrow.npy", np.ones((12, 20), dtype=np.float32))
    with pytest.raises(UserError, match="narrow.npy has centroids of width 20, and the frames of .*teacher.pt have 48"):
        run(teacher, manifests, tmp_path / "units", "--kmeans", tmp_path / "narrow.npy", "--layer", 1)
    with pytest.raises(UserError, match="--layer 7: .*has layers 1 to 3"):
        run(teacher, manifests, tmp_path / "units", "--kmeans", tmp_path / "narrow.npy", "--layer", 7)
    with pytest.raises(UserError, match="give --layer L, .*or --kmeans FILE"):
        run(teacher, manifests, tmp_path / "units")
    assert not (tmp_path / "units").exists()


def test_a_folder_of_another_k_means_is_left_as_it_was(made, tmp_path):
    teacher, data, at_once, train = made
    out, manifests = tmp_path / "units", [data / "valid.tsv"]
    shutil.copytree(train, out)
    before = read_folder(out)
    centroids = read_kmeans(train / "kmeans.npz").centroids
    np.save(tmp_path / "other.npy", centroids[::-1])
    np.save(tmp_path / "same.npy", centroids)
    for words, message in [
        (["--kmeans", tmp_path / "other.npy", "--layer", 2], "kmeans.npz is another k-means: labels of different"),
        (["--kmeans", tmp_path / "same.npy", "--layer", 1], "kmeans.npz is another k-means: labels of different"),
        (["--layer", 2], "units.json exists: .*or label by the units that are there: --kmeans .*kmeans.npz"),
    ]:
        with pytest.raises(UserError, match=message):
            run(teacher, manifests, out, *words)
    with pytest.raises(UserError, match="train.km exists"):
        run(teacher, [data / "train.tsv"], out, "--kmeans", out / "kmeans.npz")
    assert read_folder(out) == before
    (out / "dict.km.txt").write_text("0 1\n1 1\n")
    before = read_folder(out)
    with pytest.raises(UserError, match="dict.km.txt is not as fairseq-distill units wrote it .*units 0 to 11"):
        run(teacher, manifests, out, "--kmeans", out / "kmeans.npz")
    assert read_folder(out) == before, "labels without their line in units.json"
    (out / "kmeans.npz").unlink()
    with pytest.raises(UserError, match="units.json exists and .*kmeans.npz does not, so whose units are there"):
        run(teacher, manifests, out, "--kmeans", train / "kmeans.npz")
    run(teacher, manifests, tmp_path / "again", "--kmeans", tmp_path / "same.npy", "--layer", 2)
    assert (tmp_path / "again" / "valid.km").read_bytes() == (at_once / "valid.km").read_bytes()


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_the_folder_as_it_was(made, tmp_path, monkeypatch, fault):
    teacher, data, _, train = made
    shutil.copytree(train, tmp_path / "units")
    before = read_folder(tmp_path / "units")
    whole = Labeller.write

    def write(self, manifest, path):
        if "valid" in manifest.file:
            path.write_text("0 0 0\n")
            raise fault
        return whole(self, manifest, path)

    monkeypatch.setattr(Labeller, "write", write)
    (tmp_path / "first.tsv").write_text((data / "train.tsv").read_text())
    manifests = [tmp_path / "first.tsv", data / "valid.tsv"]
    for out in (tmp_path / "units", tmp_path / "new"):
        with pytest.raises((KeyboardInterrupt, UserError)):
            run(teacher, manifests, out, "--kmeans", train / "kmeans.npz")
    assert read_folder(tmp_path / "units") == before and read_folder(tmp_path / "new") == {}


def test_labels_that_others_wrote_meanwhile_stay(made, tmp_path, monkeypatch):
    """Two runs label shards into one folder; the second ends while the first is at work."""
    teacher, data, at_once, train = made
    for name in ("a", "b"):
        (tmp_path / f"{name}.tsv").write_text((data / "valid.tsv").read_text())
    whole, out = Labeller.write, tmp_path / "units"

    def write(self, manifest, path):
        monkeypatch.setattr(Labeller, "write", whole)
        run(teacher, [tmp_path / "b.tsv"], out, "--kmeans", train / "kmeans.npz")
        return whole(self, manifest, path)

    monkeypatch.setattr(Labeller, "write", write)
    run(teacher, [tmp_path / "a.tsv"], out, "--kmeans", train / "kmeans.npz")
    assert (out / "a.km").read_bytes() == (out / "b.km").read_bytes() == (at_once / "valid.km").read_bytes()
    facts = json.loads((out / "units.json").read_text())
    assert [row["labels"] for row in facts["manifests"]] == ["b.km", "a.km"]
    counts = [int(line.split()[1]) for line in (out / "dict.km.txt").read_text().splitlines()]
    assert sum(counts) == sum(row["frames"] for row in facts["manifests"])
    monkeypatch.setattr(Labeller, "write", write)
    (tmp_path / "b.tsv").rename(tmp_path / "c.tsv")
    (out / "c.km").write_text("theirs\n")
    with pytest.raises(UserError, match="c.km exists"):
        run(teacher, [tmp_path / "c.tsv"], out, "--kmeans", train / "kmeans.npz")
    assert (out / "c.km").read_text() == "theirs\n"


def test_json(made, tmp_path, capsys):
    teacher, data, at_once, train = made
    words = ["units", teacher, data / "valid.tsv", "--kmeans", train / "kmeans.npz", "--json", "--out", tmp_path / "u"]
    assert main.main([str(word) for word in words]) == 0
    found = json.loads(capsys.readouterr().out)
    labels = (at_once / "valid.km").read_text()
    assert found["labels"] == {"valid.km": {"rows": 8, "frames": len(labels.split()), "unreadable": 0, "too_short": 0}}
    assert found["counts"] == [labels.split().count(str(unit)) for unit in range(12)]
    assert found["kmeans"] == str(tmp_path / "u" / folder.KMEANS) and Path(found["kmeans"]).exists()
    expected = {"task.label_dir": str(tmp_path / "u"), "task.labels": ["km"]}
    expected.update({"task.label_rate": 400.0, "task.sample_rate": 16_000})
    assert found["task"] == expected and (found["layer"], found["clusters"]) == (2, 12)
