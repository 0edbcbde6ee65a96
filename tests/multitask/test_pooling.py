"""Pooling against loops over the frames that count."""

import math

import pytest
import torch

from fairseq_distill.multitask.pooling import AttentiveStatisticsPooling, PooledNorm, StatisticsPooling, pool_mean

LENGTHS = [7, 4, 1]


@pytest.fixture
def frames():
    """(frames (batch, frames, width), padding mask), with padding that would be seen."""
    x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7)[None, :] >= torch.tensor(LENGTHS)[:, None]
    return x.masked_fill(mask.unsqueeze(-1), 100.0), mask


def test_mean_is_that_of_the_frames_without_padding(frames):
    x, mask = frames
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(pool_mean(x, mask)[row], x[row, :length].mean(0))
    torch.testing.assert_close(pool_mean(x, None), x.mean(1))


def test_statistics_are_mean_and_standard_deviation(frames):
    x, mask = frames
    pooled = StatisticsPooling(5)(x, mask)
    for row, length in enumerate(LENGTHS):
        for column in range(5):
            values = [float(v) for v in x[row, :length, column]]
            mean = sum(values) / length
            deviation = math.sqrt(max(sum((v - mean) ** 2 for v in values) / length, 1e-6))
            assert pooled[row, column].item() == pytest.approx(mean, abs=1e-5)
            assert pooled[row, 5 + column].item() == pytest.approx(deviation, abs=1e-5)


def test_attention_weighs_the_frames_without_padding(frames):
    x, mask = frames
    torch.manual_seed(1)
    pooling = AttentiveStatisticsPooling(5)
    pooled = pooling(x, mask)
    for row, length in enumerate(LENGTHS):
        scores = [pooling.score(x[row, t]).item() for t in range(length)]
        weights = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
        mean = sum(w * x[row, t] for t, w in enumerate(weights))
        variance = sum(w * (x[row, t] - mean) ** 2 for t, w in enumerate(weights))
        torch.testing.assert_close(pooled[row], torch.cat([mean, variance.clamp(min=1e-6).sqrt()]))


@pytest.mark.parametrize("pooling", [StatisticsPooling(5), AttentiveStatisticsPooling(5)])
def test_equal_frames_and_no_frames_have_finite_gradients(pooling):
    x = torch.ones(2, 4, 5, requires_grad=True)
    mask = torch.tensor([[False] * 4, [True] * 4])
    pooling(x, mask).sum().backward()
    assert x.grad.isfinite().all()


def test_norm_is_torchs_over_the_labelled_utterances():
    torch.manual_seed(1)
    ours, stock = PooledNorm(5), torch.nn.BatchNorm1d(5)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(ours.norm, name).copy_(getattr(stock, name).normal_())
    labelled = torch.tensor([True, False, True, True])
    for _ in range(3):
        x = torch.randn(4, 5) * 3 + 7
        torch.testing.assert_close(ours(x, labelled)[labelled], stock(x[labelled]))
    x = torch.randn(4, 5)
    torch.testing.assert_close(ours(x), stock(x))
    ours.eval(), stock.eval()
    torch.testing.assert_close(ours(x), stock(x))


def test_norm_of_a_single_labelled_utterance_is_that_of_evaluation():
    torch.manual_seed(1)
    norm = PooledNorm(5)
    norm(torch.randn(8, 5) * 2 + 1)
    mean, var = norm.norm.running_mean.clone(), norm.norm.running_var.clone()
    x = torch.randn(3, 5)
    for labelled in (torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.bool)):
        torch.testing.assert_close(norm(x, labelled), (x - mean) / (var + 1e-5).sqrt())
    torch.testing.assert_close(norm(x[:1]), (x[:1] - mean) / (var + 1e-5).sqrt())
    assert torch.equal(norm.norm.running_mean, mean) and torch.equal(norm.norm.running_var, var)


def test_norm_stays_in_single_precision():
    norm = PooledNorm(5).half()
    out = norm(torch.randn(4, 5).half())
    assert out.dtype == norm.norm.weight.dtype == norm.norm.running_var.dtype == torch.float32
