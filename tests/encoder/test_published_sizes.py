"""Parameter counts of thin students against the papers' figures, each with what the paper counts."""

import pytest
import torch

from fairseq_distill.distillation.heads import build_heads
from fairseq_distill.encoder.size import count_parameters

from ..builders import build_empty

EVERY_SECOND = [2, 4, 6, 8, 10, 12]


def thin_extractor(channels: int) -> str:
    """FitHuBERT's convolutions (2207.00555), with that many channels at the end."""
    return f"[(128,10,5)] + [(256,1,1)] + [(256,3,2)] * 4 + [({channels},1,1)] + [({channels},2,2)] * 2"


def build_thin(width: int, ffn: int, channels: int, **settings):
    shape = dict(encoder_embed_dim=width, encoder_ffn_embed_dim=ffn, encoder_attention_heads=12)
    return build_empty(encoder_layers=12, conv_feature_layers=thin_extractor(channels), **shape, **settings)


def count_heads(width: int, groups: int, **options) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_heads("linear", width, 768, groups, **options).parameters())


def to_millions(parameters: int) -> float:
    return round(parameters / 1e6, 2)


# encoder, and encoder with the twelve Linear to the teacher's width that the published figure includes
@pytest.mark.parametrize(
    "width, ffn, reuse, encoder, published",
    [
        pytest.param(480, 864, EVERY_SECOND, 22.02, 26.45, id="ARMHuBERT"),
        pytest.param(432, 816, EVERY_SECOND, 18.40, 22.39, id="ARMHuBERT-S"),
        pytest.param(480, 640, [], 22.20, 26.64, id="MaskHuBERT"),
    ],
)
def test_counts_with_twelve_heads(width, ffn, reuse, encoder, published):
    counted = count_parameters(build_thin(width, ffn, width, reuse_attention=reuse))["encoder"]
    assert to_millions(counted) == encoder
    assert to_millions(counted + count_heads(width, 12)) == published


def test_fithubert_counts_its_last_head_and_an_upsampler_that_nothing_uses():
    """22.49 M; its code builds one transposed convolution for the last layer besides those of the twelve heads."""
    encoder = build_thin(480, 480, 512, time_reduction=2)
    counted = count_parameters(encoder)["encoder"]
    reduction = sum(p.numel() for p in encoder.encoder.time_reduction.parameters())
    assert to_millions(counted - reduction) == 20.74 and to_millions(reduction) == 0.46
    assert reduction == 480 * 480 * 2 + 480
    head = count_heads(480, 1, upsample=[2])
    assert head == reduction + 480 * 768 + 768  # the upsampler is as large as what it undoes
    assert to_millions(counted + reduction + head) == 22.49


@pytest.mark.parametrize(
    "width, ffn, published", [(432, 976, 22.31), (480, 1024, 26.63)], ids=["STaRHuBERT", "STaRHuBERT-L"]
)
def test_star_is_armhuberts_widths_with_maps_of_their_own(width, ffn, published):
    """The FFN widths are derived, not published: with ARMHuBERT's + 160 in both, both counts fit the code's layers."""
    assert to_millions(count_parameters(build_thin(width, ffn, width))["encoder"]) == published
