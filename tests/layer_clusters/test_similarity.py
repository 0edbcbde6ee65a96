"""Hidden states of encoders compared: which frames count, which are drawn, and two encoders of different shape."""

import numpy as np
import pytest
import torch

from fairseq_distill.errors import UserError
from fairseq_distill.layer_clusters import similarity
from fairseq_distill.layer_clusters.cross_products import CrossProducts
from fairseq_distill.layer_clusters.similarity import MEASURES, compare_encoders, compute_similarity

from ..builders import KINDS, LARGE, build_encoder, make_waves
from .similarities import define_cka


def build(**settings):
    """A small encoder whose layers change what passes them, which random weights of a pre-norm model hardly do."""
    encoder = build_encoder(**settings)
    with torch.no_grad():
        for layer in encoder.encoder.layers:
            layer.fc2.weight.mul_(8)
            layer.self_attn.out_proj.weight.mul_(8)
    return encoder


def make_batches(count=4, padded=False):
    return [make_waves(padded=padded, seed=seed) for seed in range(count)]


@torch.no_grad()
def collect_states(encoder, batches):
    """Every hidden state of all waves, (frames, width), without padding."""
    outputs = [encoder(waves, padding_mask=mask) for waves, mask in batches]
    whole = torch.zeros(outputs[0].x.shape[:2], dtype=torch.bool)
    valid = [~(whole if o.padding_mask is None else o.padding_mask) for o in outputs]
    return [torch.cat([o.hidden[n][v] for o, v in zip(outputs, valid)]) for n in range(encoder.depth + 1)]


@pytest.mark.parametrize("kind", ["hubert", "large", "wavlm", "wavlm large"])
def test_all_pairs_of_hidden_states_without_padded_frames(kind):
    encoder, batches = build(**KINDS[kind]), make_batches(padded=True)
    found = compute_similarity(encoder, batches, share=1)
    states = collect_states(encoder, batches)
    np.testing.assert_allclose(found.values, [[define_cka(x, y) for y in states] for x in states], atol=1e-5)
    assert found.frames == found.seen == len(states[0])
    assert found.values.shape == (4, 4) and found.values.min() < 0.99


def test_what_stands_in_padded_frames_does_not_matter():
    encoder = build()
    batches = make_batches(padded=True)
    reference = compute_similarity(encoder, batches, share=1)
    encode = encoder.encode

    def spoil(source, padding_mask, layers=None):
        output = encode(source, padding_mask, layers)
        hidden = tuple(h.masked_fill(output.padding_mask.unsqueeze(-1), float("nan")) for h in output.hidden)
        return output._replace(hidden=hidden)

    encoder.encode = spoil
    np.testing.assert_array_equal(compute_similarity(encoder, batches, share=1).values, reference.values)


def test_batches_do_not_matter():
    encoder = build(**LARGE)
    waves = make_waves(batch=6)[0]
    together = compute_similarity(encoder, [(waves, None)], share=1)
    alone = compute_similarity(encoder, ((wave.unsqueeze(0), None) for wave in waves), share=1)
    np.testing.assert_allclose(alone.values, together.values, rtol=1e-4)


def test_mean_cosine_is_that_of_every_frame():
    encoder, batches = build(), make_batches(padded=True)
    states = torch.stack(collect_states(encoder, batches)).double()
    expected = torch.cosine_similarity(states[:, None], states[None], dim=-1).mean(-1)
    found = compute_similarity(encoder, batches, "cosine", share=1)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)


def test_a_seed_draws_the_same_frames_and_another_seed_others():
    encoder, batches = build(), make_batches()
    values = [compute_similarity(encoder, batches, share=0.3, seed=seed).values for seed in (5, 5, 6)]
    np.testing.assert_array_equal(values[0], values[1])
    assert np.abs(values[0] - values[2]).max() > 1e-4


@pytest.mark.parametrize("measure", ["debiased_cka", "cosine"])
def test_drawing_frames_is_unbiased(measure):
    """Over many draws the mean is the value on all frames, within four standard errors, and the share is kept."""
    encoder, batches = build(), make_batches(count=8)
    states = [[state] for state in collect_states(encoder, batches)]
    replay = Replay(encoder, [torch.stack(state) for state in states])
    everything = compute_similarity(replay, [(torch.zeros(1, 1), None)], measure, share=1)
    draws = [compute_similarity(replay, [(torch.zeros(1, 1), None)], measure, 0.25, seed) for seed in range(300)]
    values = np.array([draw.values for draw in draws])[:, ~np.eye(4, dtype=bool)]
    error = values.std(0) / np.sqrt(len(draws))
    assert (np.abs(values.mean(0) - everything.values[~np.eye(4, dtype=bool)]) < 4 * error + 1e-6).all()
    assert error.max() < 0.005
    kept = np.mean([draw.frames for draw in draws]) / everything.frames
    assert abs(kept - 0.25) < 4 * np.sqrt(0.25 * 0.75 / everything.frames / len(draws))


class Replay:
    """Stands for an encoder: the same hidden states whatever comes in."""

    def __init__(self, encoder, hidden):
        self.depth, self.cfg, self.parameters = encoder.depth, encoder.cfg, encoder.parameters
        self.hidden, self.padding_mask = hidden, None

    def encode(self, source, padding_mask):
        return self


def test_plain_cka_of_few_frames_is_warned_about(caplog):
    encoder = build()
    compute_similarity(encoder, make_batches(count=1), share=0.1)
    assert "too high where frames are few" in caplog.text
    caplog.clear()
    compute_similarity(encoder, make_batches(count=1), share=1)
    compute_similarity(encoder, make_batches(count=1), "debiased_cka", share=0.1)
    assert not caplog.text


def test_two_encoders_of_different_width_and_depth():
    one, other = build(encoder_layers=2, encoder_embed_dim=32, encoder_ffn_embed_dim=40), build(**LARGE)
    batches = make_batches(padded=True)
    found = compare_encoders(one, other, batches, share=1)
    rows, columns = collect_states(one, batches), collect_states(other, batches)
    np.testing.assert_allclose(found.values, [[define_cka(x, y) for y in columns] for x in rows], atol=1e-5)
    assert found.values.shape == (3, 4)


@pytest.mark.parametrize("measure", MEASURES)
def test_an_encoder_beside_itself_is_like_itself(measure):
    encoder, batches = build(), make_batches()
    beside = compare_encoders(encoder, encoder, batches, measure, seed=2)
    alone = compute_similarity(encoder, batches, measure, seed=2)
    np.testing.assert_allclose(beside.values, alone.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(beside.values.diagonal(), 1, rtol=1e-6)


def test_frames_at_the_end_that_only_one_encoder_makes_are_left_out():
    one, other = build(), build(conv_feature_layers="[(24,10,5)] + [(24,3,2)] * 2 + [(32,8,2)]")
    waves, _ = make_waves()
    with torch.no_grad():
        a, b = one(waves).hidden[1], other(waves).hidden[2]
    assert a.size(1) > b.size(1)
    found = compare_encoders(one, other, [(waves, None)], share=1)
    assert found.frames == 3 * b.size(1)
    assert found.values[1, 2] == pytest.approx(define_cka(a[:, : b.size(1)].flatten(0, 1), b.flatten(0, 1)), rel=1e-4)


def test_wrong_requests_are_sentences():
    one, batches = build(), make_batches(count=1)
    slow = build(conv_feature_layers="[(24,10,5)] + [(24,3,2)] * 2 + [(32,2,4)]")
    narrow = build(encoder_embed_dim=32, encoder_ffn_embed_dim=40)
    for call, word in (
        (lambda: compare_encoders(one, slow, batches), "every 40 samples, the second every 80"),
        (lambda: compare_encoders(one, build(sample_rate=8000), batches), "at 16000 Hz, the second at 8000 Hz"),
        (lambda: compare_encoders(one, narrow, batches, "cosine"), "equal widths, and these are 48 and 32"),
        (lambda: compute_similarity(one, batches, "pwcca"), "must be one of cka, debiased_cka, cosine"),
        (lambda: compute_similarity(one, batches, share=0), "share=0"),
        (lambda: compute_similarity(one, []), "0 frames are too few"),
        (lambda: compute_similarity(one, [], "cosine"), "no frame"),
    ):
        with pytest.raises(UserError, match=word):
            call()


def test_a_state_without_a_similarity_is_named_with_its_encoder():
    one, other = build(), build()
    with torch.no_grad():
        other.encoder.layers[1].final_layer_norm.weight.zero_()
    with pytest.raises(UserError, match=r"h\[2\] of the second encoder is the same in all"):
        compare_encoders(one, other, make_batches(count=1))
    with pytest.raises(UserError, match=r"h\[2\] is the same in all"):
        compute_similarity(other, make_batches(count=1))


def test_memory_does_not_grow_with_the_audio(monkeypatch):
    """Sums, and the frames that wait for them, stay as large as after the first chunk."""
    sizes, add = [], CrossProducts.add

    def watch(self, states):
        add(self, states)
        sizes.append((len(states[0]), sum(total.numel() for total in self.sums.values())))

    monkeypatch.setattr(CrossProducts, "add", watch)
    monkeypatch.setattr(similarity, "CHUNK", 200)
    compute_similarity(build(), make_batches(count=10), share=0.5)
    assert len(sizes) > 3
    assert {size for _, size in sizes} == {10 * 50 * 50}
    assert max(frames for frames, _ in sizes) < 200 + 300
