"""Augmentation: the ratio of noise measured, the pitch of faster speech measured, and the same in the same epoch."""

import numpy as np
import pytest
import soundfile
import torch

from fairseq_distill.errors import UserError
from fairseq_distill.multitask.augmentation import Augmentation, NoiseManifest, change_speed, mix


def write_noise(folder, waves):
    """A manifest of these waves."""
    rows = []
    for number, wave in enumerate(waves):
        soundfile.write(folder / f"{number}.wav", wave, 16_000, subtype="FLOAT")
        rows.append(f"{number}.wav\t{len(wave)}")
    (folder / "noise.tsv").write_text("\n".join([str(folder), *rows]) + "\n")
    return str(folder / "noise.tsv")


@pytest.fixture
def noise(tmp_path):
    """Two noises, one shorter than the waves it goes to."""
    rng = np.random.default_rng(0)
    return NoiseManifest(write_noise(tmp_path, [0.01 * rng.standard_normal(n) for n in (3000, 40_000)]), 16_000)


def measure_snr(clean, mixed):
    """In dB, from the powers of the wave and of what was added."""
    added = (mixed - clean).double()
    return 10 * np.log10(float(clean.double().pow(2).mean() / added.pow(2).mean()))


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_has_the_ratio_asked_for(snr):
    wave, added = torch.randn(8000), 30 * torch.randn(8000)
    assert measure_snr(wave, mix(wave, added, snr)) == pytest.approx(snr, abs=0.01)


def test_ratios_are_spread_over_the_range_and_follow_from_epoch_and_row(noise):
    augment = Augmentation(noise=noise, snr=(5, 15))
    wave = torch.randn(8000)
    ratios = [measure_snr(wave, augment(wave, 1, row)) for row in range(60)]
    assert min(ratios) >= 4.99 and max(ratios) <= 15.01 and max(ratios) - min(ratios) > 8
    assert torch.equal(augment(wave, 3, 7), augment(wave, 3, 7))
    assert not torch.equal(augment(wave, 3, 7), augment(wave, 4, 7))
    assert not torch.equal(augment(wave, 3, 7), augment(wave, 3, 8))


def test_only_the_share_asked_for_gets_noise(noise):
    augment, wave = Augmentation(noise=noise, noise_probability=0.25), torch.randn(4000)
    changed = sum(not torch.equal(augment(wave, 1, row), wave) for row in range(200))
    assert 30 <= changed <= 70


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_speed_moves_a_tone_by_its_factor(speed):
    tone = torch.sin(2 * np.pi * 1000 * torch.arange(16_000) / 16_000)
    changed = change_speed(tone, speed)
    assert len(changed) == pytest.approx(16_000 / speed, abs=2)
    assert changed.dtype == torch.float32
    spectrum = np.abs(np.fft.rfft(changed.numpy() * np.hanning(len(changed))))
    assert spectrum.argmax() * 16_000 / len(changed) == pytest.approx(1000 * speed, abs=2)
    assert float(changed[100:-100].abs().max()) == pytest.approx(1.0, abs=0.02)


def test_every_speed_is_drawn_but_none_that_leaves_too_little():
    lengths = [len(Augmentation(speeds=[0.9, 1.0, 1.1])(torch.randn(9000), 1, row)) for row in range(60)]
    assert {round(9000 / length, 1) for length in lengths} == {0.9, 1.0, 1.1}
    assert all(len(Augmentation(speeds=[2.0], min_samples=600)(torch.randn(1000), 1, row)) == 1000 for row in range(5))


def test_broken_and_silent_noise_is_passed_over_and_all_of_it_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = write_noise(tmp_path, [np.zeros(500), 0.1 * rng.standard_normal(500)])
    noise = NoiseManifest(path, 16_000)
    assert all(noise.draw(300, np.random.default_rng(seed)).any() for seed in range(10))
    (tmp_path / "1.wav").write_bytes(b"nothing")
    with pytest.raises(UserError, match="all are broken or silent"):
        noise.draw(300, rng)
    (tmp_path / "0.wav").unlink()
    with pytest.raises(UserError, match="task.noise: .*2 of them cannot be used"):
        NoiseManifest(path, 16_000)


def test_noise_at_another_rate_is_refused_also_if_it_is_a_single_file(tmp_path):
    path = write_noise(tmp_path, [0.1 * np.random.default_rng(0).standard_normal(500)])
    with pytest.raises(UserError, match="0.wav: 16000 Hz instead of 8000 Hz: resample it, ffmpeg -i IN -ar 8000 OUT"):
        NoiseManifest(path, 8000)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"speeds": [0.1]}, "task.speeds"),
        ({"speeds": [1.0, float("nan")]}, "task.speeds"),
        ({"snr": (10, 5)}, "task.noise_snr"),
        ({"snr": (10,)}, "task.noise_snr"),
        ({"snr": (float("nan"), 5)}, "task.noise_snr"),
        ({"snr": (0, float("inf"))}, "task.noise_snr"),
        ({"noise_probability": 2}, "noise_probability"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**settings)
