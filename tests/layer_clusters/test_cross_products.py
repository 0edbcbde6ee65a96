"""CKA from sums over frames, against its definition on explicit Gram matrices."""

import numpy as np
import pytest
import torch

from fairseq_distill.errors import UserError
from fairseq_distill.layer_clusters.cross_products import CrossProducts


def make_states(frames=60, widths=(5, 9, 9, 3), seed=0):
    """States that share some of what they say, with means far from 0 and features of different size."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(frames, 4, generator=generator)
    return [
        (common @ torch.randn(4, width, generator=generator) + torch.randn(frames, width, generator=generator))
        * torch.logspace(-1, 1, width)
        + 10 * torch.randn(width, generator=generator)
        for width in widths
    ]


def stream(states, chunk=1000, debiased=False):
    """CKA of every two states, their frames given in chunks."""
    numbers = range(len(states))
    sums = CrossProducts([(i, j) for i in numbers for j in numbers if i <= j])
    for start in range(0, len(states[0]), chunk):
        sums.add([state[start : start + chunk] for state in states])
    return sums.compute(numbers, numbers, debiased)


def define_cka(x, y):
    """tr(HKH HLH) / sqrt(tr(HKH HKH) tr(HLH HLH)), H taking off the mean, from Gram matrices, in double precision."""

    def centre(gram):
        return gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()

    a, b = (centre(z @ z.T) for z in (x.double().numpy(), y.double().numpy()))
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def define_hsic1(x, y):
    """The mean of the products of U-centred Gram matrices off their diagonals (Székely and Rizzo), equal to HSIC1."""

    def centre(gram):
        n = len(gram)
        np.fill_diagonal(gram, 0)
        rows = gram.sum(1, keepdims=True) / (n - 2)
        centred = gram - rows - rows.T + gram.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(centred, 0)
        return centred

    x, y = x.double().numpy(), y.double().numpy()
    return (centre(x @ x.T) * centre(y @ y.T)).sum() / (len(x) * (len(x) - 3))


def test_cka_is_that_of_centred_gram_matrices():
    states = make_states()
    expected = [[define_cka(x, y) for y in states] for x in states]
    np.testing.assert_allclose(stream(states), expected, rtol=1e-5)
    assert np.ptp(expected) > 0.3


def test_debiased_cka_is_that_of_u_centred_gram_matrices():
    states = make_states(frames=12)
    hsic = np.array([[define_hsic1(x, y) for y in states] for x in states])
    expected = hsic / np.sqrt(np.outer(hsic.diagonal(), hsic.diagonal()))
    np.testing.assert_allclose(stream(states, debiased=True), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(stream(states) - expected).max() > 0.05  # the plain one is another thing for so few frames


@pytest.mark.parametrize("debiased", [False, True], ids=["plain", "debiased"])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_streaming_equals_one_batch(chunk, debiased):
    states = make_states(frames=130)
    np.testing.assert_allclose(stream(states, chunk, debiased), stream(states, 130, debiased), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("debiased", [False, True], ids=["plain", "debiased"])
def test_rotation_scale_and_shift_change_nothing(debiased):
    states = make_states()
    reference = stream(states, debiased=debiased)
    rotation = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(1)))[0]
    states[1] = 0.3 * states[1] @ rotation + 5
    np.testing.assert_allclose(stream(states, debiased=debiased), reference, rtol=1e-4, atol=1e-5)
    states[1] = states[1] * torch.arange(1, 10)  # unlike the scale of all features, that of each one matters
    assert np.abs(stream(states, debiased=debiased)[1] - reference[1]).max() > 0.01


def test_debiased_is_near_0_for_independent_states_and_plain_is_not():
    plain, debiased = [], []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        states = [torch.randn(100, 50, generator=generator) for _ in range(2)]
        plain.append(stream(states)[0, 1])
        debiased.append(stream(states, debiased=True)[0, 1])
    assert min(plain) > 0.25
    error = np.std(debiased) / np.sqrt(20)
    assert abs(np.mean(debiased)) < 4 * error < 0.02


def test_a_mean_far_above_the_variation_costs_no_precision():
    states = [state.double() for state in make_states(frames=500)]
    states[0] = states[0] / 10 + 3000  # in float32, squares of 9e6 would drown a variance of 1
    expected = define_cka(states[0].float(), states[1].float())
    assert abs(stream([state.float() for state in states], chunk=50)[0, 1] - expected) < 1e-4


@pytest.mark.parametrize("value, word", [(7.3, "is the same in all 60"), (float("nan"), "is not finite")])
def test_states_without_a_similarity_are_named(value, word):
    states = make_states()
    states[2] = torch.full_like(states[2], value)
    with pytest.raises(UserError, match=rf"h\[2\] {word}"):
        stream(states)


def test_too_few_frames_are_an_error():
    for frames in (0, 3):
        with pytest.raises(UserError, match=f"{frames} frames are too few"):
            stream(make_states(frames=frames))
