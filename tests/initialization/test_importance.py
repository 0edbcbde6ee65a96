"""How much a unit counts, by weights and activations, against the formulas; and whether a student needs what counts."""

import pytest
import torch
import torch.nn.functional as F

from fairseq_distill.encoder.anatomy import WIDTH
from fairseq_distill.errors import UserError
from fairseq_distill.initialization.importance import measure_importance

from ..builders import KINDS, make_waves
from .narrow_models import MEASURES, build, narrow, read


@torch.no_grad()
def spread(source, seed=2):
    """Units as unequal as in trained networks: every channel, head and unit writes at a scale of its own."""
    generator = torch.Generator().manual_seed(seed)

    def scale(tensor, rows=1):
        factors = torch.randn(len(tensor) // rows, generator=generator).exp().repeat_interleave(rows)
        tensor *= factors.view(-1, *[1] * (tensor.dim() - 1))

    for block in source.feature_extractor.conv_layers[:-1]:
        scale(block.norm.weight if block.norm is not None else block.conv.weight)
    for layer in source.encoder.layers:
        scale(layer.self_attn.v_proj.weight, source.cfg.attention_head_dim)
        scale(layer.fc1.weight)
    scale(source.encoder.layer_norm.weight)
    for layer in source.encoder.layers:
        scale(layer.self_attn_layer_norm.weight)
        scale(layer.final_layer_norm.weight)
    return source


def miss(source, student):
    """Part of the source's output that a linear map of the student's does not give, on waves that were not weighed."""
    waves, _ = make_waves(4, 6000, seed=8)
    with torch.no_grad():
        theirs, ours = (encoder(waves).x.flatten(0, 1).double() for encoder in (source, student))
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    rest = theirs - ours @ torch.linalg.lstsq(ours, theirs).solution
    return float(rest.norm() / theirs.norm())


@pytest.mark.parametrize(
    "smaller",
    [
        dict(layer_heads=[2, 2]),
        dict(layer_ffn_dims=[4, 4]),
        dict(conv_feature_layers="[(6,10,5), (5,3,2), (14,2,2)]"),
        dict(encoder_embed_dim=16),
        dict(
            encoder_embed_dim=16,
            layer_heads=[2, 2],
            layer_ffn_dims=[4, 4],
            conv_feature_layers="[(6,10,5), (5,3,2), (9,2,2)]",
        ),
    ],
    ids=["heads", "ffn", "conv", "width", "all"],
)
@pytest.mark.parametrize("measure", MEASURES)
def test_important_units_are_nearer_to_the_source_than_random_ones(smaller, measure):
    source = spread(build())
    kept = miss(source, narrow(source, measure=measure, **smaller)[0])
    random = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        importance = {u: torch.rand(len(v), generator=generator) for u, v in measure_importance(source, (1, 2)).items()}
        random.append(miss(source, narrow(source, importance=importance, **smaller)[0]))
    assert kept < sum(random) / len(random)


@torch.no_grad()
def test_importance_by_weights_is_the_formula():
    source = build(conv_bias=True)
    found = measure_importance(source, [2])
    assert set(found) == {("conv", 0), ("conv", 1), ("conv", 2), WIDTH, ("heads", 1), ("ffn", 1)}
    layer, convs = source.encoder.layers[1], source.feature_extractor.conv_layers
    unit = torch.cat([layer.fc1.weight[3], layer.fc1.bias[3:4]]).norm() * layer.fc2.weight[:, 3].norm()
    assert found["ffn", 1][3].item() == pytest.approx(unit.item())
    value, out, total = layer.self_attn.v_proj, layer.self_attn.out_proj, 0.0
    for place in range(12, 18):
        written = value.weight[place].pow(2).sum() + value.bias[place] ** 2
        total += written.item() * out.weight[:, place].pow(2).sum().item()
    assert found["heads", 1][2].item() == pytest.approx(total**0.5)
    normed = torch.stack([convs[0].norm.weight[4], convs[0].norm.bias[4]]).norm()
    assert found["conv", 0][4].item() == pytest.approx((normed * convs[1].conv.weight[:, 4].norm()).item())
    written = torch.cat([convs[1].conv.weight.flatten(1), convs[1].conv.bias[:, None]], 1).norm(dim=1)
    assert found["conv", 1][4].item() == pytest.approx((written[4] * convs[2].conv.weight[:, 4].norm()).item())

    projection, attention = source.post_extract_proj, layer.self_attn
    rows = [projection, attention.out_proj, layer.fc2]
    convolution = source.encoder.pos_conv._modules["0"]
    positions = torch._weight_norm(convolution.weight_v, convolution.weight_g, 2)
    bias = convolution.bias
    written = sum(m.weight.pow(2).sum(1) + m.bias**2 for m in rows) + positions.pow(2).sum((1, 2)) + bias**2
    relative = (written / written.mean()).sqrt()
    channel, expected = 7, 0.0  # channel 7 is the second of its group, which is 6 to 11
    size = projection.weight[channel].pow(2).sum() + projection.bias[channel] ** 2
    expected += (size * positions[6:12, 1].pow(2).sum()).item()
    for norm, readers in (
        (source.encoder.layers[0].final_layer_norm, [attention.q_proj, attention.k_proj, attention.v_proj]),
        (layer.self_attn_layer_norm, [layer.fc1]),
    ):
        size = (norm.weight[channel] * relative[channel]) ** 2 + norm.bias[channel] ** 2
        expected += sum((size * reader.weight[:, channel].pow(2).sum()).item() for reader in readers)
    assert found[WIDTH][channel].item() == pytest.approx(expected**0.5, rel=1e-4)


@torch.no_grad()
def test_importance_by_activations_is_the_formula():
    source = build(**KINDS["pre-norm"])
    waves = read("activations")
    found = measure_importance(source, [1, 2], waves)
    again = measure_importance(source, [1, 2], waves)
    assert all(torch.equal(found[unit], again[unit]) for unit in found)
    convolved, units = [], []
    for wave in waves:
        out = source.encode(wave)
        x = source.feature_extractor.conv_layers[0](wave.unsqueeze(1))
        convolved.append(x[0].T)
        layer = source.encoder.layers[1]
        attended = out.hidden[1] + F.linear(
            source_context(layer.self_attn, layer.self_attn_layer_norm(out.hidden[1])),
            layer.self_attn.out_proj.weight,
            layer.self_attn.out_proj.bias,
        )
        units.append(F.gelu(layer.fc1(layer.final_layer_norm(attended)))[0])
    size = [torch.cat(parts).pow(2).mean(0).sqrt() for parts in (convolved, units)]
    reader = source.feature_extractor.conv_layers[1].conv.weight
    torch.testing.assert_close(
        found["conv", 0].float(), size[0] * reader.pow(2).sum((0, 2)).sqrt(), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        found["ffn", 1].float(), size[1] * source.encoder.layers[1].fc2.weight.norm(dim=0), rtol=1e-4, atol=1e-6
    )


def source_context(attention, x):
    """Softmax attention written out: (1, frames, width) to the same of all heads' contexts."""
    q, k, v = (p(x)[0].view(x.size(1), 4, 6) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    scores = torch.einsum("qhd,khd->hqk", q, k) / 6**0.5
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(1, x.size(1), 24)


def test_weights_that_are_not_finite_are_a_sentence():
    source = build()
    with torch.no_grad():
        source.encoder.layers[0].fc1.weight[2, 3] = float("nan")
    with pytest.raises(UserError, match="importance of its ffn, width is not finite"):
        measure_importance(source, [1])
