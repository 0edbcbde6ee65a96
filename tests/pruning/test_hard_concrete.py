"""The gates' distribution against DPHuBERT's formulas, computed number by number, and its precision."""

import math

import pytest
import torch

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig
from fairseq_distill.pruning.hard_concrete import (
    Float32Module,
    HardConcrete,
    closed_log_probability,
    evaluation_gates,
    open_probability,
    sample_gates,
)

from ..builders import PARTS, TINY, UNITS, make_waves, randomize
from .helpers import sigmoid

BETA = 2 / 3
BIAS = -BETA * math.log(0.1 / 1.1)  # 1.5986


def expected_zeros(log_alpha) -> int:
    """round(n - E[L0]) of a list of numbers."""
    return round(len(log_alpha) - sum(sigmoid(a + BIAS) for a in log_alpha))


def test_samples_for_given_uniform_numbers():
    generator = torch.Generator().manual_seed(0)
    log_alpha = 3 * torch.randn(400, generator=generator, dtype=torch.float64)
    uniform = torch.rand(400, generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    expected = []
    for a, u in zip(log_alpha.tolist(), uniform.tolist()):
        s = sigmoid((math.log(u / (1 - u)) + a) / BETA)
        expected.append(min(1.0, max(0.0, s * 1.2 - 0.1)))
    assert 0.0 in expected and 1.0 in expected and any(0 < z < 1 for z in expected)
    got = sample_gates(log_alpha, uniform)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_probabilities_of_open_and_closed():
    log_alpha = torch.linspace(-30, 30, 61, dtype=torch.float64)
    expected = torch.tensor([sigmoid(a + 1.598596) for a in log_alpha.tolist()], dtype=torch.float64)
    torch.testing.assert_close(open_probability(log_alpha), expected, rtol=1e-6, atol=0)
    closed = torch.tensor([-math.log1p(math.exp(a + BIAS)) for a in log_alpha.tolist()], dtype=torch.float64)
    torch.testing.assert_close(closed_log_probability(log_alpha), closed, rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", [1, 2, 12, 500])
def test_evaluation_gates(size):
    """As many zeros as expected, at the lowest log_alpha; the others keep the soft value."""
    generator = torch.Generator().manual_seed(size)
    for mean in (-8.0, -2.0, -1.0, 0.0, 2.0):
        log_alpha = mean + 1.5 * torch.randn(size, generator=generator)
        values = log_alpha.tolist()
        zeros = expected_zeros(values)
        expected = [sigmoid(0.8 * a / BETA) for a in values]
        for index in sorted(range(size), key=values.__getitem__)[:zeros]:
            expected[index] = 0.0
        got = evaluation_gates(log_alpha)
        assert int((got == 0).sum()) == zeros
        torch.testing.assert_close(got, torch.tensor(expected))


def test_evaluation_gates_all_closed_or_open_and_equal():
    assert not evaluation_gates(torch.full((7,), -20.0)).any()
    torch.testing.assert_close(evaluation_gates(torch.full((7,), 1.0)), torch.full((7,), sigmoid(1.2)))
    # equal log_alpha: still as many zeros as expected, 10 * (1 - sigmoid(0.6)) = 3.5
    assert int((evaluation_gates(torch.full((10,), -1.0)) == 0).sum()) == expected_zeros([-1.0] * 10) == 4
    assert (
        evaluation_gates(torch.tensor([-2.0])).tolist() == [0.0] and evaluation_gates(torch.tensor([-1.0])).item() > 0
    )


def test_initial_values_follow_the_drop_rate():
    torch.manual_seed(0)
    for drop in (0.01, 0.5):
        log_alpha = HardConcrete([20_000], drop).log_alpha.detach().double()
        assert log_alpha.mean().item() == pytest.approx(math.log((1 - drop) / drop), abs=4 * 0.01 / math.sqrt(20_000))
        assert log_alpha.std().item() == pytest.approx(0.01, rel=0.03)


def test_training_samples_anew_and_evaluation_repeats_itself():
    torch.manual_seed(0)
    sizes = [3, 0, 4000, 1]
    gates = HardConcrete(sizes, 0.5)
    assert [len(z) for z in gates()] == sizes and [len(z) for z in gates.eval()()] == sizes
    assert all(torch.equal(a, b) for a, b in zip(gates(), gates()))
    gates.train()
    assert not torch.equal(gates()[2], gates()[2])
    # one sample for all layers, cut by their sizes
    torch.manual_seed(1)
    drawn = torch.cat(list(gates()))
    torch.manual_seed(1)
    uniform = torch.empty(sum(sizes)).uniform_(1e-6, 1 - 1e-6).double()
    alpha = gates.log_alpha.detach().double()
    expected = (torch.sigmoid((torch.logit(uniform) + alpha) / BETA) * 1.2 - 0.1).clamp(0, 1).float()
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [-2.0, -1.0, 0.0, 1.5])
def test_share_of_open_samples(alpha):
    torch.manual_seed(2)
    gates, count = HardConcrete([20_000], 0.5), 20_000
    torch.nn.init.constant_(gates.log_alpha, alpha)
    share, p = (gates()[0] > 0).double().mean().item(), sigmoid(alpha + BIAS)
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / count)


@pytest.mark.parametrize("sizes", [[4, 4, 4], [5, 0, 7, 1]])
def test_expected_numbers_and_probability_of_any(sizes):
    torch.manual_seed(3)
    gates = HardConcrete(sizes, 0.5)
    torch.nn.init.normal_(gates.log_alpha, -3, 2)
    values = gates.log_alpha.tolist()
    start = 0
    opened, anything = gates.expect_open(), gates.expect_any()
    assert len(opened) == len(anything) == len(sizes)
    for layer, size in enumerate(sizes):
        probabilities = [sigmoid(a + BIAS) for a in values[start : start + size]]
        assert opened[layer].item() == pytest.approx(sum(probabilities), rel=1e-5)
        assert anything[layer].item() == pytest.approx(1 - math.prod(1 - p for p in probabilities), rel=1e-4, abs=1e-7)
        start += size


@pytest.mark.parametrize("alpha", [30.0, -30.0, 100.0, -100.0])
def test_gradients_are_finite_at_the_ends(alpha):
    gates = HardConcrete([3, 2], 0.5)
    torch.nn.init.constant_(gates.log_alpha, alpha)
    for expected in (gates.expect_any(), gates.expect_open(), torch.cat(list(gates()))):
        gradient, value = torch.autograd.grad(expected.sum(), gates.log_alpha)[0], expected.sum()
        assert torch.isfinite(gradient).all() and torch.isfinite(value)
    # far from open, the chance that any of 3 is open is the sum of theirs; float32 holds it as long as it is a number
    if alpha == -30.0:
        assert gates.expect_any()[0].item() == pytest.approx(3 * math.exp(-30 + BIAS), rel=1e-4)


def build_student(**settings) -> SpeechStudent:
    torch.manual_seed(0)
    cfg = SpeechStudentConfig(**{**TINY, "prune": UNITS + PARTS, "target_sparsity": 0.5, **settings})
    student = randomize(SpeechStudent(cfg))
    with torch.no_grad():
        student.size_loss.lambda1.fill_(0.1234567)
        student.size_loss.lambda2.fill_(-3.7654321)
    return student


def keeps_precision(name: str) -> bool:
    return name.startswith(("gates.", "size_loss."))


@pytest.mark.parametrize("convert", ["half", "bfloat16", "to half", "to dtype and device", "type"])
def test_half_precision_leaves_gates_and_multipliers_alone(convert):
    student = build_student()
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    groups = {name: getattr(p, "param_group", None) for name, p in student.named_parameters()}
    size = student.size_loss.measure_sparsity(student.gates)
    change = {
        "half": lambda: student.half(),
        "bfloat16": lambda: student.bfloat16(),
        "to half": lambda: student.to(torch.float16),
        "to dtype and device": lambda: student.to(torch.device("cpu"), torch.bfloat16),
        "type": lambda: student.type(torch.float16),
    }
    change[convert]()
    kept = [name for name, p in student.named_parameters() if keeps_precision(name)]
    assert len(kept) == 5 + 2
    for name, parameter in student.named_parameters():
        if name in kept:
            assert parameter.dtype == torch.float32 and torch.equal(parameter, before[name]), name
        else:
            assert parameter.dtype in (torch.float16, torch.bfloat16), name
        assert getattr(parameter, "param_group", None) == groups[name]
    assert {groups[name] for name in kept} == {"gates", "multipliers"}
    assert groups["gates.kinds.ffn.log_alpha"] == "gates" and groups["size_loss.lambda2"] == "multipliers"
    assert torch.equal(student.size_loss.measure_sparsity(student.gates), size), "the size is counted in float64"
    assert student.float().gates.kinds["conv"].log_alpha.dtype == torch.float32


def test_other_modules_with_half_neighbours_still_move():
    """What a Float32Module refuses is a change of precision, not of device."""
    module = Float32Module()
    module.weight = torch.nn.Parameter(torch.ones(3))
    assert module.half().to("meta").weight.device.type == "meta"
    assert module.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", [{}, dict(extractor_mode="layer_norm", layer_norm_first=True)], ids=["base", "large"])
def test_half_precision_training_step_gives_gates_float32_gradients(kind):
    student = build_student(**kind).bfloat16().train()
    student.set_num_updates(100)
    torch.manual_seed(4)
    output = student(make_waves(samples=1200)[0].bfloat16())
    (loss,), _ = student.get_extra_losses(output)
    assert loss.dtype == torch.float32
    (output.x.float().pow(2).mean() + loss).backward()
    for name, parameter in student.named_parameters():
        if keeps_precision(name):
            assert parameter.grad.dtype == torch.float32 and torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name
        elif name != "mask_emb" and parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.dtype == torch.bfloat16, name


def test_settings_name_the_kinds_of_gates():
    cfg = EncoderConfig.from_settings({**TINY, "prune": ["conv", "neurons"]})
    with pytest.raises(ValueError, match="neurons is none of conv, heads, ffn, attention_layers, ffn_layers"):
        cfg.check()
