"""A network of 8 kHz is, in every command, the same network of 16 kHz on waves that say so; other rates are refused."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from fairseq import tasks
from omegaconf import OmegaConf

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.checkpoints.safe_load import read_pickled
from fairseq_distill.cli.main import main
from fairseq_distill.encoder.size import frame_rate, measure_parts
from fairseq_distill.errors import UserError
from fairseq_distill.evaluation.ctc import load_recogniser
from fairseq_distill.layer_clusters.automatic import ClusterRequest, find_groups
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig
from fairseq_distill.multitask.model import load_multitask
from fairseq_distill.shapes.measure import RUNS, measure_real_time_factor

from .builders import SMALL, build_dictionary, build_encoder, write_teacher
from .checkpoints import layouts
from .pruning.test_prune_command import write_student
from .runs import KEYWORDS, SPEAKERS, distil, fine_tune, last, write_labelled, write_labels

CONVOLUTIONS = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)]"  # a frame every 160 samples: 50 a second at 8 kHz
RATES = {"8k": 8000, "16k": 16_000}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with 8k.pt and 16k.pt, of the same weights, and manifests in 8k/ and 16k/, of the same samples."""
    folder = tmp_path_factory.mktemp("rates")
    for name, rate in RATES.items():
        write_teacher(folder, f"{name}.pt", sample_rate=rate, conv_feature_layers=CONVOLUTIONS)
        data = write_labelled(folder / name, lengths=(9000, 8800, 8600, 8700), rate=rate)
        (data / "test.tsv").write_text((data / "valid.tsv").read_text())
        write_labels(data, "test", keyword=KEYWORDS, speaker=SPEAKERS)
        write_labels(data, "train", ltr=["N O | O N |"] * 8)
        (data / "dict.ltr.txt").write_text("N 1\nO 1\n| 1\n")
        write_recogniser(folder / f"{name}.ctc.pt", rate)
    return folder


def write_recogniser(path: Path, rate: int) -> None:
    """A small HuBERT with CTC, whose greedy tokens are letters."""
    layouts.write_hubert_ctc(path, layouts.build_hubert(conv_feature_layers=CONVOLUTIONS))
    state = torch.load(path, weights_only=False)
    state["cfg"]["task"].update(sample_rate=rate, labels=["ltr"])
    letters = build_dictionary(0)
    for index in range(9):
        letters.add_symbol("NO|ABCDEF"[index])
    state["task_state"]["target_dictionary"] = letters
    torch.save(state, path)


def list_words(command: str, folder: Path, network: str, speech: str, split: str = "train"):
    """The words of a command for the network of one rate and the speech of another."""
    checkpoint, data = folder / f"{network}.pt", folder / speech
    if command == "evaluate ctc":
        checkpoint = folder / f"{network}.ctc.pt"
    words = {
        "units": [checkpoint, data / f"{split}.tsv", "--layer", 2, "--clusters", 5, "--out", folder / "out"],
        "clusters": [checkpoint, data / f"{split}.tsv", "--clusters", 2, "--out", folder / "out.json"],
        "similarity": [checkpoint, checkpoint, data / f"{split}.tsv", "--json"],
        "evaluate probe": [checkpoint, "--data", data, "--json", "--cache", folder / "cache"],
        "evaluate ctc": [checkpoint, "--data", data, "--split", split, "--json"],
    }
    return [*command.split(), *map(str, words[command])]


COMMANDS = ["units", "clusters", "similarity", "evaluate probe", "evaluate ctc"]


def compute(command: str, world: Path, rate: str, out: Path, capsys):
    """What the command finds, without names of files and what is told in seconds."""
    words = [word.replace(str(world / "out"), str(out)) for word in list_words(command, world, rate, rate)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    if command == "units":
        facts = json.loads((out / "units.json").read_text())
        assert facts["frames_per_second"] == (50 if rate == "8k" else 100)
        assert facts["teacher"]["sample_rate"] == RATES[rate]
        assert f"task.label_rate={facts['frames_per_second']:g} task.sample_rate={RATES[rate]}" in printed
        return (out / "train.km").read_text()
    found = json.loads(Path(f"{out}.json").read_text() if command == "clusters" else printed)
    if command == "clusters":
        assert found["about"]["teacher"]["sample_rate"] == RATES[rate]
    keys = {
        "clusters": ["groups", "similarity", "tree"],
        "similarity": ["values", "frames"],
        "evaluate probe": ["accuracy", "layer_weights", "train"],
        "evaluate ctc": ["cer", "wer", "utterances"],
    }
    return {key: found[key] for key in keys[command]}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_samples_give_the_same_at_either_rate(command, world, tmp_path, capsys):
    low, high = (compute(command, world, rate, tmp_path / rate, capsys) for rate in RATES)
    assert low == high and len(low) > 1


@pytest.mark.parametrize("rows", ["all", "one"])
@pytest.mark.parametrize("network, speech", [("8k", "16k"), ("16k", "8k")])
@pytest.mark.parametrize("command", COMMANDS)
def test_speech_at_another_rate_is_refused_with_the_way_out(command, network, speech, rows, world, tmp_path, capsys):
    words = list_words(command, world, network, speech)
    if rows == "one":  # of a single file, the share that may be broken is all
        for split in ("train", "valid", "test"):
            lines = (world / speech / f"{split}.tsv").read_text().splitlines()
            (tmp_path / f"{split}.tsv").write_text("\n".join(lines[:2]) + "\n")
            write_labels(tmp_path, split, keyword=["yes"], ltr=["N O |"])
        write_two_classes(tmp_path)
        words = [word.replace(str(world / speech), str(tmp_path)) for word in words]
    assert main(words) == 1
    found, wanted = RATES[speech], RATES[network]
    message = capsys.readouterr().err
    expected = rf"train\d.flac.*{found} Hz instead of {wanted} Hz: resample it, ffmpeg -i IN -ar {wanted} OUT"
    assert re.search(expected, message), message
    assert not list((world / "out").glob("*")) and not (world / "out.json").exists()


def test_a_single_file_of_silence_is_no_labels(world, tmp_path, capsys):
    """A row that cannot be used has the unit of silence; where that is all of a manifest, nothing is written."""
    root, row = (world / "16k" / "valid.tsv").read_text().splitlines()[:2]
    (tmp_path / "valid.tsv").write_text(f"{root}\n{row}\n")
    words = list_words("units", world, "8k", "8k")
    words[3:3] = [str(tmp_path / "valid.tsv")]
    assert main(words) == 1
    assert "valid0.flac (16000 Hz instead of 8000 Hz: resample it" in capsys.readouterr().err
    assert not list((world / "out").glob("*"))


def write_two_classes(folder: Path) -> None:
    """The same file twice, as the probe wants two classes in train."""
    root, row = (folder / "train.tsv").read_text().splitlines()
    (folder / "train.tsv").write_text(f"{root}\n{row}\n{row}\n")
    write_labels(folder, "train", keyword=["yes", "no"], ltr=["N O |", ""])


def test_networks_of_two_rates_are_not_compared(world, capsys):
    for speech in RATES:
        words = [str(world / name) for name in ("8k.pt", "16k.pt", f"{speech}/train.tsv")]
        assert main(["similarity", *words]) == 1
        assert "the encoders take waves at 8000 Hz and 16000 Hz" in capsys.readouterr().err


def test_groups_found_at_another_rate_are_not_taken_again(world, tmp_path):
    teacher, file = tmp_path / "teacher.pt", tmp_path / "clusters.json"
    shutil.copy(world / "16k.pt", teacher)
    request = ClusterRequest([str(teacher)], str(world / "16k" / "train.tsv"), 5.0, 2)
    groups = find_groups(request, tmp_path)
    lines = file.read_text()
    assert '"sample_rate": 16000' in lines
    file.write_text(lines.replace(', "sample_rate": 16000', ""))  # as it was before rates were told apart
    assert find_groups(request, tmp_path) == groups and "sample_rate" not in file.read_text()
    shutil.copy(world / "8k.pt", teacher)
    with pytest.raises(UserError, match=r"clusters.json was made for other settings \(sample_rate differ\)"):
        find_groups(request, tmp_path)


def test_info_counts_a_second_of_the_checkpoints_own_audio(world, capsys):
    found = {}
    for name, seconds in (("8k", "4"), ("16k", "2")):  # as many samples
        assert main(["info", str(world / f"{name}.pt"), "--seconds", seconds, "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert (found["8k"]["sample_rate"], found["8k"]["frames_per_second"]) == (8000, 50)
    assert (found["16k"]["sample_rate"], found["16k"]["frames_per_second"]) == (16_000, 100)
    assert found["8k"]["parts"] == found["16k"]["parts"]
    assert 2 * found["8k"]["macs_per_second"] == found["16k"]["macs_per_second"]
    assert main(["info", str(world / "8k.pt")]) == 0
    assert "waves at 8000 Hz, not normalised, 50 frames a second" in capsys.readouterr().out


def test_the_wave_that_is_timed_has_the_encoders_rate(monkeypatch):
    encoder, heard = build_encoder(sample_rate=8000), []
    monkeypatch.setattr(encoder, "forward", lambda wave: heard.append(wave.shape))
    measure_real_time_factor(encoder, 0.5)
    assert heard == [(1, 4000)] * (1 + RUNS)


def test_shapes_are_measured_and_trained_at_the_teachers_rate(world, capsys):
    rows = {}
    for name, seconds in (("8k", "4"), ("16k", "2")):
        options = [
            "--teacher",
            str(world / f"{name}.pt"),
            "--params",
            "60%",
            "--tolerance",
            "30%",
            "--seconds",
            seconds,
        ]
        assert main(["shapes", *options, "--json"]) == 0
        rows[name] = json.loads(capsys.readouterr().out)
    assert rows["8k"]["kind"]["sample_rate"] == 8000 and len(rows["8k"]["shapes"]) == len(rows["16k"]["shapes"]) > 3
    for low, high in zip(rows["8k"]["shapes"], rows["16k"]["shapes"]):
        assert low["conv_feature_layers"] == high["conv_feature_layers"]
        assert 2 * low["macs_per_second"] == high["macs_per_second"]
        assert low["overrides"] == ["+task.sample_rate=8000", *high["overrides"]]


def test_a_file_that_names_no_rate_is_of_16_khz_and_a_fine_tuned_one_of_what_it_heard_last(world, tmp_path):
    assert read_checkpoint(write_teacher(tmp_path)).sample_rate == 16_000
    checkpoint = world / "8k.ctc.pt"  # around a HuBERT whose own settings say 16 kHz
    recogniser = load_recogniser(checkpoint, world / "8k")
    assert read_checkpoint(checkpoint).sample_rate == recogniser.model.encoder.cfg.sample_rate == 8000
    layouts.write_wav2vec_ctc(tmp_path / "old.pt", layouts.build_wav2vec2(), argparse_era=True)
    state = torch.load(tmp_path / "old.pt", weights_only=False)
    state["args"].sample_rate = 8000
    torch.save(state, tmp_path / "old.pt")
    assert read_checkpoint(tmp_path / "old.pt").sample_rate == 8000


@pytest.mark.parametrize("rate", [-1, 0.5, 8000.5, float("inf"), float("nan"), 10**400, "fast", [8000]])
def test_a_rate_that_cannot_be_is_refused(rate, world, tmp_path):
    state = torch.load(world / "8k.pt", weights_only=False)
    state["cfg"]["task"]["sample_rate"] = rate
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match="x.pt cannot be used: "):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("label_rate, expected", [(25.0, 25.0), (None, 50.0), (-1, 50.0)])
def test_units_have_the_rate_of_the_task_or_one_for_each_frame(label_rate, expected):
    """-1 is fairseq's for labels of a whole utterance."""
    cfg = SpeechStudentConfig(**{**SMALL, "conv_feature_layers": CONVOLUTIONS})
    settings = SimpleNamespace(sample_rate=8000, label_rate=label_rate)
    task = SimpleNamespace(cfg=settings, state=SimpleNamespace(dictionaries=[build_dictionary()]))
    student = SpeechStudent.build_model(OmegaConf.structured(cfg), task)
    assert (student.cfg.sample_rate, student.cfg.label_rate) == (8000, expected)
    assert student.feat2tar_ratio == expected / 50


@pytest.fixture(scope="module")
def student(world):
    """A student of 8k.pt and its units, of two updates."""
    labels, data = world / "units", world / "8k"
    manifests = [str(data / f"{split}.tsv") for split in ("train", "valid")]
    words = ["units", str(world / "8k.pt"), *manifests, "--layer", "2", "--clusters", "6", "--out", str(labels)]
    assert main(words) == 0
    options = {
        "+task.sample_rate": 8000,
        "+task.label_dir": labels,
        "+criterion.masked_prediction": 1.0,
        "optimization.max_update": 2,
    }
    _, logs = distil(world / "student", data, str(world / "8k.pt"), **options)
    steps = [values for name, values in logs if name == "train_inner"]
    assert len(steps) == 2 and all(float(values["masked_prediction"]) > 0 for values in steps)
    return last(world / "student")


def test_a_students_file_holds_its_rate_and_is_read_at_it(student, world, capsys):
    cfg = read_pickled(student)["cfg"]
    assert cfg["task"]["sample_rate"] == cfg["model"]["sample_rate"] == 8000 and cfg["model"]["label_rate"] == 50
    encoder = load_encoder(student)
    assert encoder.cfg.sample_rate == 8000 and frame_rate(encoder.cfg) == 50
    for speech, code in (("8k", 0), ("16k", 1)):
        assert main(["similarity", str(student), str(world / "8k.pt"), str(world / speech / "valid.tsv")]) == code
    assert "valid.tsv: 2 of 8 files cannot be used" in capsys.readouterr().err
    network, _ = build_stock_fine_tuning(student, world, 8000)
    assert network.w2v_encoder.w2v_model.cfg.sample_rate == 8000


def build_stock_fine_tuning(student, world, rate, from_checkpoint=False):
    """hubert_ctc around a student, in the stock task that reads audio at this rate: (model, the run's settings)."""
    task = {"_name": "audio_finetuning", "data": str(world / "8k"), "labels": "ltr", "sample_rate": rate}
    model = {"_name": "hubert_ctc", "w2v_path": str(student), "normalize": False, "data": str(world / "8k")}
    run = OmegaConf.create({"task": task, "model": model})
    return tasks.setup_task(run.task).build_model(run.model, from_checkpoint), run


def test_stock_fine_tuning_on_audio_at_another_rate_is_refused(student, world):
    """fairseq reads 16 kHz unless told otherwise, and asks no encoder what it was trained on."""
    with pytest.raises(UserError, match=r"task.sample_rate=16000, but model.w2v_path=.*last.pt was trained at 8000 Hz"):
        build_stock_fine_tuning(student, world, 16_000)
    network, _ = build_stock_fine_tuning(student, world, 16_000, from_checkpoint=True)  # what is trained already opens
    assert network.w2v_encoder.w2v_model.cfg.sample_rate == 8000


def test_a_pruned_student_keeps_its_rate_and_counts_a_second_of_it(tmp_path, capsys):
    write_student(tmp_path / "stage1.pt", sample_rate=8000)
    state = torch.load(tmp_path / "stage1.pt", weights_only=False)
    state["cfg"]["task"]["sample_rate"] = 8000
    torch.save(state, tmp_path / "stage1.pt")
    assert main(["prune", str(tmp_path / "stage1.pt"), str(tmp_path / "pruned.pt")]) == 0
    pruned, whole = (load_encoder(tmp_path / f"{name}.pt").cfg for name in ("pruned", "stage1"))
    assert pruned.sample_rate == whole.sample_rate == 8000
    macs = [
        sum(part.macs for part in measure_parts(cfg.with_settings(sample_rate=16_000), 5)) / 10
        for cfg in (pruned, whole)
    ]
    assert f"{macs[0] / 1e6:,.1f} of {macs[1] / 1e6:,.1f} M" in capsys.readouterr().out


def test_fine_tuning_goes_on_at_the_students_rate(student, world, tmp_path, capsys):
    """With both augmentations; its heads and predictions refuse files at another rate."""
    low, high = world / "8k", world / "16k"
    done, _ = fine_tune(tmp_path / "refused", high, student, check=False)
    assert done.returncode != 0
    assert "task.sample_rate=16000, but model.init=" in done.stdout and "was trained at 8000 Hz" in done.stdout
    options = {"+task.sample_rate": 8000, "task.speeds": "[0.9,1.1]", "task.noise": low / "valid.tsv"}
    fine_tune(tmp_path / "run", low, student, optimization__max_update=2, **options)
    tuned = last(tmp_path / "run")
    assert load_multitask(tuned).cfg.sample_rate == load_encoder(tuned).cfg.sample_rate == 8000
    state = torch.load(tuned, weights_only=False)
    del state["cfg"]["model"]["sample_rate"]  # as files were before
    torch.save(state, tmp_path / "before.pt")
    assert load_multitask(tmp_path / "before.pt").cfg.sample_rate == 8000
    for speech, code in ((low, 0), (high, 1)):
        wave = str(speech / "audio" / "valid0.flac")
        assert main(["evaluate", "heads", str(tuned), "--data", str(speech)]) == code
        assert main(["predict", str(tuned), wave]) == code
    errors = capsys.readouterr().err
    assert f"{wave} cannot be used: 16000 Hz instead of 8000 Hz: resample it, ffmpeg -i IN -ar 8000 OUT" in errors
    assert errors.count("16000 Hz instead of 8000 Hz") >= 2
    assert soundfile.info(wave).samplerate == 16_000
