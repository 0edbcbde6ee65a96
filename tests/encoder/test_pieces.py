"""Long waves in pieces: as many frames as in one, each from its own samples; short waves as ever."""

import pytest
import torch
import torch.nn.functional as F

from fairseq_distill.encoder import pieces
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.conv_spec import count_frames
from fairseq_distill.encoder.pieces import cut_wave, encode_pieces, join_pieces
from fairseq_distill.evaluation.features import pool_wave

from ..builders import LARGE, build_encoder, build_multitask, make_waves

WHOLE = EncoderConfig()
DISTILLED = {"prediction_groups": "[[1],[2,3]]", "prediction_dim": 48}
REDUCED = EncoderConfig(time_reduction=2)
TELEPHONE = EncoderConfig(sample_rate=8_000, conv_feature_layers="[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)]")


@pytest.fixture
def short_pieces(monkeypatch):
    """Pieces of at most 40 of the small encoder's frames."""
    monkeypatch.setattr(pieces, "LONGEST", 0.1)


@pytest.mark.parametrize("cfg", [WHOLE, REDUCED, TELEPHONE])
def test_pieces_have_all_frames_of_a_wave_each_once_and_none_is_long(cfg):
    layers, stride, rate = cfg.frame_layers, cfg.frame_stride, cfg.sample_rate
    for samples in [720, 1040, 639_999, 640_400, 640_401, 1_280_400, 1_300_001, 4_800_000, 57_600_123]:
        bounds = cut_wave(samples, cfg)
        frames = [count_frames(stop - start, layers) for start, stop in bounds]
        assert sum(frames) == count_frames(samples, layers) and bounds[-1][1] == samples
        assert [start for start, _ in bounds] == [stride * sum(frames[:piece]) for piece in range(len(bounds))]
        assert max(frames) <= 40 * rate // stride and max(frames) - min(frames) <= 1
    whole = 40 * rate + cfg.shortest_wave - stride  # as many frames as 40 s have
    assert cut_wave(whole, cfg) == [(0, whole)] and len(cut_wave(whole + stride, cfg)) == 2
    assert cut_wave(cfg.shortest_wave - 1, cfg) == []


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("settings", [{}, LARGE, {"time_reduction": 3}])
def test_each_piece_is_what_the_encoder_makes_of_its_samples(short_pieces, settings, normalize):
    encoder = build_encoder(**settings)
    wave = 3 * make_waves(1, 5037)[0][0] + 1
    scaled = F.layer_norm(wave, wave.shape) if normalize else wave
    bounds = cut_wave(len(wave), encoder.cfg)
    assert len(bounds) >= 2
    with torch.inference_mode():
        expected = [encoder.encode(scaled[None, start:stop]) for start, stop in bounds]
        encoder.normalize_input = normalize
        found = join_pieces(list(encode_pieces(encoder, wave)))
    assert encoder.normalize_input is normalize
    for layer, state in enumerate(found.hidden):
        assert torch.equal(state, torch.cat([output.hidden[layer] for output in expected], 1))
        assert state.size(1) == count_frames(len(wave), encoder.cfg.frame_layers)
    assert torch.equal(found.x, torch.cat([output.x for output in expected], 1))
    assert torch.equal(found.features, torch.cat([output.features for output in expected], 1))


def test_only_layers_asked_for_are_joined(short_pieces):
    found = join_pieces(list(encode_pieces(build_encoder(), make_waves(1, 5037)[0][0], layers=[1])))
    assert [state is not None for state in found.hidden] == [False, True, False, False] and found.x is None


def test_a_short_wave_is_as_ever_to_the_bit():
    encoder, wave = build_encoder(), make_waves(1, 5037)[0][0]
    encoder.normalize_input = True
    with torch.inference_mode():
        (found,), expected = encode_pieces(encoder, wave), encoder(wave.unsqueeze(0))
        means = torch.stack([state[0].mean(0) for state in expected.hidden]).numpy()
    assert all(torch.equal(*pair) for pair in zip(found.hidden, expected.hidden))
    assert (pool_wave(encoder, wave) == means).all()


def test_pooled_features_of_pieces_are_the_mean_over_all_their_frames(short_pieces):
    encoder, wave = build_encoder(), make_waves(1, 5037)[0][0]
    with torch.inference_mode():
        joined = join_pieces(list(encode_pieces(encoder, wave)))
    expected = torch.stack([state[0].double().mean(0) for state in joined.hidden])
    assert torch.allclose(torch.from_numpy(pool_wave(encoder, wave)).double(), expected, atol=1e-6)


@pytest.mark.parametrize("adapter", [0, 4])
def test_heads_hear_the_whole_of_a_wave_that_its_encoder_had_in_pieces(monkeypatch, adapter):
    model = build_multitask(**(dict(adapter=adapter, **DISTILLED) if adapter else {}))
    wave = make_waves(1, 5037)[0][0]
    with torch.inference_mode():
        expected = model(wave.unsqueeze(0))
    found = model.run_wave(wave)
    for name, score in expected.scores.items():
        assert torch.equal(found.scores[name], score) and torch.equal(found.embeddings[name], expected.embeddings[name])
    monkeypatch.setattr(pieces, "LONGEST", 0.1)
    cut = model.run_wave(wave)
    assert cut.encoder.hidden[-1].shape == expected.encoder.hidden[-1].shape
    first = cut_wave(len(wave), model.cfg)[0]
    one = model.run_wave(wave[slice(*first)]).encoder.hidden[-1]
    assert torch.equal(cut.encoder.hidden[-1][:, : one.size(1)], one)
    for name, head in model.heads.items():
        with torch.inference_mode():
            joined = head.score(head.embed(cut.encoder, None))
        assert torch.equal(cut.scores[name], joined)
        assert not torch.equal(cut.scores[name], expected.scores[name])
