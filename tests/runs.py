"""Whole runs of fairseq-hydra-train, in processes of their own, on seconds of noise."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .builders import write_data

ROOT = Path(__file__).resolve().parents[1]
STUDENT_SHAPE = {
    "model.encoder_layers": 3,
    "model.encoder_embed_dim": 32,
    "model.encoder_ffn_embed_dim": 48,
    "model.encoder_attention_heads": 4,
    "+model.conv_pos": 16,
    "+model.conv_pos_groups": 4,
}
GROUPS = {"criterion.groups": "[[f],[1],[3]]"}
FAST_GATES = {
    **GROUPS,
    "model.sparsity_warmup": 10,
    "model.target_sparsity": 0.5,
    "optimizer.groups.default.lr_float": 0.001,
    "optimizer.groups.gates.lr_float": 0.5,
    "optimizer.groups.multipliers.lr_float": 0.5,
    **{f"optimizer.groups.{name}.lr_scheduler.warmup_updates": 1 for name in ("default", "gates", "multipliers")},
}
KEYWORDS = ["no", "yes", "", "yes", "no", "yes", "no", ""]
SPEAKERS = ["ann", "bob", "cid", "", "ann", "bob", "", "cid"]
CTC = """
common: {cpu: true, log_format: json, log_interval: 5, user_dir: "${fairseq_distill:user_dir}"}
task: {_name: audio_finetuning, data: "???", labels: ltr, normalize: false}
dataset: {max_tokens: 200000, num_workers: 0, valid_subset: valid, validate_interval_updates: 30,
  validate_interval: 100}
distributed_training: {ddp_backend: legacy_ddp, distributed_world_size: 1}
criterion: {_name: ctc, zero_infinity: true}
optimization: {max_update: 60, lr: [0.001], sentence_avg: true}
optimizer: {_name: adam, adam_betas: "(0.9,0.98)"}
lr_scheduler: {_name: fixed}
checkpoint: {save_dir: checkpoints, no_epoch_checkpoints: true}
model: {_name: hubert_ctc, w2v_path: "???", apply_mask: true, mask_prob: 0.1, layerdrop: 0.0, feature_grad_mult: 0.0,
  freeze_finetune_updates: 0}
"""


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
    """What a run needs: the checkout on the path, for the plugin and its hydra part; and hydra 1.0's real errors."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HYDRA_FULL_ERROR": "1", "OMP_NUM_THREADS": "1"}


def distil(out: Path, data: Path, teacher: str, recipe="deep_12x384", shape=STUDENT_SHAPE, check=True, **overrides):
    """Run a recipe for a few updates; returns (finished process, JSON logs)."""
    return run(distil_line(out, data, teacher, recipe, shape, **overrides), check)


def distil_line(out, data, teacher, recipe="deep_12x384", shape=STUDENT_SHAPE, **overrides) -> list:
    """The command line of `distil`."""
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
    return command(ROOT / "config" / "distill", recipe, settings)


def train(out, data, teacher, recipe="dphubert", check=True, **overrides):
    """Run a recipe on noise for a few updates; returns (finished process, JSON logs)."""
    return run(train_line(out, data, teacher, recipe, **overrides), check)


def train_line(out, data, teacher, recipe="dphubert", **overrides) -> list:
    """The command line of `train`."""
    settings = {
        "+machine": "cpu",
        "task.data": data,
        "task.teacher": teacher,
        "task.min_sample_size": "null",
        "dataset.max_tokens": 20_000,
        "task.update_seconds": "null",
        "dataset.num_workers": 0,
        "optimization.max_update": 40,
        "common.log_interval": 1,
        "common.tensorboard_logdir": "null",
        "hydra.run.dir": out,
        **(FAST_GATES if recipe == "dphubert" else GROUPS),
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return command(ROOT / "config" / "distill", recipe, settings)


def last(folder):
    """The last checkpoint of a run."""
    return folder / "checkpoints" / "checkpoint_last.pt"


def fine_tune(out: Path, data: Path, init, recipe="kws_sv", check=True, **overrides):
    """Run a recipe for a few updates; returns (finished process, JSON logs)."""
    return run(fine_tune_line(out, data, init, recipe, **overrides), check)


def fine_tune_line(out: Path, data: Path, init, recipe="kws_sv", **overrides) -> list:
    """The command line of `fine_tune`."""
    settings = {
        "+machine": "cpu",
        "task.data": data,
        "model.init": init,
        "dataset.batch_size": 4,
        "dataset.num_workers": 0,
        "optimization.max_update": 4,
        "common.log_interval": 1,
        "common.tensorboard_logdir": "null",
        "hydra.run.dir": out,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return command(ROOT / "config" / "finetune", recipe, settings)


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


def write_labels(folder: Path, split: str, **labels) -> None:
    """A label file beside SPLIT.tsv for each keyword."""
    for name, lines in labels.items():
        (folder / f"{split}.{name}").write_text("".join(f"{line}\n" for line in lines))


def write_labelled(folder: Path, speakers=SPEAKERS, **options) -> Path:
    """Manifests of eight waves of noise with keywords and speakers, of whom dan is in no training set."""
    write_data(folder, **options)
    write_labels(folder, "train", keyword=KEYWORDS, speaker=speakers)
    write_labels(folder, "valid", keyword=KEYWORDS, speaker=[*speakers[:-1], "dan"])
    return folder
