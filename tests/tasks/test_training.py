"""Distillation through the real fairseq-hydra-train, and what its checkpoints are good for."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.safe_load import read_pickled
from fairseq_distill.models.speech_student import SpeechStudent

from ..builders import LARGE, make_waves, write_data, write_teacher
from ..reliability.comparing import find_differences
from ..runs import ROOT, command, distil, environment, run


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """(checkpoint, logs, teacher's path) of one run; the teacher's file is deleted afterwards."""
    folder = tmp_path_factory.mktemp("distilled")
    teacher = write_teacher(folder)
    _, logs = distil(
        folder / "run", write_data(folder / "data"), teacher, optimization__lr="[0.01]", optimization__max_update=12
    )
    os.remove(teacher)
    return folder / "run" / "checkpoints" / "checkpoint_last.pt", logs, teacher


def test_training_logs_every_distance_of_every_group_and_the_loss_falls(student):
    _, logs, _ = student
    steps = [values for name, values in logs if name == "train_inner"]
    assert len(steps) == 12
    for distance in ("l1", "log_sigmoid_cosine"):
        for group in (1, 2, 3):
            assert float(steps[0][f"{distance}_{group}"]) > 0
    assert float(steps[-1]["loss"]) < 0.97 * float(steps[0]["loss"])
    valid = [values for name, values in logs if name == "valid"]
    assert valid and float(valid[-1]["valid_l1_3"]) > 0
    mean = sum(float(steps[0][f"{d}_{g}"]) for d in ("l1", "log_sigmoid_cosine") for g in (1, 2, 3)) / 3
    assert float(steps[0]["loss"]) == pytest.approx(mean, abs=1e-3)


def test_student_stands_alone(student):
    checkpoint, _, teacher = student
    assert not Path(teacher).exists()
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    assert isinstance(model, SpeechStudent)
    assert cfg.task.normalize is False and cfg.model.encoder_embed_dim == 32 and cfg.model.init == ""
    saved = read_pickled(checkpoint)["model"]
    assert set(saved) == set(model.state_dict()), "teacher weights, or anything else that is not the student's"
    encoder = load_encoder(checkpoint)
    waves, mask = make_waves(padded=True)
    with torch.no_grad():
        features, frame_mask = model.eval().extract_features(waves, padding_mask=mask)
        torch.testing.assert_close(encoder(waves, padding_mask=mask).x[~frame_mask], features[~frame_mask])


def test_padded_batches_and_recipe_for_the_last_layer(tmp_path):
    """DistilHuBERT as it is, from a normalised pre-norm teacher: kind, widths and normalisation are taken over."""
    teacher = write_teacher(tmp_path, **LARGE, normalize=True)
    settings = {
        "criterion__groups": "[[1],[f,2],[3]]",
        "task__enable_padding": "true",
        "model__prediction_head": "split",
    }
    _, logs = distil(
        tmp_path / "run", write_data(tmp_path / "data"), teacher, recipe="distilhubert", shape={}, **settings
    )
    steps = [values for name, values in logs if name == "train_inner"]
    assert all(float(values["l1_f-2"]) > 0 for values in steps) and len(steps) == 4
    cfg = load_encoder(tmp_path / "run" / "checkpoints" / "checkpoint_last.pt").cfg
    assert cfg.layer_norm_first and cfg.normalize and cfg.encoder_embed_dim == 48 and cfg.encoder_layers == 2


def test_killed_run_resumes_where_it_was_and_ends_the_same(tmp_path):
    teacher = write_teacher(tmp_path)
    data = write_data(tmp_path / "data")  # two epochs of four batches, whose waves are cropped
    options = {
        "optimization__max_update": 8,
        "checkpoint__save_interval_updates": 2,
        "dataset__validate_interval_updates": 100,
        "+criterion.masking": "true",
        "common.seed": 3,
    }
    whole, _ = distil(tmp_path / "whole", data, teacher, **options)
    line = whole.args
    killed_line = [argument.replace(str(tmp_path / "whole"), str(tmp_path / "killed")) for argument in line]
    process = subprocess.Popen(
        killed_line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    last = tmp_path / "killed" / "checkpoints" / "checkpoint_last.pt"
    deadline = time.time() + 120
    while not last.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    updates = read_pickled(last)["optimizer_history"][-1]["num_updates"]
    assert 2 <= updates < 8, "killed too late to show anything"

    resumed, logs = run(killed_line)
    assert f"@ {updates} updates" in resumed.stdout
    steps = [int(values["num_updates"]) for name, values in logs if name == "train_inner"]
    assert steps == list(range(updates + 1, 9))
    one, other = read_pickled(tmp_path / "whole" / "checkpoints" / "checkpoint_last.pt"), read_pickled(last)
    assert find_differences(one, other) == []

    # torn, and started again: from the newest one that is whole, and no further than it was asked to
    os.truncate(last, last.stat().st_size // 2)
    shutil.copy(tmp_path / "whole" / "checkpoints" / "checkpoint_last.pt", last.with_name("checkpoint_2_8.pt"))
    again, logs = run(killed_line)
    assert "checkpoint_last.pt is cut short" in again.stdout and "checkpoint_2_8.pt, the newest that is" in again.stdout
    assert not any(name == "train_inner" for name, _ in logs) and "@ 8 updates" in again.stdout
    assert "all of optimization.max_update=8 updates are done" in again.stdout


MASKED_PREDICTION = """
common: {cpu: true, log_format: json, log_interval: 1, user_dir: "${fairseq_distill:user_dir}"}
task: {_name: hubert_pretraining, data: "???", labels: [km], label_rate: 400, sample_rate: 16000, min_sample_size: 400,
  max_sample_size: 16000, pad_audio: true, random_crop: false, normalize: false}
dataset: {batch_size: 4, num_workers: 0, disable_validation: true}
distributed_training: {ddp_backend: legacy_ddp, distributed_world_size: 1}
criterion: {_name: hubert, pred_masked_weight: 1.0, pred_nomask_weight: 0.5, loss_weights: [10.0]}
optimization: {max_update: 6, lr: [0.003]}
optimizer: {_name: adam}
lr_scheduler: {_name: fixed}
checkpoint: {no_epoch_checkpoints: true, save_dir: checkpoints}
model: {_name: speech_student, init: "???", like_init: all, mask_prob: 0.5, mask_length: 5, final_dim: 16}
"""


def test_stock_masked_prediction_trains_the_student(student, tmp_path):
    """Task hubert_pretraining and criterion hubert as they are; the student only replaces the model's name."""
    checkpoint, _, _ = student
    data = write_data(tmp_path / "data")
    for split in ("train", "valid"):
        frames = [int(row.split("\t")[1]) // 40 for row in (data / f"{split}.tsv").read_text().splitlines()[1:]]
        (data / f"{split}.km").write_text("".join(" ".join(str(i % 3) for i in range(n)) + "\n" for n in frames))
    (data / "dict.km.txt").write_text("0 1\n1 1\n2 1\n")
    (tmp_path / "masked.yaml").write_text(MASKED_PREDICTION)
    settings = {"task.data": data, "model.init": checkpoint, "hydra.run.dir": tmp_path / "run"}
    _, logs = run(command(tmp_path, "masked", settings))
    losses = [float(values["loss"]) for name, values in logs if name == "train_inner"]
    assert len(losses) == 6 and losses[-1] < losses[0]

    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(tmp_path / "run" / "checkpoints" / "checkpoint_last.pt")]
    )
    assert model.final_proj.out_features == 16 and model.cfg.encoder_embed_dim == 32
    before, after = load_encoder(checkpoint).state_dict(), model.state_dict()
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert "mask_emb" in moved and "encoder.layers.2.fc1.weight" in moved
    drift = max((before[key] - after[key]).abs().max().item() for key in before)
    assert drift < 0.2, "it started somewhere else than at the student"


def test_too_much_broken_audio_stops_with_a_count(tmp_path):
    data = write_data(tmp_path / "data")
    for index in range(3):
        (data / "audio" / f"train{index}.flac").write_bytes(b"no audio")
    done, _ = distil(tmp_path / "run", data, write_teacher(tmp_path), check=False)
    assert done.returncode != 0
    assert "3 of them cannot be used" in done.stdout and "task.max_broken" in done.stdout


def test_argparse_users_reach_the_task_through_user_dir(tmp_path):
    teacher, data = write_teacher(tmp_path), write_data(tmp_path / "data")
    line = [sys.executable, "-c", "from fairseq_cli.train import cli_main; cli_main()", str(data)]
    line += ["--user-dir", "fairseq_distill", "--task", "speech_distillation", "--criterion", "speech_distillation"]
    line += ["--arch", "speech_student", "--teacher", teacher, "--groups", "[[1],[2],[3]]", "--init", teacher]
    line += [
        "--like-init",
        "all",
        "--optimizer",
        "adam",
        "--lr",
        "0.001",
        "--max-update",
        "2",
        "--batch-size",
        "2",
        "--cpu",
    ]
    line += ["--save-dir", str(tmp_path / "saved"), "--no-epoch-checkpoints", "--num-workers", "0"]
    done = subprocess.run(
        line, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert load_encoder(tmp_path / "saved" / "checkpoint_last.pt").cfg.encoder_layers == 3
