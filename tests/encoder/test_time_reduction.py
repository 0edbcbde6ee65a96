"""Time reduction: against plain torch, with padding, at every place that speaks of frames, and its upsampling heads."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_distill.distillation.heads import LinearHeads, build_heads, find_upsampling, upsample_mask
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.size import count_parameters, count_size, frame_rate, measure_parts
from fairseq_distill.errors import UserError
from fairseq_distill.layer_clusters.similarity import compare_encoders

from ..builders import KINDS, LARGE, SMALL, WAVLM, build_dictionary, build_encoder, make_waves
from .plain_layers import run_plain

STRIDE = 40  # samples to a frame of SMALL's features
PADDING_EXACT = dict(LARGE, family="wav2vec2")  # no statistics over time, and lengths by the convolutions' formula


def reduce_in_loops(encoder, x, factor):
    """The convolution of the time reduction, a frame at a time."""
    weight, bias = encoder.encoder.time_reduction.weight, encoder.encoder.time_reduction.bias
    frames = []
    for start in range(0, x.size(1) - factor + 1, factor):
        frames.append(bias + sum(x[:, start + k] @ weight[:, :, k].t() for k in range(factor)))
    return torch.stack(frames, dim=1)


@pytest.mark.parametrize("kind", ["hubert", "large", "wavlm"])
@pytest.mark.parametrize("factor", [2, 3])
@torch.no_grad()
def test_layers_run_on_reduced_frames(factor, kind):
    encoder = build_encoder(time_reduction=factor, **KINDS[kind])
    for samples in (1000, 1040, 1080):  # every remainder
        out = encoder(make_waves(samples=samples)[0])
        x = out.features + encoder.encoder.pos_conv(out.features.transpose(1, 2)).transpose(1, 2)
        x = x if encoder.cfg.layer_norm_first else encoder.encoder.layer_norm(x)
        plain = run_plain(encoder, reduce_in_loops(encoder, x, factor))
        assert plain.hidden[0].size(1) == out.features.size(1) // factor
        for ours, expected in zip(out.hidden, plain.hidden):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 3])
@torch.no_grad()
def test_a_padded_wave_gives_what_it_gives_alone(factor):
    encoder = build_encoder(time_reduction=factor, **PADDING_EXACT)
    lengths = [1500, 1040, 1000, 960]
    waves = torch.randn(4, 1500, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(1500)[None, :] >= torch.tensor(lengths)[:, None]
    out = encoder(waves.masked_fill(mask, 0.0), padding_mask=mask)
    remainders = set()
    for index, length in enumerate(lengths):
        alone = encoder(waves[index : index + 1, :length])
        valid = ~out.padding_mask[index]
        assert valid.sum() == alone.x.size(1) and valid[: alone.x.size(1)].all()
        remainders.add(alone.features.size(1) % factor)
        for padded, expected in zip(out.hidden + (out.x,), alone.hidden + (alone.x,)):
            torch.testing.assert_close(padded[index, valid], expected[0], rtol=1e-4, atol=1e-4)
    assert remainders == set(range(factor))


@torch.no_grad()
def test_fairseqs_interface_gives_the_mask_of_what_it_returns():
    encoder = build_encoder(time_reduction=2)
    waves, mask = make_waves(samples=2000, padded=True)
    out = encoder(waves, padding_mask=mask)
    x, padding_mask = encoder.extract_features(waves, padding_mask=mask)
    assert torch.equal(x[~padding_mask], out.x[~padding_mask]) and torch.equal(padding_mask, out.padding_mask)
    features, padding_mask = encoder.extract_features(waves, padding_mask=mask, ret_conv=True)
    assert padding_mask.shape == features.shape[:2] != x.shape[:2]


def test_what_speaks_of_frames_knows():
    cfg = EncoderConfig.from_settings({**SMALL, "time_reduction": 3, "label_rate": 100.0})
    encoder = SpeechEncoder(cfg).eval()
    assert cfg.frame_stride == 3 * STRIDE and frame_rate(cfg) == 16_000 / (3 * STRIDE)
    assert encoder.feat2tar_ratio == pytest.approx(100 * 3 * STRIDE / 16_000)
    with torch.no_grad():
        assert encoder(torch.randn(1, cfg.shortest_wave)).x.size(1) == 1
        with pytest.raises(ValueError, match="one frame takes at least"):
            encoder(torch.randn(1, cfg.shortest_wave - 1))
        waves, _ = make_waves(batch=1, samples=16_000)
        assert encoder(waves).x.size(1) == pytest.approx(frame_rate(cfg), abs=1)
    with pytest.raises(UserError, match="every 120 samples, the second every 40"):
        compare_encoders(encoder, SpeechEncoder(EncoderConfig.from_settings(SMALL)), [])
    with pytest.raises(ValueError, match="masked prediction needs time_reduction=1"):
        SpeechEncoder(cfg, dictionaries=[build_dictionary()])


@pytest.mark.parametrize("settings", [{}, LARGE, WAVLM, dict(reuse_attention=[2, 3])], ids=str)
def test_size_counts_fewer_frames_and_fewer_products(settings):
    encoder = build_encoder(time_reduction=2, **{"reuse_attention": [3], **settings})
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        encoder(torch.randn(1, 16_000 + STRIDE))  # an odd number of features' frames
    seconds = 1 + STRIDE / 16_000
    assert sum(part.macs for part in measure_parts(encoder.cfg, seconds)) == counter.get_total_flops() / 2
    assert sum(part.parameters for part in measure_parts(encoder.cfg)) == count_parameters(encoder)["encoder"]
    assert count_size(encoder.cfg).macs_per_second < 0.9 * count_size(build_encoder(**settings).cfg).macs_per_second


@torch.no_grad()
def test_upsampling_heads_are_a_transposed_convolution_and_a_linear_layer():
    torch.manual_seed(0)
    heads = build_heads("linear", 6, 10, 3, users=[0, 1, 1], upsample=[1, 3, 3])
    features, first, second = torch.randn(2, 14, 6), torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    predictions = heads([features, first, second])
    assert [p.shape for p in predictions] == [(2, 12, 10)] * 3
    assert list(heads.upsamplers) == ["1"] and heads.upsamplers["1"].weight.shape == (6, 6, 3)
    torch.testing.assert_close(predictions[0], heads.projections[0](features[:, :12]))
    up, linear = heads.upsamplers["1"], heads.projections[1]
    for x, prediction in ((first, predictions[1]), (second, predictions[2])):
        for frame in range(12):
            raised = x[:, frame // 3] @ up.weight[:, :, frame % 3] + up.bias
            torch.testing.assert_close(prediction[:, frame], raised @ linear.weight.t() + linear.bias)
    split = build_heads("split", 6, 10, 2, upsample=[2, 2])
    raised = split.upsampler(first)
    assert raised.shape == (2, 8, 6) and split([first, first])[1].shape == (2, 8, 10)
    torch.testing.assert_close(split([first, first])[0], build_without_upsampling(split)([raised, raised])[0])


def build_without_upsampling(split):
    plain = build_heads("split", 6, 10, 2)
    plain.load_state_dict({key: value for key, value in split.state_dict().items() if not key.startswith("upsampler")})
    return plain


def test_heads_without_reduction_are_what_they_were():
    heads = build_heads("linear", 6, 10, 2, upsample=[1, 1])
    assert set(heads.state_dict()) == set(LinearHeads(6, 10, 2).state_dict())
    assert [name.split(".")[0] for name in heads.state_dict()] == ["projections"] * 4


def test_predictions_are_padding_where_their_frames_are():
    encoder = build_encoder(time_reduction=2, **PADDING_EXACT)
    waves, mask = make_waves(samples=2000, padded=True)
    out = encoder(waves, padding_mask=mask)
    predictions = build_heads("linear", 48, 5, 2, upsample=find_upsampling([["f"], [3]], 2))(
        [out.features, out.hidden[3]]
    )
    predicted = upsample_mask(out.padding_mask, 2)
    assert predicted.shape == predictions[0].shape[:2] == predictions[1].shape[:2]
    frames = [count_features(int((~row).sum())) for row in mask]
    assert (~predicted).sum(1).tolist() == [n - n % 2 for n in frames] and any(n % 2 for n in frames)
    assert upsample_mask(None, 2) is None and upsample_mask(mask, 1) is mask


def count_features(samples: int) -> int:
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (2, 2)):
        samples = (samples - kernel) // stride + 1
    return samples


def test_features_are_not_reduced():
    assert find_upsampling([["f"], [0], [1, 3]], 2) == [1, 2, 2]
    assert find_upsampling([["f", 1], [2]], 1) == [1, 1]
    with pytest.raises(UserError, match=r"\[\[f,1\]\] averages the student's features f with layers"):
        find_upsampling([["f", 1], [2]], 2)
