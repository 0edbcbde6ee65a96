"""Attention maps as output, and frames masked as masked prediction masks them."""

import pytest
import torch

from fairseq_distill.encoder import attention

from ..builders import LARGE, WAVLM, build_encoder, build_stock_hubert, make_waves
from .plain_layers import run_plain


@pytest.mark.parametrize("kind", [{}, LARGE, WAVLM, dict(reuse_attention=[2], time_reduction=2)], ids=str)
@torch.no_grad()
def test_maps_are_the_mean_over_heads_of_plain_torchs(kind):
    encoder = build_encoder(**kind)
    waves, mask = make_waves(samples=2400, padded=True)
    out, without = encoder.encode(waves, padding_mask=mask, maps=[3, 2]), encoder(waves, padding_mask=mask)
    plain = run_plain(encoder, out.hidden[0], out.padding_mask)
    assert out.maps[0] is None and out.maps[1] is None and len(out.maps) == 4 and without.maps == ()
    for number in (2, 3):
        torch.testing.assert_close(out.maps[number], plain.maps[number - 1].mean(1), rtol=1e-4, atol=1e-6)
        assert not out.maps[number].transpose(1, 2)[out.padding_mask].any()  # nobody looks at padding
        torch.testing.assert_close(out.maps[number].sum(-1), torch.ones(out.x.shape[:2]))
    valid = ~out.padding_mask
    torch.testing.assert_close(out.x[valid], without.x[valid], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_maps_are_stock_fairseqs():
    stock = build_stock_hubert()
    ours = build_encoder()
    ours.load_state_dict({key: stock.state_dict()[key] for key in ours.state_dict()})
    waves, mask = make_waves(samples=2000, padded=True)
    out = ours.encode(waves, padding_mask=mask, maps=[1, 2, 3])
    for number, layer in enumerate(stock.encoder.layers, start=1):
        x = out.hidden[number - 1].transpose(0, 1)
        _, theirs = layer.self_attn(x, x, x, key_padding_mask=out.padding_mask, need_weights=True)
        torch.testing.assert_close(out.maps[number], theirs, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_maps_cost_nothing_unless_asked_for_and_the_run_stops_after_the_last(monkeypatch):
    encoder = build_encoder()
    waves, _ = make_waves(samples=1500)
    expected = encoder.encode(waves, maps=[1, 2]).maps
    encoder.encoder.layers[2].forward = None  # would fail if it ran
    out = encoder.encode(waves, layers=[0], maps=[2])
    torch.testing.assert_close(out.maps[2], expected[2])
    assert out.maps[1] is None
    assert [h is not None for h in out.hidden] == [True, False, False, False] and out.x is None
    monkeypatch.setattr(attention, "compute_map", None)
    encoder.encode(waves, layers=[2])
    with pytest.raises(TypeError):
        encoder.encode(waves, layers=[2], maps=[1])


@torch.no_grad()
def test_maps_are_of_the_network_without_dropout_and_in_its_precision():
    encoder = build_encoder(attention_dropout=0.5)
    waves, _ = make_waves(samples=1500)
    expected = encoder.encode(waves, maps=[1]).maps[1]
    encoder.train()
    for module in (encoder.dropout_input, encoder.dropout_features):
        module.p = 0.0
    torch.testing.assert_close(encoder.encode(waves, maps=[1]).maps[1], expected)
    half = encoder.eval().to(torch.bfloat16).encode(waves.to(torch.bfloat16), maps=[1]).maps[1]
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.2, atol=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder.float().encode(waves, maps=[1]).maps[1]
    torch.testing.assert_close(mixed.float(), expected, rtol=0.2, atol=0.01)


@torch.no_grad()
def test_layers_without_a_map_are_refused():
    encoder = build_encoder(layer_heads=[4, 0, 4])
    for number in (0, 2, 4):
        with pytest.raises(ValueError, match=rf"layers \[{number}\] have no attention map"):
            encoder.encode(make_waves(samples=1500)[0], maps=[1, number])


@pytest.mark.parametrize("kind", [{}, LARGE, dict(time_reduction=2)], ids=str)
@torch.no_grad()
def test_masked_frames_are_those_of_masked_prediction(kind):
    encoder = build_encoder(mask_prob=0.5, mask_length=4, **kind)
    waves, mask = make_waves(samples=2000, padded=True)
    drawn = []
    inherited = encoder.apply_mask

    def record(x, padding_mask, target_list):
        x, mask_indices = inherited(x, padding_mask, target_list)
        drawn.append(mask_indices)
        return x, mask_indices

    encoder.apply_mask = record
    theirs, padding_mask = encoder.extract_features(waves, padding_mask=mask, mask=True)
    out, unmasked = encoder.encode(waves, padding_mask=mask, mask_indices=drawn[0]), encoder(waves, padding_mask=mask)
    assert torch.equal(out.padding_mask, padding_mask) and 0 < drawn[0].sum() < drawn[0].numel()
    torch.testing.assert_close(out.x[~padding_mask], theirs[~padding_mask])
    assert (out.x - unmasked.x)[~padding_mask].abs().max() > 0.1
    assert torch.equal(out.features, unmasked.features)
    none = encoder.encode(waves, padding_mask=mask, mask_indices=torch.zeros_like(drawn[0]))
    torch.testing.assert_close(none.x[~padding_mask], unmasked.x[~padding_mask])
    with pytest.raises(ValueError, match="mask_indices is"):
        encoder.encode(waves, mask_indices=drawn[0][:, 1:])


def test_the_mask_embedding_learns():
    encoder = build_encoder()
    waves, _ = make_waves(batch=1, samples=1000)
    mask_indices = torch.zeros(1, encoder(waves).features.size(1), dtype=torch.bool)
    encoder.encode(waves, mask_indices=mask_indices).x.pow(2).sum().backward()
    assert not encoder.mask_emb.grad.any()
    mask_indices[0, 3:6] = True
    encoder.encode(waves, mask_indices=mask_indices).x.pow(3).sum().backward()
    assert encoder.mask_emb.grad.abs().min() > 0
