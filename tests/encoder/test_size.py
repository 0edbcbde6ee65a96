"""Counts of parameters and multiply-accumulates against the papers and against torch's own counter."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_distill.distillation.heads import build_heads
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.size import count_parameters, count_size, measure_parts

from ..builders import SHAPES, SMALL, build_empty

# published counts, in millions, of convolutions + projection + positions + norms + layers
PUBLISHED = {
    "DistilHuBERT": (dict(encoder_layers=2), 23.49),
    "12-L HALF": (dict(encoder_layers=12, encoder_embed_dim=384, encoder_ffn_embed_dim=1536), 26.87),
    "3-L ONE": (dict(encoder_layers=3), 30.58),
    "6-L HALF": (dict(encoder_layers=6, encoder_embed_dim=384, encoder_ffn_embed_dim=1536), 16.23),
    "3-L HALF": (dict(encoder_layers=3, encoder_embed_dim=384, encoder_ffn_embed_dim=1536), 10.90),
    "12-L QUARTER": (dict(encoder_layers=12, encoder_embed_dim=192, encoder_ffn_embed_dim=768), 9.93),
    "HuBERT Base": (dict(), 94.37),
    "WavLM Base": (dict(family="wavlm", relative_position_embedding=True, gru_rel_pos=True), 94.38),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_encoder_counts_are_the_published_ones(name):
    settings, millions = PUBLISHED[name]
    assert round(count_parameters(build_empty(**settings))["encoder"] / 1e6, 2) == millions


def test_hubert_base_counts_94_68_with_masked_prediction():
    """s3prl's 94.68 M for HuBERT Base is the encoder, the mask embedding and more; the whole file holds 94.70 M."""
    with torch.device("meta"):
        whole = SpeechEncoder(EncoderConfig(final_dim=256), dictionaries=[range(504)])
    assert round(sum(p.numel() for p in whole.parameters()) / 1e6, 2) == 94.70
    counts = count_parameters(whole)
    assert counts["mask_emb"] == 768
    assert counts["heads"] == 768 * 256 + 256 + 504 * 256
    assert sum(counts.values()) == sum(p.numel() for p in whole.parameters())


def test_distilhubert_counts_27_04_with_heads():
    heads = build_heads("split", 768, 768, 3)
    encoder = build_empty(encoder_layers=2)
    total = count_parameters(encoder)["encoder"] + sum(p.numel() for p in heads.parameters())
    assert round(total / 1e6, 2) == 27.04


@pytest.mark.parametrize("seconds, rate", [(1.0, 16_000), (2.37, 16_000), (1.5, 8000)])
@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_are_those_of_the_network_and_of_torchs_counter(shape, seconds, rate):
    encoder = SpeechEncoder(EncoderConfig.from_settings({**SMALL, **SHAPES[shape], "sample_rate": rate})).eval()
    # the plain kernel: torch's counter does not know the fused one for CPUs
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        encoder(torch.randn(1, int(seconds * rate)))
    parts = measure_parts(encoder.cfg, seconds)
    # torch counts a multiply-accumulate as two operations
    assert sum(part.macs for part in parts) == counter.get_total_flops() / 2
    size = count_size(encoder.cfg, seconds)
    assert size.macs_per_second == counter.get_total_flops() / 2 / seconds
    assert sum(part.parameters for part in parts) == size.parameters == count_parameters(encoder)["encoder"]
