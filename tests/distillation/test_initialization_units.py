"""A narrower student keeps the most important units of what it starts from, and computes on them as that does."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fairseq_distill import load_encoder
from fairseq_distill.distillation.narrowing import Narrowing
from fairseq_distill.distillation.unit_choice import choose_units, keep_most_important
from fairseq_distill.distillation.unit_importance import WIDTH, weigh_units
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.errors import UserError

from ..encoder.builders import make_waves, randomize
from ..encoder.test_shapes import WAVLM
from ..pruning.helpers import relative_error
from .test_teacher import build_student, save_teacher

TINY = dict(
    encoder_layers=2,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=10,
    encoder_attention_heads=4,
    head_dim=6,
    conv_feature_layers="[(12,10,5), (10,3,2), (14,2,2)]",
    conv_pos=8,
    conv_pos_groups=4,
    dropout=0.0,
    attention_dropout=0.0,
    final_dim=10,
)
PRE_NORM = dict(layer_norm_first=True)
KINDS = {
    "post-norm": {},
    "pre-norm": PRE_NORM,
    "conv bias": dict(conv_bias=True, family="wav2vec2"),
    "data2vec": dict(family="data2vec", pos_conv_depth=2),
    "wavlm": WAVLM,
    "wavlm pre-norm": dict(WAVLM, layer_norm_first=True),
    "batch norm": dict(conv_pos_batch_norm=True),
    "no projection": dict(conv_feature_layers="[(12,10,5), (10,3,2), (24,2,2)]"),
}
SMALLER = dict(layer_heads=[2, 1], layer_ffn_dims=[5, 0])
MEASURES = ("weights", "activations")


def build(seed=0, **settings):
    torch.manual_seed(seed)
    return randomize(SpeechEncoder(EncoderConfig.from_settings({**TINY, **settings})), seed)


def read(measure):
    return None if measure == "weights" else [make_waves(1, 1500, seed=seed)[0] for seed in (3, 4)]


def narrow(source, layers=(1, 2), measure="weights", importance=None, **settings):
    """(student of other settings that starts as `source`, what it keeps, names of the parts taken over)."""
    cfg = replace(source.cfg, **settings)
    importance = importance or weigh_units(source, layers, read(measure))
    chosen = choose_units(cfg, source.cfg, layers, importance)
    torch.manual_seed(9)
    student = SpeechEncoder(replace(cfg, layer_head_numbers=chosen.head_numbers)).eval()
    copied = Narrowing(source.state_dict(), source.cfg, student.cfg, layers, chosen).copy_into(student)
    return student, chosen, copied


def draw(units, count, generator):
    """(units to keep, units to kill), at random, each ascending."""
    order = torch.randperm(units, generator=generator)
    return order[:count].sort().values, order[count:]


@torch.no_grad()
def kill(source, heads, ffn, channels, seed=5):
    """Leave these numbers of units alive in each layer and convolution; returns which, in this order."""
    generator, dim = torch.Generator().manual_seed(seed), source.cfg.attention_head_dim
    alive = [[], [], []]
    for index, layer in enumerate(source.encoder.layers):
        kept, dead = draw(source.cfg.heads[index], heads[index], generator)
        for head in dead.tolist():
            rows = slice(head * dim, head * dim + dim)
            layer.self_attn.v_proj.weight[rows] = 0
            layer.self_attn.v_proj.bias[rows] = 0
        alive[0].append(kept)
        kept, dead = draw(source.cfg.ffn_dims[index], ffn[index], generator)
        layer.fc1.weight[dead] = 0
        layer.fc1.bias[dead] = 0
        alive[1].append(kept)
    for index, block in enumerate(source.feature_extractor.conv_layers):
        kept, dead = draw(len(block.conv.weight), channels[index], generator)
        written = [block.conv] if block.norm is None else [block.norm]  # a norm of each channel by itself
        for tensor in (t for module in written for t in (module.weight, module.bias) if t is not None):
            tensor[dead] = 0
        alive[2].append(kept)
    return alive


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", KINDS)
def test_without_its_dead_units_the_student_is_the_source(kind, measure):
    source = build(**KINDS[kind])
    last = source.cfg.conv_layers[-1][0]
    heads, ffn, conv = kill(source, SMALLER["layer_heads"], SMALLER["layer_ffn_dims"], [7, 6, last])
    smaller = dict(SMALLER, conv_feature_layers=f"[(7,10,5), (6,3,2), ({last},2,2)]")
    student, chosen, _ = narrow(source, measure=measure, **smaller)
    assert all(torch.equal(a, b) for a, b in zip([*chosen.heads, *chosen.ffn, *chosen.conv], [*heads, *ffn, *conv]))
    assert relative_error(source, student) < 1e-5
    if source.cfg.relative_position_embedding:
        assert student.cfg.head_numbers == [kept.tolist() for kept in heads]


def test_a_smaller_shared_position_bias_keeps_the_same_heads_in_every_layer():
    source = build(**dict(WAVLM, gru_rel_pos=False))
    with torch.no_grad():
        for layer in source.encoder.layers:
            layer.self_attn.v_proj.weight[[*range(6), *range(12, 18)]] = 0  # heads 0 and 2
            layer.self_attn.v_proj.bias[[*range(6), *range(12, 18)]] = 0
    student, chosen, _ = narrow(source, encoder_attention_heads=2)
    assert chosen.bias_heads.tolist() == [1, 3] and chosen.head_numbers == ""
    assert student.encoder.relative_attention_bias.weight.shape == (32, 2)
    assert relative_error(source, student) < 1e-5
    student, _, copied = narrow(build(**WAVLM), encoder_attention_heads=2)
    assert "attention of layer 1" in copied and "gate of the position bias of layer 1" not in copied
    with torch.no_grad():
        source.encoder.layers[0].self_attn.v_proj.weight[18:] *= 10
    fewer, chosen, _ = narrow(source, encoder_attention_heads=2, layer_heads=[1, 2])
    assert chosen.heads[0].tolist() == [3] and fewer.cfg.head_numbers == [[1], [0, 1]]


def list_norms(encoder):
    """The norms over the channels of the layers."""
    layers = encoder.encoder.layers
    return [encoder.encoder.layer_norm, *(n for l in layers for n in (l.self_attn_layer_norm, l.final_layer_norm))]


@torch.no_grad()
def silence_channels(source, kept):
    """Nothing of `source` writes to other channels than `kept`, nor do its norms; what is left there is zero."""
    dead = [c for c in range(source.cfg.encoder_embed_dim) if c not in kept]
    layers, positions = source.encoder.layers, source.encoder.pos_conv._modules["0"]
    for module in [source.post_extract_proj, *(p for layer in layers for p in (layer.self_attn.out_proj, layer.fc2))]:
        module.weight[dead] = 0
        module.bias[dead] = 0
    positions.weight_v[dead] = 0
    positions.bias[dead] = 0
    for norm in list_norms(source):
        norm.weight[dead] = 0
        norm.bias[dead] = 0


KEPT = [1, 3, 4, 5, 6, 9, 10, 11, 13, 14, 16, 17, 18, 20, 22, 23]  # four of six in each of the four groups


@pytest.mark.parametrize("measure", MEASURES)
def test_before_the_first_norm_zero_channels_change_nothing(measure):
    """In a pre-norm model h[0] is projection and positions alone: this is the grouped convolution, cut exactly."""
    source = build(**PRE_NORM)
    silence_channels(source, KEPT)
    student, chosen, _ = narrow(source, measure=measure, encoder_embed_dim=16)
    assert chosen.width.tolist() == KEPT
    waves, _ = make_waves()
    with torch.no_grad():
        ours, theirs = student.encode(waves, layers={0}), source.encode(waves, layers={0})
    torch.testing.assert_close(ours.features, theirs.features[..., KEPT])
    torch.testing.assert_close(ours.hidden[0], theirs.hidden[0][..., KEPT])
    assert theirs.hidden[0].abs().sum((0, 1)).gt(0).nonzero().flatten().tolist() == KEPT


@pytest.mark.parametrize("kind", [{}, PRE_NORM], ids=["post-norm", "pre-norm"])
@torch.no_grad()
def test_zero_channels_change_only_the_scale_of_the_norms(kind):
    """Kept channels come in pairs x and -x, so that they and all channels have mean 0.

    Their variance is 24 / 16 times that over all channels: with this in the norms' weights the student is the source.
    """
    source = build(**kind)
    silence_channels(source, KEPT)
    one, other = KEPT[0::2], KEPT[1::2]
    layers, positions = source.encoder.layers, source.encoder.pos_conv._modules["0"]
    positions.weight_g.zero_()  # its GELU makes no pairs
    positions.bias.zero_()
    for module in [source.post_extract_proj, *(p for layer in layers for p in (layer.self_attn.out_proj, layer.fc2))]:
        module.weight[other], module.bias[other] = -module.weight[one], -module.bias[one]
    for norm in list_norms(source):
        norm.weight[other], norm.bias[other] = norm.weight[one], -norm.bias[one]
        norm.eps = 0.0
    student, chosen, _ = narrow(source, encoder_embed_dim=16)
    assert chosen.width.tolist() == KEPT
    waves, _ = make_waves()
    expected = source.encode(waves)
    before = student.encode(waves)
    for norm in list_norms(student):
        norm.weight *= (24 / 16) ** 0.5
        norm.eps = 0.0
    found = student.encode(waves)
    for ours, theirs in zip([*found.hidden, found.x], [*expected.hidden, expected.x]):
        torch.testing.assert_close(ours, theirs[..., KEPT], rtol=1e-4, atol=1e-5)
    assert (before.x - expected.x[..., KEPT]).norm() > 0.05 * expected.x.norm(), "without it, another scale"


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
    """Part of the source's output that a linear map of the student's does not give, on other waves than were weighed."""
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
        importance = {u: torch.rand(len(v), generator=generator) for u, v in weigh_units(source, (1, 2)).items()}
        random.append(miss(source, narrow(source, importance=importance, **smaller)[0]))
    assert kept < sum(random) / len(random)


@torch.no_grad()
def test_importance_by_weights_is_the_formula():
    source = build(conv_bias=True)
    found = weigh_units(source, [2])
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
    source = build(**PRE_NORM)
    waves = read("activations")
    found = weigh_units(source, [1, 2], waves)
    again = weigh_units(source, [1, 2], waves)
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
    torch.testing.assert_close(found["conv", 0].float(), size[0] * reader.pow(2).sum((0, 2)).sqrt(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        found["ffn", 1].float(), size[1] * source.encoder.layers[1].fc2.weight.norm(dim=0), rtol=1e-4, atol=1e-6
    )


def source_context(attention, x):
    """Softmax attention written out: (1, frames, width) to the same of all heads' contexts."""
    q, k, v = (p(x)[0].view(x.size(1), 4, 6) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    scores = torch.einsum("qhd,khd->hqk", q, k) / 6**0.5
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(1, x.size(1), 24)


def test_of_equal_units_the_first_are_kept():
    assert keep_most_important(torch.tensor([1.0, 3.0, 1.0, 1.0]), 3).tolist() == [0, 1, 2]
    assert keep_most_important(torch.ones(3), 3).tolist() == [0, 1, 2]
    assert keep_most_important(torch.ones(3), 0).tolist() == [] and keep_most_important(None, 0).tolist() == []
    assert keep_most_important(torch.ones(3), 4) is None and keep_most_important(None, 1) is None


def test_other_groups_of_the_positional_convolution_let_it_start_from_scratch():
    source = build()
    student, chosen, copied = narrow(source, encoder_embed_dim=16, conv_pos_groups=2)
    best = weigh_units(source, (1, 2))[WIDTH].topk(16).indices.sort().values
    assert torch.equal(chosen.width, best) and "encoder.pos_conv" not in copied and "attention of layer 2" in copied
    _, chosen, copied = narrow(source, encoder_embed_dim=16)
    assert [sum(6 * g <= c < 6 * g + 6 for c in chosen.width.tolist()) for g in range(4)] == [4] * 4
    assert "encoder.pos_conv" in copied


def test_more_units_than_the_source_has_start_from_scratch_and_are_counted(caplog):
    source = build()
    shape = dict(encoder_layers=3, layer_ffn_dims=[12, 5, 5], layer_heads=[2, 6, 4], extractor_mode="layer_norm")
    with caplog.at_level("INFO"):
        _, chosen, copied = narrow(source, layers=[1, 2], encoder_embed_dim=16, **shape)
    assert chosen.ffn[0] is None and chosen.heads[1] is None and chosen.conv is None
    parts = {"attention of layer 1", "feed-forward of layer 2", "mask_emb", "encoder.pos_conv", "encoder.layer_norm"}
    assert set(copied) == parts
    # attention 8 and a norm 2, feed-forward 4 and a norm 2, mask, positions 3, norm 2
    assert "taken over: 22 tensors" in caplog.text and "from scratch: " in caplog.text
    assert "feed-forward of layer 1, attention of layer 2, attention of layer 3" in caplog.text


def test_layers_that_reuse_a_map_keep_the_heads_it_is_of():
    source = build(encoder_layers=3)
    _, alone, _ = narrow(source, layers=[1, 2, 3], layer_heads=[2, 2, 2])
    importance = weigh_units(source, (1, 2, 3))
    together = (importance["heads", 1].pow(2) + importance["heads", 2].pow(2)).topk(2).indices.sort().values
    assert not torch.equal(alone.heads[1], alone.heads[2]), "otherwise this test shows nothing"
    student, chosen, copied = narrow(source, layers=[1, 2, 3], layer_heads=[2, 2, 2], reuse_attention=[3])
    assert torch.equal(chosen.heads[1], together) and torch.equal(chosen.heads[2], together)
    assert torch.equal(chosen.heads[0], alone.heads[0]) and "attention of layer 3" in copied
    assert not hasattr(student.encoder.layers[2].self_attn, "q_proj")


def test_a_source_without_projection_gives_a_student_one_that_selects():
    source = build(**KINDS["no projection"])
    student, chosen, _ = narrow(source, encoder_embed_dim=16)
    selected = torch.zeros(16, 24)
    selected[range(16), chosen.width] = 1
    assert torch.equal(student.post_extract_proj.weight, selected)
    both = dict(encoder_embed_dim=16, conv_feature_layers="[(12,10,5), (10,3,2), (16,2,2)]")
    student, chosen, copied = narrow(source, **both)
    assert student.post_extract_proj is None and torch.equal(chosen.conv[-1], chosen.width)
    assert "feature_extractor" in copied


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(encoder_embed_dim=28), "encoder_embed_dim=28 is more"),
        (dict(encoder_embed_dim=16, head_dim=0), "6 wide in the checkpoint and 4 in the student: set model.head_dim=6"),
        (dict(layer_norm_first=True), "the checkpoint has layer_norm_first=False"),
        (dict(encoder_embed_dim=16, conv_feature_layers="[(12,10,5), (10,3,2), (16,2,2)]"), "model.project_features=true"),
    ],
)
def test_what_cannot_be_narrowed_is_a_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        narrow(build(), **settings)


def test_weights_that_are_not_finite_are_a_sentence():
    source = build()
    with torch.no_grad():
        source.encoder.layers[0].fc1.weight[2, 3] = float("nan")
    with pytest.raises(UserError, match="importance of its ffn, width is not finite"):
        weigh_units(source, [1])


def test_students_are_built_narrower_and_their_settings_stand_alone(tmp_path):
    teacher = save_teacher(tmp_path / "teacher.pt")
    shape = dict(encoder_embed_dim=24, encoder_attention_heads=2, head_dim=12, encoder_ffn_embed_dim=40)
    student = build_student(teacher, init_choice="every", init_width="weights", **shape)
    source = load_encoder(teacher)
    chosen = choose_units(student.cfg, source.cfg, [2, 3], weigh_units(source, [2, 3]))
    for place in (0, 1):
        ours, theirs = student.encoder.layers[place], source.encoder.layers[place + 1]
        assert torch.equal(ours.fc1.weight, theirs.fc1.weight[chosen.ffn[place]][:, chosen.width])
        assert torch.equal(ours.fc2.bias, theirs.fc2.bias[chosen.width])
        columns = torch.cat([torch.arange(h * 12, h * 12 + 12) for h in chosen.heads[place].tolist()])
        assert torch.equal(ours.self_attn.out_proj.weight, theirs.self_attn.out_proj.weight[chosen.width][:, columns])
        assert torch.equal(ours.self_attn.q_proj.weight, theirs.self_attn.q_proj.weight[columns][:, chosen.width])
    with pytest.raises(UserError, match="init_width=activations needs a training run"):
        build_student(teacher, init_width="activations", **shape)
