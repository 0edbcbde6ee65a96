"""Which units of its source a narrower student keeps, and what starts from scratch."""

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.encoder.anatomy import WIDTH
from fairseq_distill.errors import UserError
from fairseq_distill.initialization.importance import measure_importance
from fairseq_distill.initialization.selection import choose_kept, keep_most_important

from ..builders import build_student, save_teacher
from .narrow_models import GROUP_NORM_KINDS, build, narrow


def test_of_equal_units_the_first_are_kept():
    assert keep_most_important(torch.tensor([1.0, 3.0, 1.0, 1.0]), 3).tolist() == [0, 1, 2]
    assert keep_most_important(torch.ones(3), 3).tolist() == [0, 1, 2]
    assert keep_most_important(torch.ones(3), 0).tolist() == [] and keep_most_important(None, 0).tolist() == []
    assert keep_most_important(torch.ones(3), 4) is None and keep_most_important(None, 1) is None


def test_other_groups_of_the_positional_convolution_let_it_start_from_scratch():
    source = build()
    student, chosen, copied = narrow(source, encoder_embed_dim=16, conv_pos_groups=2)
    best = measure_importance(source, (1, 2))[WIDTH].topk(16).indices.sort().values
    assert (
        torch.equal(chosen.keep[WIDTH], best) and "encoder.pos_conv" not in copied and "attention of layer 2" in copied
    )
    _, chosen, copied = narrow(source, encoder_embed_dim=16)
    assert [sum(6 * g <= c < 6 * g + 6 for c in chosen.keep[WIDTH].tolist()) for g in range(4)] == [4] * 4
    assert "encoder.pos_conv" in copied


def test_more_units_than_the_source_has_start_from_scratch_and_are_counted(caplog):
    source = build()
    shape = dict(encoder_layers=3, layer_ffn_dims=[12, 5, 5], layer_heads=[2, 6, 4], extractor_mode="layer_norm")
    with caplog.at_level("INFO"):
        _, chosen, copied = narrow(source, layers=[1, 2], encoder_embed_dim=16, **shape)
    assert not {("ffn", 0), ("heads", 1), ("conv", 0), ("conv", 1), ("conv", 2)} & set(chosen.keep)
    parts = {"attention of layer 1", "feed-forward of layer 2", "mask_emb", "encoder.pos_conv", "encoder.layer_norm"}
    assert set(copied) == parts
    # attention 8 and a norm 2, feed-forward 4 and a norm 2, mask, positions 3, norm 2
    assert "taken over: 22 tensors" in caplog.text and "from scratch: " in caplog.text
    assert "feed-forward of layer 1, attention of layer 2, attention of layer 3" in caplog.text


def test_layers_that_reuse_a_map_keep_the_heads_it_is_of():
    source = build(encoder_layers=3)
    _, alone, _ = narrow(source, layers=[1, 2, 3], layer_heads=[2, 2, 2])
    importance = measure_importance(source, (1, 2, 3))
    together = (importance["heads", 1].pow(2) + importance["heads", 2].pow(2)).topk(2).indices.sort().values
    assert not torch.equal(alone.keep["heads", 1], alone.keep["heads", 2]), "otherwise this test shows nothing"
    student, chosen, copied = narrow(source, layers=[1, 2, 3], layer_heads=[2, 2, 2], reuse_attention=[3])
    assert torch.equal(chosen.keep["heads", 1], together) and torch.equal(chosen.keep["heads", 2], together)
    assert torch.equal(chosen.keep["heads", 0], alone.keep["heads", 0]) and "attention of layer 3" in copied
    assert not hasattr(student.encoder.layers[2].self_attn, "q_proj")


def test_a_source_without_projection_gives_a_student_one_that_selects():
    source = build(**GROUP_NORM_KINDS["no projection"])
    student, chosen, _ = narrow(source, encoder_embed_dim=16)
    selected = torch.zeros(16, 24)
    selected[range(16), chosen.keep[WIDTH]] = 1
    assert torch.equal(student.post_extract_proj.weight, selected)
    both = dict(encoder_embed_dim=16, conv_feature_layers="[(12,10,5), (10,3,2), (16,2,2)]")
    student, chosen, copied = narrow(source, **both)
    assert student.post_extract_proj is None and ("conv", 2) not in chosen.keep
    assert "feature_extractor" in copied


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(encoder_embed_dim=28), "encoder_embed_dim=28 is more"),
        (dict(encoder_embed_dim=16, head_dim=0), "6 wide in the checkpoint and 4 in the student: set model.head_dim=6"),
        (dict(layer_norm_first=True), "the checkpoint has layer_norm_first=False"),
        (
            dict(encoder_embed_dim=16, conv_feature_layers="[(12,10,5), (10,3,2), (16,2,2)]"),
            "model.project_features=true",
        ),
    ],
)
def test_what_cannot_be_narrowed_is_a_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        narrow(build(), **settings)


def test_students_are_built_narrower_and_their_settings_stand_alone(tmp_path):
    teacher = save_teacher(tmp_path / "teacher.pt")
    shape = dict(encoder_embed_dim=24, encoder_attention_heads=2, head_dim=12, encoder_ffn_embed_dim=40)
    student = build_student(teacher, init_choice="every", init_width="weights", **shape)
    source = load_encoder(teacher)
    chosen = choose_kept(student.cfg, source.cfg, [2, 3], measure_importance(source, [2, 3]))
    for place in (0, 1):
        ours, theirs = student.encoder.layers[place], source.encoder.layers[place + 1]
        assert torch.equal(ours.fc1.weight, theirs.fc1.weight[chosen.keep["ffn", place]][:, chosen.keep[WIDTH]])
        assert torch.equal(ours.fc2.bias, theirs.fc2.bias[chosen.keep[WIDTH]])
        columns = torch.cat([torch.arange(h * 12, h * 12 + 12) for h in chosen.keep["heads", place].tolist()])
        assert torch.equal(
            ours.self_attn.out_proj.weight, theirs.self_attn.out_proj.weight[chosen.keep[WIDTH]][:, columns]
        )
        assert torch.equal(ours.self_attn.q_proj.weight, theirs.self_attn.q_proj.weight[columns][:, chosen.keep[WIDTH]])
    wide = dict(encoder_embed_dim=32, encoder_attention_heads=2, head_dim=12, like_init="front", init_width="weights")
    with pytest.raises(UserError, match="set model.project_features=true"):
        build_student(teacher, **wide)
    assert build_student(teacher, **wide, project_features=True).post_extract_proj.weight.shape == (32, 32)
    with pytest.raises(UserError, match="init_width=activations needs a training run"):
        build_student(teacher, init_width="activations", **shape)
