"""Pooled features: the right means, unharmed by neighbours and padding, computed once, broken files counted."""

import logging
import shutil

import numpy as np
import pytest
import soundfile
import torch

from fairseq_distill.data.manifest import read_manifest
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.errors import UserError
from fairseq_distill.evaluation import features as module
from fairseq_distill.evaluation.features import FeatureStore, pool_manifest, pool_wave, randomise_weights

from ..builders import SMALL


@pytest.fixture()
def folder(write_set, make_tone):
    return write_set({"train": [("a", make_tone(500 * n, n)) for n in range(1, 5)]}, "keyword")


@pytest.fixture()
def loads(monkeypatch):
    """Paths that load_encoder was asked for: features were computed exactly when there is one."""
    paths = []
    real = module.load_encoder
    monkeypatch.setattr(module, "load_encoder", lambda path: paths.append(path) or real(path))
    return paths


def test_pooled_features_are_the_means_of_a_padded_batch_over_its_real_frames(encoder, folder):
    manifest = read_manifest(folder / "train.tsv")
    pooled = pool_manifest(encoder, manifest)
    waves = [torch.from_numpy(soundfile.read(manifest.path(row), dtype="float32")[0]) for row in range(4)]
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    padding_mask = torch.arange(batch.shape[1]) >= torch.tensor([len(w) for w in waves])[:, None]
    assert padding_mask.any()
    with torch.no_grad():
        out = encoder(batch, padding_mask=padding_mask)
    real = (~out.padding_mask).double()
    for layer, hidden in enumerate(out.hidden):
        expected = torch.einsum("nf,nfw->nw", real, hidden.double()) / real.sum(1, keepdim=True)
        np.testing.assert_allclose(pooled.features[:, layer], expected.numpy(), atol=1e-5)
    assert pooled.unreadable == {}


def test_second_call_reads_the_cache(checkpoint, folder, tmp_path, loads):
    first = FeatureStore(checkpoint, tmp_path / "cache").pool(folder / "train.tsv")
    assert loads == [checkpoint]
    second = FeatureStore(checkpoint, tmp_path / "cache").pool(folder / "train.tsv")
    assert loads == [checkpoint]
    np.testing.assert_array_equal(first.features, second.features)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".npz"]


def test_cache_follows_content_not_names(checkpoint, folder, tmp_path, loads):
    FeatureStore(checkpoint, tmp_path / "cache").pool(folder / "train.tsv")
    shutil.copy(checkpoint, tmp_path / "copy.pt")
    shutil.copy(folder / "train.tsv", folder / "copy.tsv")
    FeatureStore(tmp_path / "copy.pt", tmp_path / "cache").pool(folder / "copy.tsv")
    assert loads == [checkpoint]


@pytest.mark.parametrize("change", ["manifest", "checkpoint", "audio", "seed"])
def test_a_change_is_computed_anew(checkpoint, folder, tmp_path, loads, change, make_tone):
    first = FeatureStore(checkpoint, tmp_path / "cache").pool(folder / "train.tsv")
    if change == "manifest":
        lines = (folder / "train.tsv").read_text().splitlines()
        (folder / "train.tsv").write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]) + "\n")
    elif change == "checkpoint":
        state = torch.load(checkpoint, weights_only=True)
        state["model"]["encoder.layers.0.fc1.weight"] *= 2
        torch.save(state, checkpoint)
    elif change == "audio":
        size = len(soundfile.read(str(folder / "train0.wav"))[0])
        soundfile.write(str(folder / "train0.wav"), np.resize(make_tone(3000, 9), size), 16_000, subtype="FLOAT")
    second = FeatureStore(checkpoint, tmp_path / "cache", 1 if change == "seed" else None).pool(folder / "train.tsv")
    assert len(loads) == 2
    assert not np.allclose(first.features, second.features)


def test_a_damaged_cache_file_is_computed_anew(checkpoint, folder, tmp_path, loads, caplog):
    first = FeatureStore(checkpoint, tmp_path / "cache").pool(folder / "train.tsv")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:300])
    second = FeatureStore(checkpoint, tmp_path / "cache").pool(folder / "train.tsv")
    assert len(loads) == 2 and "damaged" in caplog.text
    np.testing.assert_array_equal(first.features, second.features)


def test_one_broken_file_is_counted_also_from_the_cache(checkpoint, folder, tmp_path, caplog):
    (folder / "train2.wav").write_bytes(b"no audio at all")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            pooled = FeatureStore(checkpoint, tmp_path / "cache").pool(folder / "train.tsv")
        assert list(pooled.unreadable) == [2]
        assert np.isnan(pooled.features[2]).all() and np.isfinite(pooled.features[[0, 1, 3]]).all()
        assert "1 of 4 files cannot be used" in caplog.text and "train2.wav" in caplog.text


def test_too_many_broken_files_stop_it_and_leave_no_cache(checkpoint, folder, tmp_path):
    soundfile.write(str(folder / "train1.wav"), np.ones(1000) / 3, 8_000)
    (folder / "train2.wav").unlink()
    with pytest.raises(UserError, match=r"train.tsv: 2 of 4 files.*train1.wav \(8000 Hz.*train2.wav \(no such file"):
        FeatureStore(checkpoint, tmp_path / "cache").pool(folder / "train.tsv")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_checkpoint_or_cache_that_is_not_there(folder, checkpoint, tmp_path):
    with pytest.raises(UserError, match="missing.pt"):
        FeatureStore(tmp_path / "missing.pt", tmp_path / "cache").pool(folder / "train.tsv")
    with pytest.raises(UserError, match="--cache"):
        FeatureStore(checkpoint, checkpoint / "below-a-file").pool(folder / "train.tsv")


def test_random_weights_follow_the_seed_alone(encoder, make_tone):
    encoder.normalize_input = True
    wave = torch.from_numpy(make_tone(700, 1))
    state = torch.random.get_rng_state()
    one, same, other = (pool_wave(randomise_weights(encoder, seed), wave) for seed in (5, 5, 6))
    assert torch.equal(state, torch.random.get_rng_state())
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other) and not np.allclose(one, pool_wave(encoder, wave))
    # the waveform is still normalised as the checkpoint asks, so loudness does not matter
    np.testing.assert_allclose(one, pool_wave(randomise_weights(encoder, 5), 3 * wave), atol=1e-3)


def test_a_wave_without_a_frame_behind_time_reduction_is_too_short(tmp_path):
    cfg = EncoderConfig.from_settings({**SMALL, "time_reduction": 2})
    (tmp_path / "test.tsv").write_text(
        f"{tmp_path}\nlong.flac\t{cfg.shortest_wave}\nshort.flac\t{cfg.shortest_wave - 1}\n"
    )
    for name, samples in (("long", cfg.shortest_wave), ("short", cfg.shortest_wave - 1)):
        soundfile.write(tmp_path / f"{name}.flac", 0.1 * np.random.default_rng(0).standard_normal(samples), 16_000)
    pooled = pool_manifest(SpeechEncoder(cfg).eval(), read_manifest(tmp_path / "test.tsv"))
    assert list(pooled.unreadable) == [1] and f"at least {cfg.shortest_wave} are needed" in pooled.unreadable[1]
    assert np.isfinite(pooled.features[0]).all()
