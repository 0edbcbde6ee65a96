"""`fairseq-distill units`: the nearest centres of the layer's frames, in the form that stock fairseq reads."""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig, HubertPretrainingTask
from omegaconf import OmegaConf
from sklearn.cluster import MiniBatchKMeans

from fairseq_distill import load_encoder
from fairseq_distill.cli import units
from fairseq_distill.data.audio_file import BrokenAudio
from fairseq_distill.data.manifest import read_manifest
from fairseq_distill.encoder import pieces
from fairseq_distill.encoder.conv_spec import count_frames
from fairseq_distill.errors import UserError
from fairseq_distill.layer_clusters.fingerprint import fingerprint_weights
from fairseq_distill.units import fitting
from fairseq_distill.units.fitting import fit_units
from fairseq_distill.units.frames import LayerFrames
from fairseq_distill.units.labelling import Labeller

from ..builders import LARGE, make_waves, save_teacher, write_data

LENGTHS = (9000, 8003, 7000)


def run(teacher, data, out, *words, splits=("train", "valid")):
    """The command as main runs it, on layer 2 and 12 units."""
    parser = argparse.ArgumentParser(epilog=units.EPILOG)
    units.add_arguments(parser)
    defaults = ["--layer", 2, "--clusters", 12, "--seconds", 2]
    line = [teacher, *(data / f"{split}.tsv" for split in splits), *defaults, *words, "--out", out]
    units.run(parser.parse_args([str(word) for word in line]))
    return 0  # where nothing is raised


@pytest.fixture(scope="module", autouse=True)
def quick_k_means():
    """20 starts and 100 rounds, as HuBERT's units have them, are for larger data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "_SETTINGS", {**fitting._SETTINGS, "n_init": 2, "max_iter": 5})
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(teacher, data, folder of units)"""
    folder = tmp_path_factory.mktemp("units")
    teacher, data = save_teacher(folder / "teacher.pt"), write_data(folder / "data", LENGTHS, copies=2)
    assert run(teacher, data, folder / "units") == 0
    return teacher, data, folder / "units"


def read_waves(manifest):
    files = map(manifest.path, range(len(manifest.paths)))
    return [torch.from_numpy(soundfile.read(file, dtype="float32")[0]) for file in files]


def test_every_frame_has_the_nearest_centre_of_its_layer(made):
    """K-means once more, straight from scikit-learn, on the frames of the whole train set in the order it was read."""
    teacher, data, out = made
    encoder = load_encoder(teacher)
    sample = fitting.SpeechSample(data / "train.tsv", 2.0, 0, encoder.cfg)
    with torch.no_grad():
        fitted = np.concatenate([encoder(wave).hidden[2][0].numpy() for wave, _ in sample])
        kmeans = MiniBatchKMeans(12, random_state=0, **fitting._SETTINGS).fit(fitted)
        centres = torch.from_numpy(kmeans.cluster_centers_)
        counts = torch.zeros(12, dtype=torch.long)
        for split in ("train", "valid"):
            lines = (out / f"{split}.km").read_text().splitlines()
            waves = read_waves(read_manifest(data / f"{split}.tsv"))
            assert len(lines) == len(waves) == 6
            for line, wave in zip(lines, waves):
                expected = torch.cdist(encoder(wave[None]).hidden[2][0], centres).argmin(1)
                assert [int(unit) for unit in line.split()] == expected.tolist()
                counts += torch.bincount(expected, minlength=12)
    dictionary = [line.split() for line in (out / "dict.km.txt").read_text().splitlines()]
    assert dictionary == [[str(unit), str(count)] for unit, count in enumerate(counts.tolist())]
    facts = json.loads((out / "units.json").read_text())
    assert (facts["layer"], facts["clusters"], facts["seed"], facts["frames_per_second"]) == (2, 12, 0, 400)
    assert facts["teacher"] == {
        "path": teacher,
        "weights_sha256": fingerprint_weights(encoder),
        "sample_rate": 16_000,
    }
    nearest = torch.cdist(torch.from_numpy(fitted), centres).min(1).values
    assert facts["fit"]["inertia_per_frame"] == pytest.approx(float((nearest**2).mean()), rel=1e-4)
    assert facts["fit"]["samples_sha256"] == sample.fingerprint and facts["fit"]["frames"] == len(fitted)
    written = [len((out / name).read_text().split()) for name in ("train.km", "valid.km")]
    assert [row["frames"] for row in facts["manifests"]] == written
    assert {path.name for path in out.iterdir()} == {"train.km", "valid.km", "dict.km.txt", "units.json", "kmeans.npz"}


def test_stock_fairseq_reads_them_without_a_complaint(made, caplog):
    _, data, out = made
    cfg = OmegaConf.merge(
        OmegaConf.structured(HubertPretrainingConfig()),
        {"data": str(data), "label_dir": str(out), "labels": ["km"], "label_rate": 400.0, "max_sample_size": 5000},
    )
    task = HubertPretrainingTask.setup_task(cfg)
    caplog.set_level(logging.WARNING)
    task.load_dataset("train")
    assert "differ too much" not in caplog.text and "mismatched" not in caplog.text
    assert len(task.dictionaries[0]) == 12 + 4
    dataset = task.datasets["train"]
    batch = dataset.collater([dataset[0], dataset[2]])
    assert batch["target_list"][0].shape in ((2, 124), (2, 125))  # it crops anywhere, and rounds to labels
    assert int(batch["target_list"][0].min()) >= 4, "a unit that the dictionary does not know"


def test_a_seed_gives_the_same_files_and_another_one_others(made, tmp_path, capsys):
    teacher, data, out = made
    run(teacher, data, tmp_path / "again")
    run(teacher, data, tmp_path / "other", "--seed", 1)
    for name in ("train.km", "valid.km", "dict.km.txt", "units.json", "kmeans.npz"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    assert (tmp_path / "other" / "train.km").read_bytes() != (out / "train.km").read_bytes()
    shown = capsys.readouterr().out
    assert f"task.label_dir={tmp_path / 'again'} task.labels=[km] task.label_rate=400" in shown
    assert "train.km    6 rows, " in shown


@pytest.mark.parametrize("normalize", [False, True])
def test_long_waves_go_in_chunks_without_a_frame_lost(tmp_path, monkeypatch, normalize):
    settings = {**LARGE, "normalize": True} if normalize else {}
    path = save_teacher(tmp_path / "teacher.pt", **settings)
    monkeypatch.setattr(pieces, "LONGEST", 0.1)  # 40 frames of 40 samples
    wave = 0.3 + make_waves(1, 4321)[0][0]
    chunks = list(LayerFrames(load_encoder(path), 2)(wave))
    encoder = load_encoder(path)
    assert [len(chunk) for chunk in chunks] == [35, 36, 36]
    assert sum(map(len, chunks)) == count_frames(4321, encoder.cfg.conv_layers)
    if normalize:
        wave = (wave - wave.mean()) / (wave.var(unbiased=False) + 1e-5).sqrt()
    encoder.normalize_input = False
    parts = [wave[: 34 * 40 + 60], wave[35 * 40 : 70 * 40 + 60], wave[71 * 40 :]]
    for chunk, part in zip(chunks, parts):
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(chunk), encoder(part[None]).hidden[2][0])


def test_k_means_sees_a_bounded_number_of_random_frames(made, monkeypatch):
    teacher, data, _ = made
    layer_frames = LayerFrames(load_encoder(teacher), 2)
    whole = fit_units(layer_frames, data / "train.tsv", 100.0, 2, 0)
    assert whole.facts["frames"] == sum(count_frames(n, layer_frames.encoder.cfg.conv_layers) for n in LENGTHS * 2)
    monkeypatch.setattr(fitting, "MAX_FRAMES", 300)
    sample = fitting.SpeechSample(data / "train.tsv", 100.0, 0, layer_frames.encoder.cfg)
    kept = fitting._gather_frames(layer_frames, sample, 100.0, 0)
    assert 240 <= len(kept) <= 300
    last = [list(layer_frames(wave[0]))[-1] for wave, _ in sample][-1]
    assert any(np.array_equal(kept[-1], frame) for frame in last), "only the first utterances were used"


def test_an_unreadable_row_keeps_its_line_and_two_stop_without_a_trace(tmp_path, made, caplog):
    teacher = made[0]
    data = write_data(tmp_path / "data", LENGTHS, copies=2, splits=("train", "valid"))
    (data / "audio" / "valid1.flac").write_bytes(b"no audio")
    with open(data / "valid.tsv", "a") as file:
        file.write("tiny.flac\t59\n")
    run(teacher, data, tmp_path / "units")
    lines = [line.split() for line in (tmp_path / "units" / "valid.km").read_text().splitlines()]
    lengths = [int(row.split("\t")[1]) for row in (data / "valid.tsv").read_text().splitlines()[1:]]
    assert [len(line) for line in lines] == [count_frames(n, load_encoder(teacher).cfg.conv_layers) for n in lengths]
    facts = json.loads((tmp_path / "units" / "units.json").read_text())
    assert set(lines[1]) == {str(facts["silence"])} and lines[6] == []
    assert (facts["manifests"][1]["unreadable"], facts["manifests"][1]["too_short"]) == (1, 1)
    counted = sum(int(line.split()[1]) for line in (tmp_path / "units" / "dict.km.txt").open())
    assert counted == sum(row["frames"] for row in facts["manifests"])
    assert facts["manifests"][1]["frames"] == sum(map(len, lines)) - len(lines[1])
    (data / "audio" / "valid2.flac").unlink()
    with pytest.raises(UserError, match="2 of 7 files cannot be used.*valid1.flac"):
        run(teacher, data, tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_silence_is_the_unit_of_silence(made):
    teacher, data, _ = made
    layer_frames = LayerFrames(load_encoder(teacher), 2)
    centroids = fit_units(layer_frames, data / "train.tsv", 2.0, 12, 0).centroids
    labeller = Labeller(layer_frames, centroids)
    with torch.no_grad():
        silence = layer_frames.encoder(torch.zeros(1, 16_000)).hidden[2][0]
    units = torch.cdist(silence, torch.from_numpy(centroids)).argmin(1)
    assert labeller.silence == units.mode().values


def test_what_is_not_finite_is_refused(made):
    teacher, data, _ = made
    encoder = load_encoder(teacher)
    encoder.encoder.layers[1].fc2.bias = torch.nn.Parameter(torch.full((48,), float("nan")))
    with pytest.raises(BrokenAudio, match="hidden state 2"):
        list(LayerFrames(encoder, 2)(make_waves(1)[0][0]))
    assert len(list(LayerFrames(encoder, 1)(make_waves(1)[0][0]))) == 1
    with pytest.raises(UserError, match="train.tsv: a wave cannot be used: .*choose another --layer"):
        fit_units(LayerFrames(encoder, 2), data / "train.tsv", 2.0, 12, 0)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--layer", 4], "--layer 4: .*has layers 1 to 3"),
        (["--layer", -1], "--layer -1"),
        (["--clusters", 1], "at least 2"),
        (["--seed", -1], "--seed -1"),
        (["--clusters", 900], "1.4 s of it make 572 frames, too few for 900 clusters"),
        (["--seconds", 0], "must be above 0"),
    ],
)
def test_impossible_numbers_are_refused(made, tmp_path, words, message):
    teacher, data, _ = made
    with pytest.raises(UserError, match=message):
        run(teacher, data, tmp_path / "units", *words)
    assert not list(tmp_path.glob("units/*")), "nothing is left half written"


def test_labels_of_different_units_do_not_mix(made, tmp_path):
    teacher, data, out = made
    before = (out / "train.km").read_bytes()
    with pytest.raises(UserError, match="units.json exists"):
        run(teacher, data, out, "--seed", 1)
    (tmp_path / "valid.km").write_text("0\n")
    with pytest.raises(UserError, match="valid.km exists"):
        run(teacher, data, tmp_path)
    with pytest.raises(UserError, match="would all be labelled in .*train.km"):
        run(teacher, data, tmp_path / "same", splits=("train", "train"))
    assert (out / "train.km").read_bytes() == before and Path(tmp_path / "valid.km").read_text() == "0\n"
