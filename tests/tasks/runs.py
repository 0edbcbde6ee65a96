"""Whole runs of fairseq-hydra-train on seconds of noise and a teacher of three small layers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from ..distillation.test_teacher import save_teacher
from ..encoder.builders import SMALL

ROOT = Path(__file__).resolve().parents[2]
STUDENT_SHAPE = {
    "model.encoder_layers": 3,
    "model.encoder_embed_dim": 32,
    "model.encoder_ffn_embed_dim": 48,
    "model.encoder_attention_heads": 4,
    "+model.conv_pos": 16,
    "+model.conv_pos_groups": 4,
}


def write_data(folder: Path, lengths=(9000, 8000, 7000, 8000), copies=2, splits=("train", "valid")) -> Path:
    """Manifests over waves of noise of those many samples."""
    audio = folder / "audio"  # fairseq takes any valid* beside the manifests for another validation set
    audio.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split in splits:
        rows = []
        for index, length in enumerate(list(lengths) * copies):
            name = f"{split}{index}.flac"
            soundfile.write(audio / name, 0.1 * rng.standard_normal(length), 16_000)
            rows.append(f"{name}\t{length}")
        (folder / f"{split}.tsv").write_text("\n".join([str(audio), *rows]) + "\n")
    return folder


def write_teacher(folder: Path, name="teacher.pt", **settings) -> str:
    """A stock HuBERT of SMALL shape."""
    folder.mkdir(parents=True, exist_ok=True)
    return save_teacher(folder / name, **settings)


def command(config_dir, config, overrides) -> list:
    """The command line of a training run, in a process of its own."""
    code = "from fairseq_cli.hydra_train import cli_main; cli_main()"
    given = [f"{key}={value}" for key, value in overrides.items()]
    return [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        "--config-dir",
        str(config_dir),
        "--config-name",
        config,
        *given,
    ]


def environment() -> dict:
    """What a run needs: the checkout on the path (for the plugin and its hydra part), and the real error from hydra 1.0."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HYDRA_FULL_ERROR": "1", "OMP_NUM_THREADS": "1"}


def distil(out: Path, data: Path, teacher: str, recipe="deep_12x384", shape=STUDENT_SHAPE, check=True, **overrides):
    """Run a recipe for a few updates; returns (finished process, JSON logs)."""
    settings = {
        "+machine": "cpu",
        "task.data": data,
        "task.teacher": teacher,
        "dataset.batch_size": 2,
        "dataset.num_workers": 0,
        "optimization.max_update": 4,
        "lr_scheduler.warmup_updates": 1,
        "common.log_interval": 1,
        "common.tensorboard_logdir": "null",
        "hydra.run.dir": out,
        **shape,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    if recipe == "deep_12x384":
        settings.setdefault("criterion.groups", "[[1],[2],[3]]")
    return run(command(ROOT / "config" / "distill", recipe, settings), check)


def run(line, check=True):
    """Run a command line; returns (finished process, JSON objects among its output)."""
    done = subprocess.run(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    if check:
        assert done.returncode == 0, done.stdout[-3000:]
    return done, read_logs(done.stdout)


def validate(checkpoint, data):
    """Held-out loss and distances as fairseq-validate prints them."""
    code = "from fairseq_cli.validate import cli_main; cli_main()"
    options = [
        "--task",
        "speech_distillation",
        "--user-dir",
        ROOT / "fairseq_distill",
        "--valid-subset",
        "valid",
        "--cpu",
    ]
    options += ["--max-tokens", 20_000, "--log-format", "json", "--num-workers", 0]
    done, _ = run(
        [sys.executable, "-W", "ignore", "-c", code, str(data), "--path", str(checkpoint), *map(str, options)]
    )
    line = next(line for line in done.stdout.splitlines() if "| valid | {" in line)
    return json.loads(line[line.index("{") :])


def read_logs(text):
    """[(name of the logger, object)] of fairseq's JSON log lines."""
    logs = []
    for row in text.splitlines():
        start = row.find('] - {"')
        if row.startswith("[") and start > 0:
            logs.append((row.split("][")[1], json.loads(row[start + 4 :])))
    return logs


__all__ = [
    "SMALL",
    "STUDENT_SHAPE",
    "command",
    "distil",
    "environment",
    "read_logs",
    "run",
    "validate",
    "write_data",
    "write_teacher",
]
