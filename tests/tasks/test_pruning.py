"""DPHuBERT's two stages in whole runs: prune while distilling, cut, distil again, fine-tune, prune again."""

import json
import math

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.safe_load import read_pickled
from fairseq_distill.cli.main import main
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.size import count_parameters

from ..builders import LARGE, SMALL, WAVLM, make_waves, randomize, write_data, write_teacher
from ..checkpoints import layouts
from ..runs import CTC, command, distil, last, run, train, validate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data, a teacher, and a finished stage 1."""
    folder = tmp_path_factory.mktemp("dphubert")
    write_data(folder / "data")
    teacher = write_teacher(folder)
    _, logs = train(folder / "stage1", folder / "data", teacher)
    (folder / "logs.json").write_text(json.dumps(logs))
    return folder


def test_stage_1_reaches_its_target_and_logs_the_way(folder):
    steps = [values for name, values in json.loads((folder / "logs.json").read_text()) if name == "train_inner"]
    sparsity = [float(values["sparsity"]) for values in steps]
    target = [float(values["target_sparsity"]) for values in steps]
    assert 0.05 < sparsity[0] < 0.3 and abs(sparsity[-1] - 0.5) < 0.1
    assert target[:11] == pytest.approx([0.05 * n for n in range(11)], abs=1e-3) and target[-1] == 0.5
    multipliers = [float(values["lambda1"]) for values in steps]
    above = next(n for n, value in enumerate(target) if value > sparsity[n])
    assert multipliers[above + 3] < multipliers[above + 1], "the first multiplier falls while the student is too large"
    assert float(steps[-1]["lambda2"]) > 0
    for name, most in (("conv_0", 24), ("heads_3", 4), ("ffn_3", 80)):
        assert 0 < float(steps[-1][name]) <= most
    rates = [float(steps[0][f"lr_{name}"]) for name in ("default", "gates", "multipliers")]
    assert rates[1] == rates[2] == pytest.approx(500 * rates[0])


def test_pruned_student_has_the_same_held_out_loss_and_stage_2_goes_on_from_there(folder, capsys):
    stage1, pruned = last(folder / "stage1"), folder / "pruned.pt"
    assert main(["prune", str(stage1), str(pruned)]) == 0
    assert "FFN neurons" in capsys.readouterr().out
    before, after = validate(stage1, folder / "data"), validate(pruned, folder / "data")
    for name in ("valid_loss", "valid_l1_f", "valid_cosine_1", "valid_l1_3"):
        assert float(after[name]) == pytest.approx(float(before[name]), abs=2e-4)
    teacher = str(folder / "teacher.pt")
    _, logs = train(
        folder / "stage2", folder / "data", teacher, "dphubert_stage2", model__init=pruned, optimization__max_update=20,
        optimization__lr="[0.002]", lr_scheduler__warmup_updates=1,
    )  # fmt: skip
    assert not any("sparsity" in values for _, values in logs)
    end = [values for name, values in logs if name == "valid"][-1]
    assert float(end["valid_loss"]) < float(after["valid_loss"]) - 0.01
    shapes = {k: v.shape for k, v in read_pickled(pruned)["model"].items()}
    saved = read_pickled(last(folder / "stage2"))["model"]
    assert {k: v.shape for k, v in saved.items()} == shapes and "prediction_head.projections.1.weight" in shapes


def test_interrupted_stage_1_goes_on_as_if_it_had_not_been(folder, tmp_path):
    data = write_data(tmp_path / "data", lengths=(8000,), copies=20)  # one epoch, nothing cropped at random
    teacher = str(folder / "teacher.pt")
    schedule = {
        f"optimizer.groups.{name}.lr_scheduler.total_num_update": 6 for name in ("default", "gates", "multipliers")
    }
    train(tmp_path / "whole", data, teacher, optimization__max_update=6, **schedule)
    train(tmp_path / "parts", data, teacher, optimization__max_update=3, **schedule)
    train(tmp_path / "parts", data, teacher, optimization__max_update=6, **schedule)
    whole, parts = (read_pickled(last(tmp_path / name))["model"] for name in ("whole", "parts"))
    for name in ("gates.kinds.ffn.log_alpha", "size_loss.lambda1", "size_loss.lambda2"):
        torch.testing.assert_close(whole[name], parts[name])
    assert float(whole["size_loss.lambda1"]) != 0


@pytest.mark.parametrize("family", ["pre-norm", "wavlm"])
def test_the_other_families_go_through_both_stages(folder, tmp_path, family):
    if family == "wavlm":
        torch.manual_seed(0)
        weights = randomize(SpeechEncoder(EncoderConfig.from_settings({**SMALL, **WAVLM}))).state_dict()
        teacher = str(layouts.write_wavlm(tmp_path / "wavlm.pt", weights))
    else:
        teacher = write_teacher(tmp_path, **LARGE)
    train(tmp_path / "stage1", folder / "data", teacher, "dphubert", optimization__max_update=25)
    pruned = tmp_path / "pruned.pt"
    assert main(["prune", str(last(tmp_path / "stage1")), str(pruned)]) == 0
    train(
        tmp_path / "stage2",
        folder / "data",
        teacher,
        "dphubert_stage2",
        model__init=pruned,
        optimization__max_update=2,
    )
    assert load_encoder(last(tmp_path / "stage2")).cfg.ffn_dims == load_encoder(pruned).cfg.ffn_dims


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        ({"common.bf16": "true", "common.fp16_no_flatten_grads": "false"}, "common.fp16_no_flatten_grads=true"),
        ({"model.target_sparsity": 0.99}, "model.target_sparsity=0.99 cannot be reached"),
        ({"model.prune": "[conv,layers]"}, "layers is none of conv, heads, ffn, attention_layers, ffn_layers"),
        (
            {"task.update_seconds": 10, "dataset.max_tokens": "null", "dataset.batch_size": 2},
            "task.update_seconds needs dataset.max_tokens",
        ),
    ],
)
def test_what_would_not_prune_is_refused_before_training(folder, tmp_path, overrides, sentence):
    done, logs = train(tmp_path, folder / "data", str(folder / "teacher.pt"), check=False, **overrides)
    assert done.returncode != 0 and sentence in done.stdout
    assert not any(name == "train_inner" for name, _ in logs)


def test_a_recipe_whose_optimizer_has_no_groups_is_refused(folder, tmp_path):
    overrides = {"+model.prune": "[ffn]"}
    done, _ = distil(tmp_path, folder / "data", str(folder / "teacher.pt"), check=False, **overrides)
    assert done.returncode != 0 and "model.prune needs optimizer._name=composite" in done.stdout


def test_stage_2_refuses_a_student_whose_gates_are_not_cut(folder, tmp_path):
    done, _ = train(
        tmp_path,
        folder / "data",
        str(folder / "teacher.pt"),
        "dphubert_stage2",
        False,
        model__init=last(folder / "stage1"),
    )
    assert done.returncode != 0 and "still has its gates: cut them first" in done.stdout


def test_update_seconds_sets_the_accumulation(folder, tmp_path):
    done, logs = train(
        tmp_path, folder / "data", str(folder / "teacher.pt"), task__update_seconds=5, optimization__max_update=2
    )
    assert "an update is 4 x 1 batches of up to 1.25 s = 5 s of audio" in done.stdout
    assert read_pickled(last(tmp_path))["cfg"]["optimization"]["update_freq"] == [4]


@torch.no_grad()
def test_gated_student_loads_and_is_deterministic(folder):
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(last(folder / "stage1"))])
    encoder, (waves, mask) = load_encoder(last(folder / "stage1")), make_waves(padded=True)
    features, frame_mask = model.eval().extract_features(waves, padding_mask=mask)
    torch.testing.assert_close(encoder(waves, padding_mask=mask).x[~frame_mask], features[~frame_mask])
    sampled = model.train().extract_features(waves, padding_mask=mask)[0]
    assert not torch.allclose(sampled, features) and math.isfinite(float(sampled.sum()))


def test_pruned_student_fine_tunes_and_is_pruned_again_from_there(folder, tmp_path):
    pytest.importorskip("editdistance", reason="fairseq's ctc criterion needs it to validate")
    first = tmp_path / "first.pt"
    assert main(["prune", str(last(folder / "stage1")), str(first)]) == 0
    data = write_data(tmp_path / "data")
    for split in ("train", "valid"):
        (data / f"{split}.ltr").write_text("A B |\n" * 8)
    (data / "dict.ltr.txt").write_text("A 1\nB 1\n| 1\n")
    (tmp_path / "ctc.yaml").write_text(CTC)
    settings = {
        "task.data": data,
        "model.w2v_path": first,
        "hydra.run.dir": tmp_path / "tuned",
        "optimization.max_update": 3,
    }
    run(command(tmp_path, "ctc", settings))

    tuned, teacher = last(tmp_path / "tuned"), str(folder / "teacher.pt")
    train(tmp_path / "again", data, teacher, model__init=tuned, model__target_sparsity=0.2, optimization__max_update=25)
    second = tmp_path / "second.pt"
    assert main(["prune", str(last(tmp_path / "again")), str(second)]) == 0
    before, after = load_encoder(tuned), load_encoder(second)
    counts = [count_parameters(encoder)["encoder"] for encoder in (before, after)]
    assert counts[1] < 0.95 * counts[0], "target sparsity counts from what the second pruning started with"
    assert all(b <= a for a, b in zip(before.cfg.ffn_dims, after.cfg.ffn_dims))
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(second)])
    waves, mask = make_waves(padded=True)
    with torch.no_grad():
        features, frame_mask = model.eval().extract_features(waves, padding_mask=mask)
        torch.testing.assert_close(after(waves, padding_mask=mask).x[~frame_mask], features[~frame_mask])


def test_training_in_half_precision_keeps_gates_in_float32(folder, tmp_path):
    options = {"common__bf16": "true", "common__fp16_no_flatten_grads": "true", "optimization__max_update": 4}
    _, logs = train(tmp_path, folder / "data", str(folder / "teacher.pt"), **options)
    saved = read_pickled(last(tmp_path))["model"]
    weight = saved["encoder.layers.0.fc1.weight"]  # fairseq writes float32 whatever it trained in
    assert torch.equal(weight, weight.bfloat16().float()), "the run was not in half precision"
    for name in ("gates.kinds.ffn.log_alpha", "gates.kinds.conv.log_alpha", "size_loss.lambda1"):
        assert saved[name].dtype == torch.float32
        assert (saved[name] != saved[name].bfloat16().float()).float().mean() > 0.9, "rounded on the way"
    losses = [float(values["loss"]) for name, values in logs if name == "train_inner"]
    assert len(losses) == 4 and all(map(math.isfinite, losses))
