"""Norms that leave padding out, against torch's own norms of what is no padding, wave by wave."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from fairseq_distill.encoder.model import normalize_wave
from fairseq_distill.encoder.padding import FrameBatchNorm, mark_padding, measure_moments, normalize_channels

LENGTHS = torch.tensor([40, 2, 17, 0, -3])  # torch refuses to normalise one value


def make_frames(mean=0.3, frames=40, dtype=torch.float64):
    """(batch, 6, frames), and random weights and biases of a norm."""
    generator = torch.Generator().manual_seed(0)
    x = mean + torch.randn(len(LENGTHS), 6, frames, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randn(2, 6, generator=generator, dtype=torch.float64).to(dtype)


def give(norm, parameters):
    with torch.no_grad():
        norm.weight.copy_(parameters[0])
        norm.bias.copy_(parameters[1])
    return norm.to(parameters.dtype)


def test_group_norm_is_that_of_each_wave_alone_in_values_and_gradients():
    x, parameters = make_frames()
    seed = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    results = []
    for masked in (True, False):
        norm, inputs = give(nn.GroupNorm(6, 6), parameters), x.clone().requires_grad_()
        total = torch.zeros((), dtype=x.dtype)
        values = []
        whole = normalize_channels(norm, inputs, LENGTHS) if masked else None
        for row, length in enumerate(LENGTHS.clamp(min=0).tolist()):
            if length:
                one = norm(inputs[row : row + 1, :, :length])[0] if whole is None else whole[row, :, :length]
                values.append(one)
                total = total + (one.pow(2) * seed[row, :, :length]).sum()
        total.backward()
        results.append([*values, inputs.grad, norm.weight.grad, norm.bias.grad])
        assert whole is None or bool(whole.isfinite().all())
    assert len(results[0]) == 3 + 3
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_group_norm_of_long_waves_in_half_precision_is_as_good_as_torchs(dtype):
    """100,000 frames far from 0, whose sum and squares half precision cannot hold."""
    x, parameters = make_frames(mean=30.0, frames=100_000, dtype=dtype)
    norm, exact = give(nn.GroupNorm(6, 6), parameters), give(nn.GroupNorm(6, 6), parameters.float())
    lengths = torch.tensor([100_000, 70_000, 3, 0, 99_999])
    ours = normalize_channels(norm, x, lengths)
    assert ours.dtype == dtype and bool(ours.isfinite().all())
    for row in (0, 1, 2, 4):
        expected = exact(x[row : row + 1, :, : lengths[row]].float())[0]
        torch.testing.assert_close(ours[row, :, : lengths[row]].float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("lengths", [[40, 1, 17, 0, -3], [40] * 5, [2, 0, 0, 0, 0]])
def test_batch_norm_is_torchs_over_all_frames_that_are_no_padding(lengths):
    x, parameters = make_frames()
    mask = mark_padding(torch.tensor(lengths), 40)
    results = []
    for masked in (True, False):
        norm = give((FrameBatchNorm if masked else nn.BatchNorm1d)(6), parameters)
        inputs = x.clone().requires_grad_()
        for _ in range(3):  # running statistics gather
            if masked:
                y = norm(inputs, mask)
                assert not y.transpose(1, 2)[mask].any()
                y = y.transpose(1, 2)[~mask]
            else:
                y = norm(inputs.transpose(1, 2)[~mask])
        (y.pow(2) * torch.arange(y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        tracked = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
        results.append([y, inputs.grad, norm.weight.grad, norm.bias.grad, *tracked])
        norm.eval()
        results[-1].append(norm(inputs, mask).transpose(1, 2)[~mask] if masked else norm(x.transpose(1, 2)[~mask]))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_batch_norm_learns_nothing_from_fewer_than_two_frames():
    x, parameters = make_frames()
    norm = give(FrameBatchNorm(6), parameters)
    before = norm.running_mean.clone(), norm.running_var.clone()
    for lengths in ([0] * 5, [0, 1, 0, 0, 0]):
        y = norm(x, mark_padding(torch.tensor(lengths), 40))
        assert bool(y.isfinite().all())
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])
    norm(x, mark_padding(torch.tensor([2, 0, 0, 0, 0]), 40))
    assert not torch.equal(norm.running_mean, before[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.no_grad()
def test_waves_are_normalised_in_half_precision_too_and_stay_finite_without_a_sample(dtype):
    """fp16 ends at 65504, which is 4 s of samples."""
    waves = 0.2 * torch.randn(3, 80_000, generator=torch.Generator().manual_seed(0)) + 0.1
    mask = mark_padding(torch.tensor([80_000, 70_000, 0]), 80_000)
    normalized = normalize_wave(waves.to(dtype), mask)
    assert normalized.dtype == dtype and bool(normalized.isfinite().all()) and not normalized[mask].any()
    for row, length in ((0, 80_000), (1, 70_000)):
        expected = F.layer_norm(waves[row, :length], (length,))
        torch.testing.assert_close(normalized[row, :length].float(), expected, rtol=1e-2, atol=2e-3)


def test_moments_are_those_of_what_is_no_padding():
    x, _ = make_frames()
    mask = mark_padding(LENGTHS, 40)
    moments = measure_moments(x, mask.unsqueeze(1), 2)
    for row, length in enumerate(LENGTHS.clamp(min=0).tolist()):
        own = x[row, :, :length]
        mean, variance = (own.mean(1), own.var(1, unbiased=False)) if length else (torch.zeros(6), torch.zeros(6))
        torch.testing.assert_close(moments.mean[row, :, 0], mean.double())
        torch.testing.assert_close(moments.variance[row, :, 0], variance.double())
        torch.testing.assert_close(moments.centred[row, :, :length], own - mean.unsqueeze(1))
        assert not moments.centred[row, :, length:].any() and moments.size[row].item() == max(length, 1)
