"""speech_multitask through the real fairseq-hydra-train, and what its checkpoints are good for."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fairseq import checkpoint_utils

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.safe_load import read_pickled
from fairseq_distill.cli.main import main
from fairseq_distill.models.speech_multitask import SpeechMultitask
from fairseq_distill.multitask.model import load_multitask

from ..builders import write_data, write_teacher
from ..runs import distil, fine_tune, write_labelled, write_labels

CHECKPOINT = Path("run", "checkpoints", "checkpoint_last.pt")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(folder of a run of six updates on two tasks, its logs); data and teacher are gone, but for two waves."""
    folder = tmp_path_factory.mktemp("tuned")
    data, teacher = write_labelled(folder / "data"), write_teacher(folder, normalize=True)
    _, logs = fine_tune(
        folder / "run",
        data,
        teacher,
        optimization__max_update=6,
        model__freeze_updates=2,
        lr_scheduler__warmup_updates=1,
    )
    for number in range(2):
        shutil.copy(data / "audio" / f"train{number}.flac", folder / f"{number}.flac")
    shutil.rmtree(data)
    os.remove(teacher)
    return folder, logs


def test_each_task_is_logged(tuned):
    _, logs = tuned
    steps = [values for name, values in logs if name == "train_inner"]
    assert len(steps) == 6
    for values in steps:
        losses = [float(values[f"{task}_loss"]) for task in ("keyword", "speaker") if f"{task}_loss" in values]
        assert losses and float(values["loss"]) == pytest.approx(sum(losses), abs=2e-3)
    valid = [values for name, values in logs if name == "valid"]
    for task, labelled in (("keyword", 6), ("speaker", 5)):  # one of six speakers is not in training
        right = float(valid[-1][f"valid_{task}_accuracy"]) * labelled
        assert right == pytest.approx(round(right), abs=0.01)


def test_checkpoint_opens_without_data_and_without_what_it_started_from(tuned):
    folder, _ = tuned
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(folder / CHECKPOINT)])
    assert isinstance(model, SpeechMultitask)
    assert task.classes == {"keyword": ["no", "yes"], "speaker": ["ann", "bob", "cid"]} == model.classes
    assert cfg.model.init == "" and cfg.model.encoder_embed_dim == 48 and cfg.model.normalize and task.normalize
    ours = load_multitask(folder / CHECKPOINT)
    assert not ours.training and ours.encoder.normalize_input
    wave = torch.from_numpy(soundfile.read(folder / "0.flac", dtype="float32")[0]).unsqueeze(0)
    normal = torch.nn.functional.layer_norm(wave, wave.shape)
    with torch.no_grad():
        theirs = model.eval()(normal)
        for name, scores in ours(wave).scores.items():
            torch.testing.assert_close(scores, theirs.scores[name])


def test_the_encoder_inside_opens_like_any_other(tuned, capsys):
    folder, _ = tuned
    encoder, whole = load_encoder(folder / CHECKPOINT), load_multitask(folder / CHECKPOINT)
    wave = torch.from_numpy(soundfile.read(folder / "0.flac", dtype="float32")[0]).unsqueeze(0)
    with torch.no_grad():
        ours, theirs = encoder(wave), whole(wave).encoder
    for one, other in zip(ours.hidden, theirs.hidden):
        torch.testing.assert_close(one, other)
    assert main(["info", str(folder / CHECKPOINT)]) == 0
    assert "speech_multitask (family hubert), 3 layers x 48" in capsys.readouterr().out


def test_predict_prints_probabilities_embeddings_and_a_cosine(tuned, capsys):
    folder, _ = tuned
    files = [str(folder / "0.flac"), str(folder / "1.flac")]
    arguments = ["predict", str(folder / CHECKPOINT), *files]
    assert main([*arguments, "--json", "--embed", str(folder / "e.npz")]) == 0
    printed = json.loads(capsys.readouterr().out)
    model = load_multitask(folder / CHECKPOINT)
    embeddings = []
    for path, row in zip(files, printed["files"]):
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0]).unsqueeze(0)
        with torch.no_grad():
            out = model(wave)
        embeddings.append(out.embeddings["speaker"][0].numpy())
        expected = dict(zip(["no", "yes"], out.scores["keyword"][0].softmax(0).tolist()))
        assert row["file"] == path and row["labels"] == {"keyword": pytest.approx(expected, abs=1e-5)}
        chances = list(row["labels"]["keyword"].values())
        assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1)
    one, other = embeddings
    cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert printed["cosine"] == {"speaker": pytest.approx(cosine, abs=1e-5)}
    with np.load(folder / "e.npz") as written:
        assert written["files"].tolist() == files and set(written) == {"files", "keyword", "speaker"}
        np.testing.assert_allclose(written["speaker"], np.stack(embeddings), atol=1e-5)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"cosine {cosine:.3f} between the two files" in text and files[1] in text
    assert main([*arguments, files[0]]) == 0 and "cosine" not in capsys.readouterr().out


def test_predict_says_what_it_cannot_use(tuned, tmp_path, capsys):
    folder, _ = tuned
    wrong = tmp_path / "8k.wav"
    soundfile.write(wrong, 0.1 * np.ones(4000) * np.sin(np.arange(4000)), 8000)
    for arguments, message in [
        ([folder / CHECKPOINT, wrong], "8k.wav cannot be used: 8000 Hz instead of 16000 Hz"),
        ([folder / CHECKPOINT, tmp_path / "none.wav"], "none.wav cannot be used"),
        ([write_teacher(tmp_path), wrong], "holds hubert, and this needs a model that was fine-tuned"),
        ([folder / CHECKPOINT, wrong, "--embed", "e.txt"], "must end in .npz"),
        ([folder / CHECKPOINT, wrong, "--top", "0"], "--top 0: give a number of labels"),
    ]:
        assert main(["predict", *map(str, arguments)]) == 1
        assert message in capsys.readouterr().err


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path):
    data, teacher = write_labelled(tmp_path / "data"), write_teacher(tmp_path)
    options = {
        "lr_scheduler.total_num_update": 6,
        "lr_scheduler.warmup_updates": 1,
        "model.freeze_updates": 1,
        "task.max_sample_size": 6000,
        "task.speeds": "[0.9,1.0,1.1]",
        "criterion.weighting": "uncertainty",
        "dataset.batch_size": 3,
    }
    fine_tune(tmp_path / "whole", data, teacher, optimization__max_update=6, **options)
    fine_tune(tmp_path / "parts", data, teacher, optimization__max_update=2, **options)
    done, logs = fine_tune(tmp_path / "parts", data, teacher, optimization__max_update=6, **options)
    assert len([1 for name, _ in logs if name == "train_inner"]) == 4, done.stdout[-2000:]
    whole, parts = (read_pickled(tmp_path / name / "checkpoints" / "checkpoint_last.pt") for name in ("whole", "parts"))
    for key, value in whole["model"].items():
        torch.testing.assert_close(parts["model"][key], value, msg=key)
    start = read_pickled(tmp_path / "teacher.pt")["model"]
    assert not torch.equal(whole["model"]["encoder.encoder.layers.0.fc1.weight"], start["encoder.layers.0.fc1.weight"])
    assert whole["model"]["uncertainty.log_variance"].abs().max() > 0

    write_labels(data, "train", keyword=["on", "off"] * 4)
    done, _ = fine_tune(tmp_path / "parts", data, teacher, check=False, optimization__max_update=8, **options)
    assert done.returncode != 0 and "trained for other classes than the training set has now" in done.stdout


def test_tasks_from_two_folders_on_a_distilled_student_with_noise(tmp_path):
    words, people = write_data(tmp_path / "words"), write_data(tmp_path / "people", lengths=(8500, 7500))
    for split in ("train", "valid"):
        write_labels(words, split, word=["up", "down"] * 4)
        write_labels(people, split, speaker=["ann", "bob"] * 2)
    distil(tmp_path / "student", words, write_teacher(tmp_path), optimization__max_update=1)
    student = tmp_path / "student" / "checkpoints" / "checkpoint_last.pt"
    tasks = (
        f"[{{name: keyword, kind: classification, label: word, sampling: 1, data: {words}}}, "
        f"{{name: speaker, kind: verification, softmax: aam, pooling: attentive, sampling: 2, data: {people}}}]"
    )
    options = {"task__noise": people / "train.tsv", "+task.noise_snr": "[5,10]", "lr_scheduler__warmup_updates": 1}
    done, logs = fine_tune(tmp_path / "run", words, student, task__tasks=tasks, model__freeze="all", **options)
    valid = [values for name, values in logs if name == "valid"][-1]
    assert {"valid_keyword_accuracy", "valid_speaker_accuracy"} <= set(valid)
    model = load_multitask(tmp_path / CHECKPOINT)
    assert model.classes == {"keyword": ["down", "up"], "speaker": ["ann", "bob"]}
    before = read_pickled(student)["model"]
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[key]), "a frozen encoder moved"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task__tasks__0__kind": "guess"}, "task.tasks.0.kind=guess is none of classification, verification"),
        ({"task__tasks__1__label": "voice"}, "train.voice: No such file or directory"),
        ({"model__init": "nowhere.pt"}, "model.init=nowhere.pt: no such file"),
        ({"+task.sample_rate": 8000}, "task.sample_rate=8000, but"),
    ],
)
def test_mistakes_are_sentences(tmp_path, options, message):
    done, _ = fine_tune(
        tmp_path / "run", write_labelled(tmp_path / "data"), write_teacher(tmp_path), check=False, **options
    )
    assert done.returncode != 0 and message in done.stdout, done.stdout[-1500:]


@pytest.mark.parametrize("recipe, label", [("kws_speech_commands", "keyword"), ("sv_voxceleb1", "speaker")])
def test_recipes_of_the_public_sets_run(recipe, label, tmp_path):
    data, teacher = write_labelled(tmp_path / "data"), write_teacher(tmp_path)
    _, logs = fine_tune(
        tmp_path / "run", data, teacher, recipe=recipe, optimization__max_update=2, optimization__update_freq="[1]"
    )
    steps = [values for name, values in logs if name == "train_inner"]
    assert len(steps) == 2 and all(float(values[f"{label}_loss"]) > 0 for values in steps)
    assert list(load_multitask(tmp_path / CHECKPOINT).classes) == [label]


def test_validation_speakers_who_are_not_in_training_need_validation_switched_off(tmp_path):
    data, teacher = write_labelled(tmp_path / "data"), write_teacher(tmp_path)
    write_labels(data, "valid", speaker=["eve", "fay"] * 4)
    options = dict(recipe="sv_voxceleb1", optimization__max_update=2, optimization__update_freq="[1]")
    done, _ = fine_tune(tmp_path / "run", data, teacher, check=False, **options)
    assert done.returncode != 0 and "set dataset.disable_validation=true" in done.stdout, done.stdout[-1500:]
    fine_tune(tmp_path / "run", data, teacher, dataset__disable_validation="true", **options)
    assert "eve" not in load_multitask(tmp_path / CHECKPOINT).classes["speaker"]
