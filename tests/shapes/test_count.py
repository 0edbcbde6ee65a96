"""Sizes from settings alone against the count on networks that are built."""

import pytest

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.size import count_parameters, macs_per_second
from fairseq_distill.shapes.count import count_size
from fairseq_distill.shapes.published import PUBLISHED

from ..builders import KINDS, LARGE, SMALL, WAVLM

UNEVEN = dict(layer_heads=[1, 0, 3], layer_ffn_dims=[0, 7, 80])
SHAPES = {
    **KINDS,
    "conv bias": dict(conv_bias=True),
    "position bias without gate": {**WAVLM, "gru_rel_pos": False},
    "odd kernel": dict(conv_pos=15),
    "head width": dict(head_dim=5),
    "no projection at another width": dict(encoder_embed_dim=32),
    "projection all the same": dict(encoder_embed_dim=32, project_features=True),
    "data2vec of that width": dict(encoder_embed_dim=32, family="data2vec", pos_conv_depth=2),
    "uneven": UNEVEN,
    "uneven pre-norm": {**UNEVEN, **LARGE},
    "uneven wavlm": {**UNEVEN, **WAVLM},
    "time reduction": dict(time_reduction=3),
    "maps reused": dict(reuse_attention=[2, 3]),
    "maps reused pre-norm": dict(reuse_attention=[2], time_reduction=2, **LARGE),
    "maps reused wavlm": {**WAVLM, "reuse_attention": [3]},
    "other convolutions": dict(conv_feature_layers="[(8,10,5),(16,1,1)] + [(16,3,2)] * 3 + [(48,2,2)]"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_equal_those_of_the_network(shape):
    cfg = EncoderConfig.from_settings({**SMALL, **SHAPES[shape]})
    encoder = SpeechEncoder(cfg)
    for seconds in (1.0, 2.37):
        size = count_size(cfg, seconds)
        assert size.parameters == count_parameters(encoder)["encoder"]
        assert size.macs_per_second == macs_per_second(encoder, seconds)


# in millions, without heads; the derived ones from the papers' own code and figures
COUNTS = {
    "12-L HALF": 26.87,
    "LightHuBERT Small": 26.87,
    "3-L ONE": 30.58,
    "2-L ONE": 23.49,
    "DistilHuBERT": 23.49,
    "6-L HALF": 16.23,
    "3-L HALF": 10.90,
    "12-L QUARTER": 9.93,
    "FitHuBERT": 21.20,
    "ARMHuBERT": 22.02,
    "ARMHuBERT-S": 18.40,
    "MaskHuBERT": 22.20,
    "STaRHuBERT": 22.31,
    "STaRHuBERT-L": 26.63,
}


def test_published_students_have_their_counts():
    found = {s.name: round(count_size(s.make_config(EncoderConfig())).parameters / 1e6, 2) for s in PUBLISHED}
    assert found == COUNTS
