"""Layers that read gated units against plain torch formulas differentiated by autograd."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fairseq_distill.encoder.gated import OpenLayerNorm, ScaledConv1d, ScaledLinear

from ..builders import KINDS, build_gated, make_waves, spread_gates


def draw_scale(size: int, seed: int = 5) -> torch.Tensor:
    """Gates between 0 and 1, of which some are 0 and some 1."""
    scale = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale[0], scale[1] = 0.0, 1.0
    return scale


def build_linear(bias, dtype=torch.float64):
    torch.manual_seed(0)
    layer = ScaledLinear(7, 5, bias=bias).to(dtype)
    return layer, torch.randn(2, 3, 7, dtype=dtype), lambda x, w, b, s: F.linear(x * s, w, b)


def build_conv(bias, dtype=torch.float64):
    torch.manual_seed(0)
    layer = ScaledConv1d(7, 5, 3, stride=2, bias=bias).to(dtype)
    return layer, torch.randn(2, 7, 12, dtype=dtype), lambda x, w, b, s: F.conv1d(x * s[:, None], w, b, stride=2)


def gradients(output, inputs):
    """Of a weighted sum of `output`, with weights that differ everywhere."""
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weights).sum(), inputs)


@pytest.mark.parametrize("build", [build_linear, build_conv])
@pytest.mark.parametrize("bias", [True, False])
def test_scaled_layers_are_layers_of_scaled_inputs(build, bias):
    layer, x, formula = build(bias)
    x.requires_grad_()
    scale = draw_scale(7).requires_grad_()
    names = ["x", "weight", "scale"] + ["bias"] * bias
    inputs = [x, layer.weight, scale] + [layer.bias] * bias
    got, expected = layer(x, scale), formula(x, layer.weight, layer.bias, scale)
    torch.testing.assert_close(got, expected)
    for name, a, b in zip(names, gradients(got, inputs), gradients(expected, inputs)):
        # the sum for the scale is taken in float32, the scale's own type in use
        torch.testing.assert_close(a, b, **(dict(rtol=1e-5, atol=1e-5) if name == "scale" else {}), msg=name)
        assert b.abs().max() > 0.1, name


@pytest.mark.parametrize("build", [build_linear, build_conv])
@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "scale"])
def test_each_gradient_alone(build, wanted):
    """Frozen weights still pass gradients to the scale, and the other way round."""
    layer, x, formula = build(True)
    layer.requires_grad_(False)
    scale = draw_scale(7)
    one = {"x": x, "scale": scale}.get(wanted, getattr(layer, wanted, None))
    one.requires_grad_()
    (got,) = gradients(layer(x, scale), [one])
    (expected,) = gradients(formula(x, layer.weight, layer.bias, scale), [one])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [build_linear, build_conv])
def test_half_precision_layer_with_a_float32_scale(build):
    layer, x, formula = build(True, torch.bfloat16)
    x.requires_grad_()
    scale = draw_scale(7).float().requires_grad_()
    got = layer(x, scale)
    assert got.dtype == torch.bfloat16
    exact = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias, scale)]
    expected = formula(*exact)
    torch.testing.assert_close(got.double(), expected, rtol=0.03, atol=0.03)
    inputs = [x, layer.weight, layer.bias, scale]
    for tensor, a, b in zip(inputs, gradients(got, inputs), gradients(expected, exact)):
        assert a.dtype == tensor.dtype
        assert (a.double() - b).norm() < 0.03 * b.norm()


@pytest.mark.parametrize("build", [build_linear, build_conv])
def test_autocast_computes_in_half_precision(build):
    layer, x, formula = build(True, torch.float32)
    x.requires_grad_()
    scale = draw_scale(7).float().requires_grad_()
    inputs = [x, layer.weight, layer.bias, scale]
    expected = formula(*inputs)
    wanted = gradients(expected, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x, scale)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.03, atol=0.03)
    for tensor, a, b in zip(inputs, gradients(got, inputs), wanted):
        assert a.dtype == tensor.dtype
        assert (a - b).norm() < 0.03 * b.norm()


def build_norm(dtype=torch.float64, channels=9):
    torch.manual_seed(1)
    norm = OpenLayerNorm(channels).to(dtype)
    with torch.no_grad():
        norm.weight.add_(0.3 * torch.randn(channels))
        norm.bias.add_(0.3 * torch.randn(channels))
    x = 3 * torch.randn(2, 4, channels, dtype=dtype) + 1
    return norm, x, torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 1]).to(dtype)


def test_open_norm_is_a_layer_norm_of_the_open_channels():
    norm, x, opened = build_norm()
    x.requires_grad_()
    keep = opened.bool()
    inputs = [x, norm.weight, norm.bias]
    expected = F.layer_norm(x[..., keep], (6,), norm.weight[keep], norm.bias[keep], norm.eps)
    got = norm(x, opened)[..., keep]
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)  # computed in float32
    for a, b in zip(gradients(got, inputs), gradients(expected, inputs)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)
        assert b[..., keep].abs().max() > 0.01 and not b[..., ~keep].any()


def test_open_norm_differs_from_the_norm_over_all_channels():
    norm, x, opened = build_norm()
    whole = F.layer_norm(x, (9,), norm.weight, norm.bias, norm.eps)
    assert (norm(x, opened) - whole)[..., opened.bool()].abs().max() > 0.1
    huge = torch.where(opened.bool(), x, torch.full_like(x, 1e4))
    kept = [norm(given, opened)[..., opened.bool()] for given in (huge, x)]
    assert torch.equal(*kept), "closed channels leave no trace"


def test_gradients_through_closed_channels_follow_the_same_formula():
    """Nothing reads them in an encoder, but if something does, its gradient is right."""
    norm, x, opened = build_norm()
    x.requires_grad_()
    inputs = [x, norm.weight, norm.bias]
    mean = (x * opened).sum(-1, keepdim=True) / 6
    variance = ((x - mean) ** 2 * opened).sum(-1, keepdim=True) / 6
    expected = (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
    got = norm(x, opened)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(got, inputs), gradients(expected, inputs)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_open_norm_without_open_channels_and_with_one():
    norm, x, opened = build_norm()
    gates = torch.zeros(9)
    assert torch.isfinite(norm(x, gates)).all()
    gates[3] = 0.4
    torch.testing.assert_close(norm(x, gates)[..., 3], norm.bias[3].expand(2, 4), rtol=0, atol=1e-6)
    plain = F.layer_norm(x, (9,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(norm(x, torch.ones(9)), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_open_norm_in_half_precision(dtype):
    norm, x, opened = build_norm(dtype)
    x.requires_grad_()
    keep = opened.bool()
    got = norm(x, opened)[..., keep]
    exact = [t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias)]
    expected = F.layer_norm(exact[0][..., keep], (6,), exact[1][keep], exact[2][keep], norm.eps)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=0.02, atol=0.02)
    inputs = [x, norm.weight, norm.bias]
    for tensor, a, b in zip(inputs, gradients(got, inputs), gradients(expected, exact)):
        assert a.dtype == tensor.dtype and (a.double() - b).norm() < 0.02 * b.norm()


def test_without_gates_the_layers_are_torchs_own():
    linear, x, _ = build_linear(True)
    assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))
    conv, x, _ = build_conv(False)
    assert torch.equal(conv(x), F.conv1d(x, conv.weight, None, stride=2))
    norm, x, _ = build_norm()
    assert torch.equal(norm(x), F.layer_norm(x, (9,), norm.weight, norm.bias, norm.eps))
    assert list(norm.state_dict()) == ["weight", "bias"] and not list(norm.buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_gated_encoder_is_copied_after_a_training_step(kind):
    encoder = build_gated(**KINDS[kind]).train()
    spread_gates(encoder)
    waves, _ = make_waves(samples=1200)
    encoder(waves).x.pow(2).sum().backward()
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        torch.testing.assert_close(twin.eval()(waves).x, encoder.eval()(waves).x, rtol=0, atol=0)
        twin.gates.kinds["ffn"].log_alpha.fill_(-20.0)
        assert not torch.equal(twin(waves).x, encoder(waves).x)


def test_autocast_encoder_step():
    encoder = build_gated(**KINDS["large"]).train()
    waves, _ = make_waves(samples=1200)
    results = []
    for enabled in (False, True):
        torch.manual_seed(6)
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            x = encoder(waves).x
        x.float().pow(2).mean().backward()
        results.append((x.detach().float(), {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}))
    (exact, wanted), (x, got) = results
    assert (x - exact).norm() < 0.05 * exact.norm() and not torch.equal(x, exact)
    assert got.keys() == wanted.keys() and "gates.kinds.conv.log_alpha" in got
    for name in wanted:
        assert torch.isfinite(got[name]).all() and got[name].dtype == torch.float32
    similar = F.cosine_similarity(*(torch.cat([g[n].flatten() for n in wanted]) for g in (got, wanted)), dim=0)
    assert similar > 0.98
