"""Settings that a student gives and that `like_init` would take from elsewhere."""

import pytest

from fairseq_distill import load_encoder
from fairseq_distill.errors import UserError

from ..builders import build_student, save_teacher


def test_a_setting_that_like_init_would_pass_over_is_refused_by_name(tmp_path):
    teacher = save_teacher(tmp_path / "teacher.pt")
    source = load_encoder(teacher).cfg
    other = "[(24,10,5)] + [(24,3,2)] * 2 + [(40,2,2)]"
    with pytest.raises(UserError, match=r"model\.conv_feature_layers='\[\(24,10.*model\.like_init=front takes"):
        build_student(teacher, like_init="front", conv_feature_layers=other)
    with pytest.raises(UserError, match=r"model\.conv_bias=True, but model\.like_init=all takes False over"):
        build_student(teacher, like_init="all", conv_bias=True)
    for name in ("layer_heads", "layer_ffn_dims"):
        with pytest.raises(UserError, match=rf"model\.{name}=\[1, 2, 2\], but model\.like_init=all takes \[\] over"):
            build_student(teacher, like_init="all", **{name: [1, 2, 2]})
    student = build_student(teacher, like_init="front", conv_feature_layers=source.conv_feature_layers)
    assert student.cfg.conv_layers == source.conv_layers


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"reuse_attention": [7]}, r"^model\.reuse_attention=\[7\] must name different layers from 2"),
        ({"layer_heads": [1, 2, 2]}, r"^model\.layer_heads has 3 entries for encoder_layers=2"),
        ({"layer_ffn_dims": [8, -1]}, r"^model\.layer_ffn_dims has an entry that is not from 0"),
        ({"conv_feature_layers": "[(8,-1,2)]"}, r"^model\.conv_feature_layers must be lists of"),
    ],
)
def test_shapes_that_cannot_be_are_named_by_the_key_of_the_run(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build_student("", **settings)
