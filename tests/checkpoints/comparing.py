"""Hidden states of our encoder against the stock model's, on waves prepared as by fairseq's data set."""

import torch
import torch.nn.functional as F

SAMPLES, STRIDE, RECEPTIVE_FIELD = 4000, 40, 60


def make_waves(padded):
    """(waves (3, SAMPLES) with an offset that normalisation removes, padding mask or None)."""
    waves = 0.3 + 2 * torch.randn(3, SAMPLES, generator=torch.Generator().manual_seed(1))
    if not padded:
        return waves, None
    lengths = torch.tensor([SAMPLES, 2741, 1583])
    return waves, torch.arange(SAMPLES) >= lengths[:, None]


def run_stock(model, waves, mask, normalize):
    """Stock model on waves prepared as fairseq's data set does it: (x, frame mask, hidden states)."""
    prepared = torch.zeros_like(waves)
    for row, wave in enumerate(waves):
        wave = wave if mask is None else wave[~mask[row]]
        prepared[row, : len(wave)] = F.layer_norm(wave, wave.shape) if normalize else wave
    taps = []
    handles = [model.encoder.layers[0].register_forward_pre_hook(lambda module, inputs: taps.append(inputs[0]))]
    for layer in model.encoder.layers:
        handles.append(layer.register_forward_hook(lambda module, inputs, output: taps.append(output[0])))
    result = model.extract_features(source=prepared, padding_mask=mask)
    for handle in handles:
        handle.remove()
    if isinstance(result, tuple):  # HuBERT
        result = {"x": result[0], "padding_mask": result[1]}
    frames = result["x"].size(1)  # wav2vec 2.0 pads to an even number of frames inside
    return result["x"], result["padding_mask"], [tap.transpose(0, 1)[:, :frames] for tap in taps]


def assert_same(encoder, model, normalize, padded):
    waves, mask = make_waves(padded)
    x, frame_mask, hidden = run_stock(model, waves, mask, normalize)
    out = encoder(waves if mask is None else waves.masked_fill(mask, 0), padding_mask=mask)
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    if padded:
        assert torch.equal(out.padding_mask, frame_mask) and frame_mask.any()
        valid = ~frame_mask
    assert len(out.hidden) == len(hidden) == len(model.encoder.layers) + 1
    for ours, theirs in zip([out.x, *out.hidden], [x, *hidden]):
        torch.testing.assert_close(ours[valid], theirs[valid], rtol=1e-4, atol=1e-4)
