"""The loss that drives the expected size to its target: a Lagrangian, its signs, its ramp, its refusals."""

import pytest
import torch

from fairseq_distill.encoder.size import count_parameters
from fairseq_distill.errors import UserError
from fairseq_distill.pruning.expected_size import ExpectedSize
from fairseq_distill.pruning.size_loss import SizeLoss

from ..builders import PARTS, UNITS, build_gated, spread_gates
from .formulas import COUNTS, count_expected_parameters, expect_units


def make_loss(target=0.6, warmup=100, metric="params", **settings):
    encoder = build_gated(**settings)
    spread_gates(encoder)
    return SizeLoss(encoder, metric, target, warmup), encoder.gates


@pytest.mark.parametrize("metric", COUNTS)
def test_loss_is_the_lagrangian_and_multipliers_ascend(metric):
    loss, gates = make_loss(metric=metric)
    assert loss.lambda1.item() == loss.lambda2.item() == 0 and loss(gates).item() == 0
    encoder = build_gated()
    spread_gates(encoder)
    sparsity = 1 - COUNTS[metric](encoder) / loss.size.total
    with torch.no_grad():
        loss.lambda1.fill_(0.7)
        loss.lambda2.fill_(-2.5)
    loss.num_updates = 50
    excess = sparsity - 0.3
    assert abs(excess) > 0.01
    value = loss(gates)
    assert value.item() == pytest.approx(0.7 * excess - 2.5 * excess**2, rel=1e-4)
    value.backward()
    assert loss.lambda1.grad.item() == pytest.approx(-excess, rel=1e-4)
    assert loss.lambda2.grad.item() == pytest.approx(-(excess**2), rel=1e-4)
    # the gates descend: d loss / d size = -(lambda1 + 2 lambda2 excess)
    size = loss.size(gates.expect())
    of_size = torch.autograd.grad(size, gates.kinds["ffn"].log_alpha)[0]
    expected = -(0.7 - 5 * excess) * of_size
    torch.testing.assert_close(gates.kinds["ffn"].log_alpha.grad, expected, rtol=1e-4, atol=1e-8)


def test_gradient_descent_alone_reaches_the_target():
    """The signs, in the end: plain steps on gates and multipliers bring the sparsity to its target, from both sides."""
    for mean in (3.0, -3.0):
        torch.manual_seed(0)
        loss, gates = make_loss(target=0.5, warmup=0)
        for log_alpha in gates.parameters():
            torch.nn.init.normal_(log_alpha, mean, 0.1)
        loss.num_updates = 1
        optimizer = torch.optim.Adam([*gates.parameters(), *loss.parameters()], lr=0.1)
        for _ in range(400):
            optimizer.zero_grad()
            loss(gates).backward()
            optimizer.step()
        assert loss.measure_sparsity(gates).item() == pytest.approx(0.5, abs=0.01)


def test_target_rises_linearly():
    loss, _ = make_loss(target=0.6, warmup=200)
    for updates, target in ((0, 0.0), (50, 0.15), (100, 0.3), (200, 0.6), (5000, 0.6)):
        loss.num_updates = updates
        assert loss.target == pytest.approx(target)


def test_what_is_logged():
    loss, gates = make_loss(prune=UNITS + PARTS, layer_heads=[3, 2])
    loss.num_updates = 25
    with torch.no_grad():
        loss.lambda1.fill_(0.5)
    encoder = build_gated(prune=UNITS + PARTS, layer_heads=[3, 2])
    spread_gates(encoder)
    conv, heads, _, units, _ = expect_units(encoder)
    expected = {"lambda1": 0.5, "lambda2": 0.0, "target_sparsity": 0.15}
    expected["sparsity"] = 1 - count_expected_parameters(encoder) / count_parameters(encoder)["encoder"]
    expected.update({f"conv_{index}": left for index, left in enumerate(conv)})
    expected.update({f"heads_{index}": left for index, left in enumerate(heads, start=1)})
    expected.update({f"ffn_{index}": left for index, left in enumerate(units, start=1)})
    got = {name: value.item() for name, value in loss.describe(gates).items()}
    assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("metric", COUNTS)
def test_unreachable_targets_are_refused(metric):
    encoder = build_gated(prune=["heads"])
    closed = build_gated(prune=["heads"])
    with torch.no_grad():
        closed.gates.kinds["heads"].log_alpha.fill_(-40.0)
    size = ExpectedSize(encoder.cfg, metric)
    limit = 1 - COUNTS[metric](closed) / size.total
    SizeLoss(encoder, metric, limit - 0.001, 10)
    unreachable = f".*\\['heads'\\].*{1 - limit:.3f} of .*{metric}"
    for target, reason in (
        (limit + 0.001, unreachable),
        (1.0, unreachable),
        (-0.1, " must be a fraction"),
        (1.5, " must be a fraction"),
    ):
        sentence = f"model.target_sparsity={target}{reason}"
        with pytest.raises(UserError, match=sentence):
            SizeLoss(encoder, metric, target, 10)
    assert encoder.gates.kinds["heads"].log_alpha.min() > -1, "the limit is found on a copy"


def test_second_multiplier_may_start_high():
    encoder = build_gated()
    loss = SizeLoss(encoder, "params", 0.5, 0, lambda2=200.0)
    loss.num_updates = 1
    excess = loss.measure_sparsity(encoder.gates).item() - 0.5
    assert loss(encoder.gates).item() == pytest.approx(200 * excess**2, rel=1e-4)
