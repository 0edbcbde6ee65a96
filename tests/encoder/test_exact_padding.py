"""With exact padding a wave gives the same alone and in any batch: many networks, random batches, values, gradients."""

from typing import Dict, List, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fairseq_distill.encoder.model import EncoderOutput, SpeechEncoder
from fairseq_distill.pruning.surgery import prune_encoder

from ..builders import (
    LARGE,
    SHAPES,
    UNEVEN,
    UNITS,
    WAVLM,
    build_dictionary,
    build_encoder,
    build_gated,
    build_stock_wav2vec2,
    make_waves,
    spread_gates,
)

LIMIT = 1e-5  # of the largest value; the promise is 1e-4
DATA2VEC = SHAPES["data2vec"]
NETWORKS = {
    **SHAPES,
    "data2vec, group norm": dict(DATA2VEC, extractor_mode="default"),
    "data2vec, pre-norm": dict(DATA2VEC, layer_norm_first=True),
    "data2vec, even kernels": dict(DATA2VEC, conv_pos=12),
    "data2vec, time reduction": dict(DATA2VEC, time_reduction=2),
    "stack under another name": dict(pos_conv_depth=2, conv_pos=16),
    "uneven data2vec": {**UNEVEN, **DATA2VEC},
    "batch norm, odd kernel": dict(conv_pos_batch_norm=True, conv_pos=15),
    "batch norm, time reduction": dict(conv_pos_batch_norm=True, time_reduction=3),
    "batch norm, large": dict(LARGE, conv_pos_batch_norm=True),
    "batch norm, wavlm": dict(WAVLM, conv_pos_batch_norm=True),
    "wavlm, time reduction": dict(WAVLM, time_reduction=2),
    "pre-norm, group norm, time reduction": dict(layer_norm_first=True, time_reduction=2),
    "normalised waves": dict(normalize=True),
    "normalised waves, large": dict(LARGE, normalize=True),
    "overlapping little": dict(conv_feature_layers="[(8,4,5),(12,3,3)] + [(16,2,2)] * 2"),
}
TRAINED = ["hubert", "large", "wavlm", "data2vec, group norm", "batch norm, time reduction", "maps reused, pre-norm"]


class Batch(NamedTuple):
    """Waves of random lengths in random order, some without a frame, with sound where padding is."""

    waves: Tensor
    mask: Tensor
    lengths: List[int]


def build(name: str) -> SpeechEncoder:
    encoder = build_encoder(**NETWORKS[name])
    return prepare(encoder)


def prepare(encoder: SpeechEncoder) -> SpeechEncoder:
    """With exact padding, waves normalised as the settings say, running statistics that show."""
    encoder.exact_padding, encoder.normalize_input = True, encoder.cfg.normalize
    generator = torch.Generator().manual_seed(7)
    for name, value in encoder.named_buffers():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=generator))
        elif name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return encoder


def draw_batch(encoder: SpeechEncoder, seed: int) -> Batch:
    """From a wave of one frame to one of hundreds; one too short for a frame, and one of padding alone."""
    rng, shortest = np.random.default_rng(seed), encoder.cfg.shortest_wave
    lengths = [shortest + int(shortest * rng.exponential(4)) for _ in range(rng.integers(1, 4))]
    lengths += [shortest, shortest + 1, shortest + encoder.cfg.frame_stride, int(rng.integers(3000, 4000))]
    lengths += [int(rng.integers(1, shortest)), 1, 0]
    lengths = rng.permutation(lengths).tolist()
    samples = max(lengths) + int(rng.choice([0, 0, 700]))
    waves = 0.3 + torch.from_numpy(rng.standard_normal((len(lengths), samples)).astype(np.float32))
    return Batch(waves, torch.arange(samples)[None, :] >= torch.tensor(lengths)[:, None], lengths)


def assert_like_alone(encoder: SpeechEncoder, batch: Batch, note: str) -> None:
    maps = [number for number, heads in enumerate(encoder.cfg.heads, start=1) if heads]
    padded = encoder.encode(batch.waves, batch.mask, maps=maps)
    together = [padded.features, *padded.hidden, padded.x, *(padded.maps[number] for number in maps)]
    assert all(bool(x.isfinite().all()) for x in together), note
    for row, length in enumerate(batch.lengths):
        frames = int((~padded.padding_mask[row]).sum())
        if length < encoder.cfg.shortest_wave:
            assert frames == 0, (note, length)
            continue
        out = encoder.encode(batch.waves[row : row + 1, :length], maps=maps)
        alone = [out.features, *out.hidden, out.x, *(out.maps[number] for number in maps)]
        assert frames == out.x.size(1) and not padded.padding_mask[row, :frames].any(), (note, length)
        for place, (one, expected) in enumerate(zip(together, alone)):
            own = one[row][tuple(slice(size) for size in expected.shape[1:])]
            apart = float((own - expected[0]).abs().max() / expected.abs().max())
            assert apart < LIMIT, (note, f"{length} samples", f"output {place}", apart)
        for number in maps:
            assert not padded.maps[number][row, :frames, frames:].any(), (note, "attention to padding")


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_wave_gives_the_same_alone_and_in_any_batch(name):
    encoder = build(name)
    for seed in range(3):
        assert_like_alone(encoder, draw_batch(encoder, seed), f"{name}, seed {seed}")


@pytest.mark.parametrize("name", ["hubert", "data2vec", "batch norm", "wavlm large"])
@torch.no_grad()
def test_gated_and_cut_networks_too(name):
    gated = prepare(build_gated(**NETWORKS[name], encoder_layers=3))
    spread_gates(gated, mean=0.0)
    pruned = prune_encoder(gated)
    cut = SpeechEncoder(pruned.config).eval()
    cut.load_state_dict(pruned.weights)
    assert cut.cfg.prune == [] and gated.cfg.prune == UNITS
    cut.exact_padding = True
    for encoder in (gated, cut):
        assert_like_alone(encoder, draw_batch(encoder, 5), name)


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_are_the_sum_of_those_of_the_waves_alone(name):
    encoder = build(name).double().train()
    for module in encoder.modules():  # its batch statistics depend on the other waves, see below
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    batch = draw_batch(encoder, 11)
    weights = torch.randn(batch.waves.size(1), 48, generator=torch.Generator().manual_seed(2)).double()

    def measure(waves: Tensor, mask=None) -> Dict[str, Tensor]:
        out = encoder(waves, mask)
        total = 0.0
        for x in (out.features, *out.hidden, out.x):
            valid = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else find_valid(x, out, encoder, mask)
            total = total + ((x.pow(2) + x) * weights[: x.size(1)] * valid.unsqueeze(-1)).sum()
        encoder.zero_grad()
        total.backward()
        return {key: p.grad.clone() for key, p in encoder.named_parameters() if p.grad is not None}

    together = measure(batch.waves.double(), batch.mask)
    rows = [row for row, length in enumerate(batch.lengths) if length >= encoder.cfg.shortest_wave]
    alone = [measure(batch.waves[row : row + 1, : batch.lengths[row]].double()) for row in rows]
    assert len(rows) >= 5 and set(together) == set(alone[0])
    reached = {key for key, p in encoder.named_parameters()} - {"mask_emb"}
    assert set(together) == reached
    sums = {key: sum(own[key] for own in alone) for key in together}
    least = 1e-4 * max(float(expected.abs().max()) for expected in sums.values())  # keys' biases change nothing
    for key, expected in sums.items():
        size = max(float(expected.abs().max()), least)
        assert float((together[key] - expected).abs().max()) < LIMIT * size, key


def find_valid(x: Tensor, out: EncoderOutput, encoder: SpeechEncoder, mask: Tensor) -> Tensor:
    """Frames of x, features or hidden states, that are no padding, of waves that are long enough to be run alone."""
    if x is not out.features:
        return ~out.padding_mask
    lengths = (~mask).sum(1, keepdim=True)
    frames = encoder.feature_extractor.count_frames(lengths) * (lengths >= encoder.cfg.shortest_wave)
    return torch.arange(x.size(1)) < frames


@pytest.mark.parametrize("name", ["hubert", "batch norm", "data2vec", "wavlm", "maps reused", "time reduction"])
def test_rows_without_a_frame_leave_gradients_finite(name):
    encoder = build(name).train()
    waves, lengths = make_waves(batch=4)[0], torch.tensor([4000, 0, 1, encoder.cfg.shortest_wave - 1])
    mask = torch.arange(4000)[None, :] >= lengths[:, None]
    out = encoder.encode(waves, mask, maps=[1, 2, 3])
    assert (~out.padding_mask).sum(1).tolist() == [out.x.size(1), 0, 0, 0]
    (out.x.masked_fill(out.padding_mask.unsqueeze(-1), 0).pow(2).sum() + out.maps[3][0].pow(2).sum()).backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert len(gradients) > 30 and all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("name", ["batch norm", "batch norm, time reduction"])
def test_batch_norm_in_training_sees_no_padding(name):
    """A wave and its padding: the batch's statistics are the wave's, and so are the running ones."""
    waves = torch.randn(1, 3000, generator=torch.Generator().manual_seed(4))
    mask = torch.arange(3000)[None, :] >= 2000
    outputs, encoders = [], [build(name).train() for _ in range(3)]
    encoders[2].exact_padding = False
    for encoder, given in zip(encoders, [(waves[:, :2000],), (waves, mask), (waves, mask)]):
        out = encoder(*given)
        frames = outputs[0].size(1) if outputs else out.x.size(1)
        outputs.append(out.x[:, :frames])
        outputs[-1].pow(2).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    assert (outputs[2] - outputs[0]).abs().max() > 0.01, "otherwise this test shows nothing"
    states = [dict(encoder.encoder.pos_conv.named_buffers()) for encoder in encoders]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-5, atol=1e-6)
    gradients = [[p.grad for p in encoder.parameters() if p.grad is not None] for encoder in encoders]
    assert len(gradients[0]) == len(gradients[1]) > 30
    for one, expected in zip(gradients[1], gradients[0]):
        torch.testing.assert_close(one, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()) + 1e-4)


def test_masked_prediction_and_extract_features_do_not_see_padding(monkeypatch):
    """fairseq's own forward pass, of which the padded batch and the same waves one by one are compared."""
    dictionary = build_dictionary()
    spans = np.random.default_rng(3).random((3, 200)) < 0.4
    row = slice(None)
    monkeypatch.setattr(
        "fairseq.models.hubert.hubert.compute_mask_indices", lambda shape, *a, **k: spans[row, : shape[1]]
    )
    settings = dict(DATA2VEC, extractor_mode="default", mask_prob=0.5, label_rate=400.0)
    encoder = SpeechEncoder(build_encoder(**settings).cfg, dictionaries=[dictionary]).eval()
    encoder.exact_padding = True
    waves, mask = make_waves(padded=True)
    lengths = (~mask).sum(1).tolist()
    targets = torch.randint(4, len(dictionary), (3, 100), generator=torch.Generator().manual_seed(0))
    together = encoder(waves, target_list=[targets], padding_mask=mask)
    extracted, frame_mask = encoder.extract_features(waves, padding_mask=mask)
    logits, penalties, frames = [], [], []
    for index, length in enumerate(lengths):
        row = slice(index, index + 1)
        wave, no_mask = waves[row, :length], torch.zeros(1, length, dtype=torch.bool)
        own = encoder(wave, target_list=[targets[row]], padding_mask=no_mask)
        logits.append(own["logit_m_list"][0])
        penalties.append(own["features_pen"])
        x, _ = encoder.extract_features(wave, padding_mask=no_mask)
        frames.append(x.size(1))
        torch.testing.assert_close(extracted[index, : x.size(1)], x[0], rtol=1e-4, atol=1e-5)
    assert (~frame_mask).sum(1).tolist() == frames and max(frames) > 1.5 * min(frames)
    torch.testing.assert_close(together["logit_m_list"][0], torch.cat(logits), rtol=1e-4, atol=1e-5)
    weighted = sum(penalty * count for penalty, count in zip(penalties, frames)) / sum(frames)
    torch.testing.assert_close(together["features_pen"], weighted, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_mask_embeddings_do_not_reach_over_padding():
    encoder = build("data2vec, group norm")
    waves, mask = make_waves(padded=True)
    length = int((~mask[2]).sum())
    frames = encoder(waves, mask).features.size(1)
    chosen = torch.rand(3, frames, generator=torch.Generator().manual_seed(1)) < 0.5  # in padding too
    padded = encoder.encode(waves, mask, mask_indices=chosen)
    own = int((~padded.padding_mask[2]).sum())
    alone = encoder.encode(waves[2:, :length], mask_indices=chosen[2:, :own])
    assert own == alone.x.size(1) < 0.6 * frames
    torch.testing.assert_close(padded.x[2, :own], alone.x[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hubert", "data2vec", "batch norm", "large"])
@torch.no_grad()
def test_a_batch_without_padding_costs_nothing(name, monkeypatch):
    """Where it is known: the mask lies on the CPU."""
    encoder = build(name).train()
    waves, _ = make_waves()
    plain = encoder(waves)
    monkeypatch.setattr("fairseq_distill.encoder.padding.measure_moments", None)  # would fail if it ran
    masked = encoder(waves, torch.zeros(waves.shape, dtype=torch.bool))
    assert torch.equal(masked.features, plain.features) and not masked.padding_mask.any()
    torch.testing.assert_close(masked.x, plain.x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hubert", "data2vec, group norm", "data2vec", "batch norm", "wavlm"])
@torch.no_grad()
def test_without_it_a_wave_changes_with_its_batch(name):
    encoder = build(name)
    encoder.exact_padding = False
    with pytest.raises(AssertionError, match="as in fairseq"):
        assert_like_alone(encoder, draw_batch(encoder, 0), "as in fairseq")


@pytest.mark.parametrize("name", ["hubert", "data2vec", "batch norm", "wavlm", "maps reused", "time reduction"])
def test_nothing_waits_for_a_device(name):
    """On the meta device no value can be read: .item(), .tolist() and `if` of a tensor raise."""
    with torch.device("meta"):
        encoder = SpeechEncoder(build_encoder(**NETWORKS[name]).cfg).train()
        encoder.exact_padding = encoder.normalize_input = True
        waves, mask = torch.empty(2, 4000), torch.zeros(2, 4000, dtype=torch.bool)
        out = encoder(waves, mask)
        out.x.sum().backward()
    assert out.x.is_meta and out.padding_mask.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        mask.sum(1).tolist()


@torch.no_grad()
def test_export_with_free_batch_and_length():
    """A batch without padding is no special case in what is exported, nor is one with it."""
    encoder = build("batch norm")
    shapes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    example = torch.randn(2, 4000), torch.zeros(2, 4000, dtype=torch.bool)
    dynamic = {"source": shapes, "padding_mask": shapes}
    program = torch.export.export(encoder, example, dynamic_shapes=dynamic, strict=False).module()
    for waves, mask in (make_waves(batch=4, samples=5003, padded=True), example):
        out, expected = program(waves, mask), encoder(waves, mask)
        assert torch.equal(out.padding_mask, expected.padding_mask)
        valid = ~out.padding_mask
        torch.testing.assert_close(out.x[valid], expected.x[valid], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [dict(pos_conv_depth=3, extractor_mode="layer_norm"), dict(pos_conv_depth=2)])
@torch.no_grad()
def test_without_it_positions_see_padding_as_in_stock_fairseq(settings):
    stock = build_stock_wav2vec2(**settings)
    ours = build_encoder(**settings, family="wav2vec2")
    state = stock.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    waves, mask = make_waves(padded=True)
    theirs = stock(waves, padding_mask=mask, mask=False, features_only=True)
    outputs = []
    for exact in (False, True):
        ours.exact_padding = exact
        outputs.append(ours(waves, mask).x[~theirs["padding_mask"]])
    expected = theirs["x"][~theirs["padding_mask"]]
    torch.testing.assert_close(outputs[0], expected, rtol=1e-4, atol=1e-4)
    assert (outputs[1] - expected).abs().max() > 0.01
