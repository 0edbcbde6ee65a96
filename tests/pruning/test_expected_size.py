"""The expected size against DPHuBERT's formulas in loops, and against what `info` counts."""

import pytest
import torch

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.size import count_parameters, count_size, measure_parts
from fairseq_distill.pruning.expected_size import ExpectedSize
from fairseq_distill.pruning.gates import Gates
from fairseq_distill.pruning.surgery import prune_encoder

from ..builders import KINDS, PARTS, UNITS, WAVLM, build_empty, build_gated, spread_gates
from .formulas import COUNTS


@pytest.mark.parametrize("family", ["hubert", "wavlm"])
def test_base_shape_starts_at_an_expected_sparsity_of_0_102(family):
    settings = WAVLM if family == "wavlm" else {}
    encoder = build_empty(**{**settings, "num_buckets": 320, "max_distance": 1280})
    torch.manual_seed(0)
    gates = Gates(EncoderConfig(prune=UNITS))
    with torch.no_grad():
        size = ExpectedSize(encoder.cfg, "params")
        assert size.total == count_parameters(encoder)["encoder"]
        assert 1 - size(gates.expect()).item() == pytest.approx(0.102, abs=0.0005)


@pytest.mark.parametrize("metric", COUNTS)
@pytest.mark.parametrize("prune", [UNITS, UNITS + PARTS, PARTS, ["ffn", "attention_layers"]], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_expected_size_equals_loops(kind, prune, metric):
    encoder = build_gated(**KINDS[kind], prune=prune)
    spread_gates(encoder, mean=-1.0)
    size = ExpectedSize(encoder.cfg, metric)
    total = {"params": count_parameters(encoder)["encoder"], "macs": 10 * count_size(encoder.cfg).macs_per_second}[
        metric
    ]
    assert size.total == total
    fraction = size(encoder.gates.expect()).item()
    assert fraction == pytest.approx(COUNTS[metric](encoder) / total, rel=1e-5)
    assert 0.1 < fraction < 0.99


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_expected_size_of_decided_gates_is_that_of_the_pruned_encoder(kind, seed):
    """Gates are 0 or 1, some layers go whole: then the expected size is what `info` counts."""
    encoder = build_gated(**KINDS[kind], prune=UNITS + PARTS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for log_alpha in encoder.gates.parameters():
            opened = torch.rand(log_alpha.shape, generator=generator) < 0.6
            log_alpha.copy_(torch.where(opened, 40.0, -40.0))
        encoder.gates.kinds["conv"].log_alpha[[0, 6, -1]] = 40.0  # a channel of each convolution
        encoder.gates.kinds["ffn"].log_alpha[0] = encoder.gates.kinds["ffn_layers"].log_alpha[0] = 40.0
        if seed == 0:
            encoder.gates.kinds["heads"].log_alpha[:3] = encoder.gates.kinds["ffn"].log_alpha[5:] = -40.0
        pruned = prune_encoder(encoder)
        small = SpeechEncoder(pruned.config)
        expected = {
            "params": count_parameters(small)["encoder"],
            "macs": sum(part.macs for part in measure_parts(small.cfg)),
        }
        for metric, left in expected.items():
            size = ExpectedSize(encoder.cfg, metric)
            assert size(encoder.gates.expect()).item() * size.total == pytest.approx(left, rel=1e-6)
            assert left < 0.95 * size.total
    if seed == 0:
        assert pruned.config.heads[0] == 0 and pruned.config.ffn_dims[1] == 0


@pytest.mark.parametrize(
    "settings",
    [dict(layer_heads=[0, 2], layer_ffn_dims=[4, 0]), dict(layer_heads=[3, 1], head_dim=5)],
    ids=["gone", "uneven"],
)
@pytest.mark.parametrize("metric", COUNTS)
def test_expected_size_of_an_encoder_that_is_uneven_already(settings, metric):
    for kind in ("hubert", "wavlm large"):
        encoder = build_gated(**KINDS[kind], **settings, prune=UNITS + PARTS)
        spread_gates(encoder)
        size = ExpectedSize(encoder.cfg, metric)
        assert size(encoder.gates.expect()).item() * size.total == pytest.approx(COUNTS[metric](encoder), rel=1e-5)


@pytest.mark.parametrize("metric", COUNTS)
@pytest.mark.parametrize("kind", ["hubert", "wavlm large"])
def test_gradient_of_the_size_by_finite_differences(kind, metric):
    encoder = build_gated(**KINDS[kind], prune=UNITS + PARTS)
    spread_gates(encoder, mean=-1.5, std=1.0)
    size = ExpectedSize(encoder.cfg, metric)
    for gates in encoder.gates.kinds.values():
        gates.log_alpha = torch.nn.Parameter(gates.log_alpha.detach().double())
    size(encoder.gates.expect()).backward()
    for name, gates in encoder.gates.kinds.items():
        for index in range(0, len(gates.log_alpha), 3):
            around = []
            for step in (1e-4, -1e-4):
                with torch.no_grad():
                    gates.log_alpha[index] += step
                    around.append(size(encoder.gates.expect()).item())
                    gates.log_alpha[index] -= step
            slope = (around[0] - around[1]) / 2e-4
            assert gates.log_alpha.grad[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-9), (name, index)
            assert slope > 0, (name, index)
