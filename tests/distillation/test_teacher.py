"""Targets from frozen teachers; where a student starts; its heads."""

import dataclasses

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.distillation.heads import LinearHeads, SplitHeads
from fairseq_distill.distillation.teacher import Teacher
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.errors import UserError
from fairseq_distill.initialization.start import copy_weights, shape_like

from ..builders import LARGE, SMALL, build_student, make_waves, save_teacher


def test_targets_are_group_means_of_the_teachers_hidden_states(tmp_path):
    path = save_teacher(tmp_path / "teacher.pt")
    waves, mask = make_waves(padded=True)
    with torch.no_grad():
        out = load_encoder(path)(waves, padding_mask=mask)
    targets = Teacher([path], [["f"], [0, 2], [1]]).compute_targets(waves, mask)
    expected = [out.features, (out.hidden[0] + out.hidden[2]) / 2, out.hidden[1]]
    for target, value in zip(targets.hidden, expected):
        torch.testing.assert_close(target, value)
        assert not target.requires_grad and not target.is_inference()
    assert torch.equal(targets.padding_mask, out.padding_mask)


def test_several_teachers_are_averaged(tmp_path):
    paths = [save_teacher(tmp_path / f"{seed}.pt", seed) for seed in (1, 2, 3)]
    waves, _ = make_waves()
    alone = [Teacher([path], [[3]]).compute_targets(waves).hidden[0] for path in paths]
    together = Teacher(paths, [[3]]).compute_targets(waves).hidden[0]
    assert (alone[0] - alone[1]).abs().max() > 0.01
    torch.testing.assert_close(together, sum(alone) / 3)


def test_teacher_runs_no_layer_beyond_the_groups(tmp_path):
    teacher = Teacher([save_teacher(tmp_path / "teacher.pt")], [[1]])
    teacher.encoders[0].encoder.layers[1].forward = None  # would fail if it ran
    assert teacher.compute_targets(make_waves()[0]).hidden[0].shape[-1] == 48


def test_overflowing_layers_are_named(tmp_path):
    teacher = Teacher([save_teacher(tmp_path / "teacher.pt")], [[1], [2]])
    with torch.no_grad():
        teacher.encoders[0].encoder.layers[1].final_layer_norm.weight.fill_(float("inf"))
    with pytest.raises(UserError, match=r"layers \[2\] are not finite"):
        teacher.compute_targets(make_waves()[0])


def test_student_starts_as_the_layers_asked_for(tmp_path):
    path = save_teacher(tmp_path / "teacher.pt")
    teacher = load_encoder(path).state_dict()
    student = build_student(path, init_layers=[3, 1]).state_dict()
    for ours, theirs in (("0", "2"), ("1", "0")):
        for name in ("self_attn.q_proj.weight", "fc2.bias", "final_layer_norm.weight"):
            assert torch.equal(student[f"encoder.layers.{ours}.{name}"], teacher[f"encoder.layers.{theirs}.{name}"])
    for name in (
        "feature_extractor.conv_layers.0.0.weight",
        "encoder.pos_conv.0.weight_g",
        "layer_norm.bias",
        "mask_emb",
    ):
        assert torch.equal(student[name], teacher[name])


def test_what_does_not_fit_starts_from_scratch(tmp_path, caplog):
    path = save_teacher(tmp_path / "teacher.pt")
    teacher = load_encoder(path).state_dict()
    with caplog.at_level("INFO"):
        student = build_student(path, encoder_embed_dim=32, encoder_ffn_embed_dim=80).state_dict()
    assert torch.equal(
        student["feature_extractor.conv_layers.1.0.weight"], teacher["feature_extractor.conv_layers.1.0.weight"]
    )
    assert student["encoder.layers.0.fc1.weight"].shape == (80, 32)
    assert "from scratch" in caplog.text and "layers 1 2" in caplog.text


def test_a_layer_of_another_kind_is_not_copied(tmp_path):
    path = save_teacher(tmp_path / "teacher.pt")
    checkpoint = read_checkpoint(path)
    student = SpeechEncoder(EncoderConfig.from_settings({**SMALL, **LARGE, "conv_bias": False}))
    copied = copy_weights(student, checkpoint, [])
    assert "post_extract_proj" in copied
    assert not any(part.startswith("layer ") or part == "feature_extractor" for part in copied)


def test_wrong_requests_are_errors_that_name_the_key(tmp_path):
    path = save_teacher(tmp_path / "teacher.pt")
    for layers, word in (([4, 1], "has layers 1 to 3"), ([1], "names 1 layers"), ([0, 1], "has layers 1 to 3")):
        with pytest.raises(UserError, match=word):
            build_student(path, init_layers=layers)
    with pytest.raises(UserError, match="does not fit"):
        build_student(path, init_layers=[1, 2], encoder_ffn_embed_dim=81)
    tiny = dict(encoder_embed_dim=8, encoder_attention_heads=2, conv_feature_layers="[(4,10,5),(4,8,8)]")
    with pytest.raises(UserError, match="no part of it"):
        build_student(path, **tiny)
    with pytest.raises(UserError, match="model.init=nothing.pt: no such file"):
        build_student("nothing.pt")


def test_like_init_takes_over_front_layers_or_all(tmp_path):
    config = dataclasses.replace(
        EncoderConfig.from_settings({**SMALL, **LARGE}),
        layer_heads=[1, 2, 3],
        layer_ffn_dims=[4, 5, 6],
        normalize=True,
    )
    assert shape_like(config, "none", 2, []) == {}
    front = shape_like(config, "front", 2, [])
    assert front["extractor_mode"] == "layer_norm" and front["conv_bias"] and "encoder_embed_dim" not in front
    layers = shape_like(config, "layers", 2, [3, 1])
    assert layers["layer_norm_first"] and layers["encoder_embed_dim"] == 48 and "encoder_layers" not in layers
    assert layers["layer_heads"] == [3, 1] and layers["layer_ffn_dims"] == [6, 4]
    everything = shape_like(config, "all", 2, [])
    assert everything["encoder_layers"] == 3 and everything["layer_heads"] == [1, 2, 3]


def test_student_that_is_its_teacher_predicts_it_at_once(tmp_path):
    path = save_teacher(tmp_path / "teacher.pt")
    student = build_student(
        path,
        like_init="all",
        prediction_groups="[[1],[2],[3]]",
        prediction_layers="[[1],[2],[3]]",
        prediction_dim=48,
    ).eval()
    waves, mask = make_waves(padded=True)
    with torch.no_grad():
        predictions = student(waves, padding_mask=mask, predict=True).states.predictions
    targets = Teacher([path], [[1], [2], [3]]).compute_targets(waves, mask)
    for ours, theirs in zip(predictions, targets.hidden):
        torch.testing.assert_close(ours, theirs)


def test_linear_heads_start_as_the_identity_where_square():
    hidden = [torch.randn(2, 3, 8) for _ in range(2)]
    for ours, theirs in zip(LinearHeads(8, 8, 2)(hidden), hidden):
        torch.testing.assert_close(ours, theirs)
    assert LinearHeads(8, 5, 2)(hidden)[1].shape == (2, 3, 5)


def test_split_heads_equal_the_formula():
    heads, x = SplitHeads(8, 5, 3), torch.randn(2, 4, 8)
    inner = torch.nn.functional.gelu(x @ heads.shared.weight.T + heads.shared.bias)
    for index, prediction in enumerate(heads([x, x, x])):
        output = heads.outputs[index]
        torch.testing.assert_close(prediction, inner[..., 8 * index : 8 * index + 8] @ output.weight.T + output.bias)


def test_heads_do_not_change_how_the_rest_of_the_student_starts():
    students = []
    for head in ("linear", "split"):
        torch.manual_seed(5)
        students.append(build_student(prediction_groups="[[1]]", prediction_dim=48, prediction_head=head))
    one, other = (s.state_dict() for s in students)
    assert all(torch.equal(one[key], other[key]) for key in one if not key.startswith("prediction_head"))
