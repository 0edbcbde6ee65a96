"""DPHuBERT's layout read: torchaudio's own models under its names, uneven layers by their definition, refusals."""

import pytest
import torch
from torch.nn import functional as F

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.errors import UserError

from ..builders import make_waves
from .layouts import randomize

models = pytest.importorskip("torchaudio.models", reason="torchaudio, whose names these are, is not installed")

DEPTH, WIDTH, HEADS = 3, 48, 4
CONVS = [(24, 10, 5), (24, 3, 2), (32, 2, 2)]
COMMON = dict(
    extractor_mode="group_norm",
    extractor_conv_layer_config=CONVS,
    extractor_conv_bias=False,
    encoder_embed_dim=WIDTH,
    encoder_projection_dropout=0.1,
    encoder_pos_conv_kernel=16,
    encoder_pos_conv_groups=4,
    encoder_num_layers=DEPTH,
    encoder_attention_dropout=0.1,
    encoder_ff_interm_dropout=0.0,
    encoder_dropout=0.1,
    encoder_layer_norm_first=False,
    encoder_layer_drop=0.05,
    aux_num_out=None,
)
LARGE = dict(extractor_mode="layer_norm", extractor_conv_bias=True, encoder_layer_norm_first=True)


def write(path, weights, **settings):
    """A file as DPHuBERT's save_final_ckpt.py writes it."""
    config = {
        **COMMON,
        "encoder_use_attention": [True] * DEPTH,
        "encoder_use_feed_forward": [True] * DEPTH,
        "encoder_num_heads": [HEADS] * DEPTH,
        "encoder_head_dim": WIDTH // HEADS,
        "encoder_ff_interm_features": [80] * DEPTH,
        "normalize_waveform": False,
        "extractor_prune_conv_channels": False,
        "encoder_prune_attention_heads": False,
        **settings,
    }
    config = {key: value for key, value in config.items() if value != "absent"}
    dummy = {"feature_extractor.dummy_weight": torch.ones(CONVS[-1][0])}
    torch.save({"state_dict": {**dummy, **weights}, "config": config}, path)
    return path


def build_torchaudio(**changes):
    """Torchaudio's HuBERT or wav2vec 2.0, whose names DPHuBERT keeps."""
    settings = {**COMMON, "encoder_num_heads": HEADS, "encoder_ff_interm_features": 80, **changes}
    return randomize(models.wav2vec2_model(**settings))


@pytest.mark.parametrize("changes", [{}, LARGE], ids=["base", "large"])
@torch.no_grad()
def test_uniform_files_give_what_torchaudio_gives(changes, tmp_path):
    model = build_torchaudio(**changes)
    path = write(tmp_path / "dphubert.pth", model.state_dict(), **changes)
    encoder = load_encoder(path)
    waves, lengths = make_waves(2, 1500)[0], torch.tensor([1500, 1025])
    padding_mask = torch.arange(1500) >= lengths.unsqueeze(1)
    waves = waves.masked_fill(padding_mask, 0)
    for mask, given in ((None, None), (padding_mask, lengths)):
        out = encoder(waves, padding_mask=mask)
        (hidden, frames), (x, _) = model.extract_features(waves, given), model(waves, given)
        valid = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else ~out.padding_mask
        assert mask is None or valid.sum(1).tolist() == frames.tolist()
        for ours, theirs in zip([*out.hidden[1:], out.x], [*hidden, x]):
            assert float((ours - theirs)[valid].norm() / theirs[valid].norm()) < 1e-5
    assert read_checkpoint(path).config.dropout_input == 0.1


def test_waves_are_normalised_where_it_says_so(tmp_path):
    weights = build_torchaudio().state_dict()
    assert load_encoder(write(tmp_path / "a.pth", weights, normalize_waveform=True)).normalize_input
    assert not load_encoder(write(tmp_path / "b.pth", weights)).normalize_input


@pytest.mark.parametrize("pre_norm", [False, True])
@torch.no_grad()
def test_parts_that_are_not_used_add_nothing(pre_norm, tmp_path):
    """Layer 2 without attention, layer 3 without a feed-forward part, written out in plain torch."""
    model = build_torchaudio(encoder_layer_norm_first=pre_norm)
    weights = {
        key: value
        for key, value in model.state_dict().items()
        if ".layers.1.attention." not in key and ".layers.2.feed_forward." not in key
    }
    used = dict(encoder_use_attention=[True, False, True], encoder_use_feed_forward=[True, True, False])
    path = write(tmp_path / "a.pth", weights, encoder_layer_norm_first=pre_norm, **used)
    encoder = load_encoder(path)
    hidden = encoder(make_waves(1, 1500)[0]).hidden
    second, third = model.encoder.transformer.layers[1:]
    if pre_norm:
        expected = [hidden[1] + second.feed_forward(second.final_layer_norm(hidden[1]))]
        expected.append(hidden[2] + third.attention(third.layer_norm(hidden[2]))[0])
    else:
        x = second.layer_norm(hidden[1])
        expected = [second.final_layer_norm(x + second.feed_forward(x))]
        x = third.layer_norm(hidden[2] + third.attention(hidden[2])[0])
        expected.append(third.final_layer_norm(x))
    for ours, theirs in zip(hidden[2:], expected):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@torch.no_grad()
def test_layers_have_their_own_heads_and_neurons(tmp_path):
    """Heads that are cut are heads whose output is not read; neurons the same."""
    model, dim = build_torchaudio(), WIDTH // HEADS
    weights = dict(model.state_dict())
    attention, dense = (f"encoder.transformer.layers.1.{part}" for part in ("attention", "feed_forward"))
    kept = torch.cat([torch.arange(dim), torch.arange(2 * dim, 3 * dim)])  # heads 0 and 2
    gone = torch.ones(WIDTH, dtype=torch.bool).index_fill(0, kept, False)
    model.encoder.transformer.layers[1].attention.out_proj.weight[:, gone] = 0
    model.encoder.transformer.layers[1].feed_forward.output_dense.weight[:, 33:] = 0
    for name in ("q_proj", "k_proj", "v_proj"):
        for kind in ("weight", "bias"):
            weights[f"{attention}.{name}.{kind}"] = weights[f"{attention}.{name}.{kind}"][kept]
    weights[f"{attention}.out_proj.weight"] = weights[f"{attention}.out_proj.weight"][:, kept]
    for key, part in {"intermediate_dense.weight": 0, "intermediate_dense.bias": 0, "output_dense.weight": 1}.items():
        weights[f"{dense}.{key}"] = weights[f"{dense}.{key}"].narrow(part, 0, 33)
    weights = {key: value.clone() for key, value in weights.items()}
    uneven = dict(encoder_num_heads=[4, 2, 4], encoder_ff_interm_features=[80, 33, 80])
    encoder = load_encoder(write(tmp_path / "a.pth", weights, **uneven))
    assert encoder.cfg.layer_heads == [4, 2, 4] and encoder.cfg.layer_ffn_dims == [80, 33, 80]
    waves, _ = make_waves(1, 1500)
    ours, (theirs, _) = encoder(waves).x, model(waves)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert not torch.equal(F.relu(theirs), theirs)


@torch.no_grad()
def test_factors_on_the_last_channels_are_kept(tmp_path):
    """What DPHuBERT's soft gates leave: x = x * dummy_weight behind the convolutions."""
    model, scale = build_torchaudio(), torch.linspace(0.2, 1.5, CONVS[-1][0])
    path = write(tmp_path / "a.pth", {**model.state_dict(), "feature_extractor.dummy_weight": scale})
    encoder, (waves, _) = load_encoder(path), make_waves(1, 1500)
    expected = model.encoder(model.feature_extractor(waves, None)[0] * scale)
    ours = encoder(waves).x
    assert float((ours - expected).norm() / expected.norm()) < 1e-5
    assert float((ours - model(waves)[0]).norm() / expected.norm()) > 1e-2
    result = encoder(waves, features_only=True, mask=False)  # fairseq's own way
    assert torch.equal(result["x"], ours)


REFUSED = {
    "gates": (dict(encoder_prune_attention_heads=True), "encoder_prune_attention_heads=True"),
    "unknown": (dict(encoder_rotary=True), "encoder_rotary=True"),
    "missing": (dict(encoder_head_dim="absent"), "encoder_head_dim"),
    "mode": (dict(extractor_mode="batch_norm"), "extractor_mode='batch_norm'"),
    "list": (dict(encoder_num_heads=[4, 4]), "encoder_num_heads=[4, 4]"),
    "number": (dict(encoder_ff_interm_features=80), "encoder_ff_interm_features=80"),
    "other heads": (dict(encoder_num_heads=[4, 4, 2]), "encoder.layers.2.self_attn"),
    "width": (dict(encoder_embed_dim="48"), "encoder_embed_dim='48'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case, tmp_path):
    settings, sentence = REFUSED[case]
    path = write(tmp_path / "a.pth", build_torchaudio().state_dict(), **settings)
    with pytest.raises(UserError) as caught:
        load_encoder(path)
    assert sentence in str(caught.value) and str(path) in str(caught.value)
