"""A tiny encoder, its checkpoint, and a small labelled speech set of noises and tones."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder


@pytest.fixture()
def encoder():
    """2 layers of 16 with a layer-norm extractor, random weights; 40 samples make a frame, 20 lie between frames."""
    config = EncoderConfig(
        family="wav2vec2",
        extractor_mode="layer_norm",
        conv_feature_layers="[(16, 20, 10), (16, 3, 2)]",
        encoder_layers=2,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=32,
        encoder_attention_heads=2,
        conv_pos=8,
        conv_pos_groups=4,
    )
    torch.manual_seed(3)
    return SpeechEncoder(config).eval()


@pytest.fixture()
def checkpoint(encoder, tmp_path):
    """The encoder as fairseq would have written it."""
    model = {**dataclasses.asdict(encoder.cfg), "_name": "wav2vec2", "latent_temp": [2, 0.5, 0.999995]}
    path = tmp_path / "tiny.pt"
    torch.save({"cfg": {"model": model, "task": {"normalize": True}}, "model": encoder.state_dict()}, path)
    return path


@pytest.fixture()
def write_set(tmp_path):
    """Write manifests and labels: write_set({"train": [(label, wave), ...], ...}, "keyword") -> folder."""

    def write(splits, label):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for split, rows in splits.items():
            lines = [str(folder)]
            for number, (_, wave) in enumerate(rows):
                name = f"{split}{number}.wav"
                soundfile.write(str(folder / name), wave, 16_000, subtype="FLOAT")
                lines.append(f"{name}\t{len(wave)}")
            (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
            (folder / f"{split}.{label}").write_text("".join(f"{text}\n" for text, _ in rows))
        return folder

    return write


@pytest.fixture()
def make_tone():
    """make_tone(hertz, seed) -> a noisy tone of 0.05 to 0.1 seconds, float32, at a random phase."""

    def make(hertz, seed):
        random = np.random.default_rng(seed)
        time = np.arange(random.integers(800, 1600)) / 16_000
        tone = np.sin(2 * np.pi * (hertz * time + random.random()))
        return (0.5 * tone + 0.05 * random.standard_normal(len(time))).astype(np.float32)

    return make
