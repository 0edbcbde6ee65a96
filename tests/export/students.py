"""Small students as fairseq leaves them after a distillation, and programs that read an exported one without us."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig
from fairseq_distill.pruning.gates import add_gates

from ..builders import LARGE, WAVLM
from ..checkpoints import layouts

ROOT = Path(__file__).resolve().parents[2]
DATA2VEC = dict(family="data2vec", pos_conv_depth=3, extractor_mode="layer_norm")
# uniform students: settings, format
KINDS = {
    "hubert": ({}, "fairseq"),
    "large": (dict(LARGE, normalize=True), "fairseq"),
    "wav2vec2": (dict(family="wav2vec2", conv_bias=True), "fairseq"),
    "wav2vec2 large": (dict(family="wav2vec2", normalize=True, **LARGE), "fairseq"),
    "data2vec": (DATA2VEC, "fairseq"),
    "no projection": (dict(encoder_embed_dim=32), "fairseq"),
    "odd kernel": (dict(conv_pos=15), "fairseq"),
    "wavlm": (WAVLM, "wavlm"),
    "wavlm large": (dict(WAVLM, normalize=True, **LARGE), "wavlm"),
    "wavlm without projection": (dict(WAVLM, encoder_embed_dim=32), "wavlm"),
}


def write_student(path, sample_rate=16_000, **settings) -> SpeechStudent:
    """A student of two layers with a head for its teacher's third, in the layout of fairseq's trainer."""
    groups = dict(prediction_groups="[[3]]", prediction_layers="[[2]]", prediction_dim=20)
    shape = {**layouts.SMALL, "encoder_layers": 2, "label_rate": 50.0, **groups, **settings}
    cfg = SpeechStudentConfig(**shape)
    student = SpeechStudent(cfg)
    add_gates(student)
    layouts.randomize(student)
    task = {"_name": "speech_distillation", "teacher": "/nowhere.pt", "normalize": cfg.normalize}
    saved = layouts.hydra_cfg("speech_student", cfg, {**task, "sample_rate": sample_rate})
    layouts.write_fairseq(path, student.state_dict(), cfg=saved)
    return student


def run_without_plugin(program: str, *arguments) -> str:
    """What a program prints that may not import this package: a `python -c` that fails where it does."""
    check = "\nimport sys; assert not [name for name in sys.modules if name.startswith('fairseq_distill')]\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    extra = [part for part in os.environ.get("PYTHONPATH", "").split(":") if part and Path(part).resolve() != ROOT]
    environment["PYTHONPATH"] = ":".join(os.path.abspath(part) for part in extra)
    command = [sys.executable, "-c", program + check, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def save_expected(path, encoder) -> None:
    """Two waves and what `encoder` says of them, alone and in a batch, for a program without this package."""
    generator = torch.Generator().manual_seed(3)
    waves = [torch.randn(length, generator=generator) for length in (4000, 2283)]
    padding_mask = torch.arange(4000) >= torch.tensor([[4000], [2283]])
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    with torch.no_grad():
        alone, padded = encoder(waves[1][None]), encoder(batch, padding_mask=padding_mask)
    states = {"alone": [*alone.hidden, alone.x], "padded": [*padded.hidden, padded.x]}
    torch.save({"waves": waves, **states, "frame_mask": padded.padding_mask}, path)
