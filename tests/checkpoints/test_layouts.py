"""Every layout that people have loads as it is and gives the stock model's hidden states."""

import logging

import pytest
import torch
import torch.nn.functional as F

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint

from ..builders import LARGE
from . import layouts
from .comparing import RECEPTIVE_FIELD, SAMPLES, STRIDE, assert_same, make_waves

# layout -> (stock model, what writes it, normalised waves)
LAYOUTS = {
    "HuBERT Base": (lambda: layouts.build_hubert(), layouts.write_hubert, False),
    "HuBERT Large": (lambda: layouts.build_hubert(**LARGE), layouts.write_hubert, True),
    "wav2vec 2.0 Base, argparse": (lambda: layouts.build_wav2vec2(), layouts.write_argparse_wav2vec2, False),
    "wav2vec 2.0 LV-60, argparse": (lambda: layouts.build_wav2vec2(**LARGE), layouts.write_argparse_wav2vec2, True),
    "wav2vec 2.0 Base, hydra": (lambda: layouts.build_wav2vec2(), layouts.write_wav2vec2, False),
    "XLSR, MMS": (lambda: layouts.build_wav2vec2(**LARGE), layouts.write_wav2vec2, True),
    "hubert_ctc": (lambda: layouts.build_hubert(**LARGE), layouts.write_hubert_ctc, True),
    "wav2vec_ctc, hydra": (lambda: layouts.build_wav2vec2(), layouts.write_wav2vec_ctc, False),
    "wav2vec_ctc, argparse": (
        lambda: layouts.build_wav2vec2(),
        lambda path, model, normalize: layouts.write_wav2vec_ctc(path, model, normalize, argparse_era=True),
        False,
    ),
    "data2vec audio": (lambda: layouts.build_data2vec(), layouts.write_data2vec, True),
}
LEFT_OUT = {
    "HuBERT Base": "final_proj (2), label_embs_concat (1)",
    "wav2vec 2.0 Base, argparse": "final_proj (2), project_q (2), quantizer (3)",
    "hubert_ctc": "label_embs_concat (1), w2v_encoder.proj (2)",
    "wav2vec_ctc, argparse": "w2v_encoder.proj (2)",
    "data2vec audio": "_ema (60), final_proj (2)",
}


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request, tmp_path_factory):
    """(name, file, stock model, normalised or not)."""
    build, write, normalize = LAYOUTS[request.param]
    model = build()
    return request.param, write(tmp_path_factory.mktemp("layout") / "model.pt", model, normalize), model, normalize


@torch.no_grad()
def test_hidden_states_equal_the_stock_model(layout, caplog):
    name, path, model, normalize = layout
    with caplog.at_level(logging.INFO, logger="fairseq_distill"):
        encoder = load_encoder(path)
    assert not encoder.training
    assert all(value.device.type == "cpu" and value.dtype == torch.float32 for value in encoder.parameters())
    assert_same(encoder, model, normalize, padded=False)
    assert_same(encoder, model, normalize, padded=True)
    (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert str(path) in line and "3 layers x 48" in line
    assert ("pre-norm" in line) == model.cfg.layer_norm_first
    if name in LEFT_OUT:
        assert line.endswith(f"left out: {LEFT_OUT[name]}")


def test_settings_are_the_files(layout):
    name, path, model, normalize = layout
    checkpoint = read_checkpoint(path)
    assert checkpoint.config.normalize is normalize
    assert checkpoint.sample_rate == 16_000
    for key in ("extractor_mode", "conv_bias", "layer_norm_first", "conv_pos", "conv_feature_layers", "dropout"):
        assert getattr(checkpoint.config, key) == getattr(model.cfg, key), key
    families = {"HuBE": "hubert", "hube": "hubert", "data": "data2vec"}
    assert checkpoint.config.family == families.get(name[:4], "wav2vec2")


@torch.no_grad()
def test_normalisation_is_applied_only_where_the_file_asks_for_it(tmp_path):
    model = layouts.build_wav2vec2(**LARGE)  # the group norm of Base takes offset and scale out by itself
    waves, mask = make_waves(padded=True)
    outputs = []
    for normalize in (False, True):
        encoder = load_encoder(layouts.write_wav2vec2(tmp_path / f"{normalize}.pt", model, normalize))
        outputs.append((encoder(waves, padding_mask=mask).x, encoder(5 * waves + 3, padding_mask=mask).x))
    (plain, plain_scaled), (normed, normed_scaled) = outputs
    torch.testing.assert_close(normed, normed_scaled, rtol=1e-3, atol=1e-3)
    assert (plain - plain_scaled).abs().max() > 0.1 and (plain - normed).abs().max() > 0.1


@torch.no_grad()
def test_batch_norm_positional_convolution(tmp_path):
    try:
        model = layouts.build_hubert(conv_pos_batch_norm=True)
    except TypeError:
        pytest.skip("this fairseq (0.12.2) has no conv_pos_batch_norm")
    path = layouts.write_hubert(tmp_path / "hubert.pt", model)
    encoder = load_encoder(path)
    assert encoder.state_dict()["encoder.pos_conv.0.num_batches_tracked"].dtype == torch.int64
    for padded in (False, True):
        assert_same(encoder, model, False, padded)


@pytest.mark.parametrize("size", ["Base", "Large"])
@torch.no_grad()
def test_wavlm_equals_torchaudio(tmp_path, size):
    wavlm_model = pytest.importorskip("torchaudio.models").wavlm_model
    large = size == "Large"
    theirs = wavlm_model(
        extractor_mode="layer_norm" if large else "group_norm",
        extractor_conv_layer_config=[(24, 10, 5), (24, 3, 2), (24, 3, 2), (32, 2, 2)],
        extractor_conv_bias=large,
        encoder_embed_dim=48,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_num_buckets=32,
        encoder_max_distance=20,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=80,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=large,
        encoder_layer_drop=0.05,
        aux_num_out=None,
    ).eval()
    state = layouts.make_wavlm_state(large)
    theirs.load_state_dict(layouts.wavlm_to_torchaudio(state))
    settings = dict(LARGE, normalize=True) if large else {}
    encoder = load_encoder(layouts.write_wavlm(tmp_path / "WavLM.pt", state, **settings))
    assert encoder.cfg.family == "wavlm" and encoder.cfg.normalize is large
    waves = make_waves(padded=False)[0]
    prepared = F.layer_norm(waves, waves.shape[-1:]) if large else waves
    expected, _ = theirs.extract_features(prepared)
    out = encoder(waves)
    for ours_l, theirs_l in zip(out.hidden[1:], expected):
        torch.testing.assert_close(ours_l, theirs_l, rtol=1e-4, atol=1e-4)
    assert out.x.size(1) > 20  # beyond max_distance, so that the last bucket is used
    if not large:
        return
    # torchaudio's WavLM takes no padding: a wave in a padded batch must come out as it does alone. Microsoft counts a
    # frame as valid if any sample in its chunk is, so the last valid frames see some padding
    mask = torch.arange(SAMPLES) >= torch.tensor([SAMPLES, 2800, 1600])[:, None]
    out = encoder(waves.masked_fill(mask, 0), padding_mask=mask)
    for row, wave in enumerate(waves):
        wave = wave[~mask[row]]
        frames = (~out.padding_mask[row]).sum()
        seen = (frames - 1) * STRIDE + RECEPTIVE_FIELD
        alone = F.pad(F.layer_norm(wave, wave.shape), (0, SAMPLES))[:seen]
        expected, _ = theirs.extract_features(alone[None])
        assert frames == expected[0].size(1)
        for ours_l, theirs_l in zip(out.hidden[1:], expected):
            torch.testing.assert_close(ours_l[row, :frames], theirs_l[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_wavlm_trained_inside_fairseq_is_the_one_that_microsoft_ships(tmp_path):
    """The same modules under hydra's sections: the shared position bias is in layer 0 there too."""
    flat = layouts.write_wavlm(tmp_path / "flat.pt", layouts.make_wavlm_state(False))
    state = torch.load(flat, weights_only=True)
    sections = {"model": {"_name": "wavlm", **state["cfg"]}, "task": {"_name": "audio_pretraining", "normalize": False}}
    torch.save({**state, "cfg": sections}, tmp_path / "sections.pt")
    waves, mask = make_waves(padded=True)
    one, other = (load_encoder(path)(waves, mask) for path in (flat, tmp_path / "sections.pt"))
    assert all(torch.equal(a, b) for a, b in zip(one.hidden, other.hidden))


@torch.no_grad()
def test_parametrised_weight_norm_of_a_file_that_was_saved_again(tmp_path):
    model = layouts.build_hubert()
    path = layouts.write_hubert(tmp_path / "hubert.pt", model)
    state = torch.load(path, weights_only=False)
    places = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    for ours, theirs in places.items():
        state["model"][f"encoder.pos_conv.0.{theirs}"] = state["model"].pop(f"encoder.pos_conv.0.{ours}")
    torch.save(state, tmp_path / "again.pt")
    assert_same(load_encoder(tmp_path / "again.pt"), model, False, True)
