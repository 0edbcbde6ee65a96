"""Folders of Hugging Face as teachers: hidden states of transformers' own models, and what is refused."""

import json
import logging

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.huggingface import HARMLESS, is_folder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.cli.main import main
from fairseq_distill.errors import UserError

from ..builders import make_waves
from .layouts import randomize

transformers = pytest.importorskip("transformers", reason="transformers, the original, is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

SHAPE = dict(
    num_hidden_layers=3,
    hidden_size=48,
    intermediate_size=80,
    num_attention_heads=4,
    conv_dim=[24, 24, 32],
    conv_kernel=[10, 3, 2],
    conv_stride=[5, 2, 2],
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    vocab_size=9,
)
LARGE = dict(do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)
KINDS = {
    "hubert": ("Hubert", {}),
    "hubert large": ("Hubert", LARGE),
    "hubert with batch norm": ("Hubert", dict(conv_pos_batch_norm=True)),
    "wav2vec2": ("Wav2Vec2", dict(conv_bias=True)),
    "wav2vec2 large": ("Wav2Vec2", LARGE),
    "wav2vec2 of one width": ("Wav2Vec2", dict(conv_dim=[24, 24, 48], num_conv_pos_embeddings=15)),
    "wavlm": ("WavLM", dict(num_buckets=32, max_bucket_distance=20)),
    "wavlm large": ("WavLM", dict(num_buckets=32, max_bucket_distance=20, **LARGE)),
    "unmasked": ("Hubert", dict(mask_time_prob=0.0, mask_feature_prob=0.0)),
}


def build(kind, head="Model", **changes):
    """The original with weights that make every branch matter."""
    name, settings = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **settings, **changes})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    return randomize(getattr(transformers, f"{name}{head}")(config))


def save(model, folder, normalize=None, rate=16_000):
    """The folder that transformers writes."""
    model.save_pretrained(folder)
    if normalize is not None:
        heard = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": normalize, "sampling_rate": rate}
        (folder / "preprocessor_config.json").write_text(json.dumps(heard))
    return folder


def change(folder, **settings):
    """Other settings in a folder's config.json; None = without it."""
    config = json.loads((folder / "config.json").read_text())
    config.update(settings)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def measure(ours, theirs, valid=None):
    """The largest difference of a state, as a fraction of its norm."""
    valid = torch.ones(ours[0].shape[:2], dtype=torch.bool) if valid is None else valid
    assert len(ours) == len(theirs) and ours[0].shape == theirs[0].shape
    return max(float((a[valid] - b[valid]).norm() / b[valid].norm()) for a, b in zip(ours, theirs))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_hidden_states_are_those_of_transformers(kind, tmp_path):
    model = build(kind)
    encoder = load_encoder(save(model, tmp_path / "hf", normalize=False))
    waves, _ = make_waves(2, 1500)
    out, original = encoder(waves), model(waves, output_hidden_states=True)
    # before version 5, the last of transformers' hidden states is behind the norm of pre-norm models
    assert len(original.hidden_states) == len(out.hidden)
    assert measure(out.hidden[:-1], original.hidden_states[:-1]) < 1e-5
    assert measure([out.x], [original.last_hidden_state]) < 1e-5
    assert (encoder.cfg.family, encoder.normalize_input) == (KINDS[kind][0].lower(), False)


@pytest.mark.parametrize("kind", ["hubert large", "wav2vec2 large", "wavlm large"])
@torch.no_grad()
def test_a_padded_batch_is_that_of_transformers(kind, tmp_path):
    """With exact padding, which rounds a wave to frames by the convolution's formula as transformers does.

    By itself, the encoder of a HuBERT or WavLM rounds as fairseq does, and gives shorter waves some frames more.
    """
    model = build(kind)
    encoder = load_encoder(save(model, tmp_path / "hf", normalize=False))
    waves, mask = make_waves(2, 1500)[0], torch.arange(1500) >= torch.tensor([[1500], [1025]])
    waves = waves.masked_fill(mask, 0)
    stock = encoder(waves, padding_mask=mask)
    encoder.exact_padding = True
    out = encoder(waves, padding_mask=mask)
    assert bool((stock.padding_mask != out.padding_mask).any()) == (kind != "wav2vec2 large")
    original = model(waves, attention_mask=(~mask).long())
    frames = model._get_feat_extract_output_lengths((~mask).sum(1))
    assert (~out.padding_mask).sum(1).tolist() == frames.tolist()
    assert measure([out.x], [original.last_hidden_state], ~out.padding_mask) < 1e-5


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2 large", "wavlm"])
@torch.no_grad()
def test_the_encoder_of_a_fine_tuned_model_is_taken(kind, tmp_path):
    model = build(kind, "ForCTC")
    encoder = load_encoder(save(model, tmp_path / "hf", normalize=False))
    waves, _ = make_waves(2, 1500)
    inside = getattr(model, model.base_model_prefix)
    assert measure([encoder(waves).x], [inside(waves).last_hidden_state]) < 1e-5
    assert "lm_head.weight" in read_checkpoint(tmp_path / "hf").weights


@torch.no_grad()
def test_waves_and_their_rate_are_as_the_preprocessor_says(tmp_path, caplog):
    model = build("hubert")
    encoder = load_encoder(save(model, tmp_path / "hf", normalize=True, rate=8_000))
    waves = 3 + 2 * make_waves(1, 1500)[0]
    normal = (waves - waves.mean()) / (waves.var(correction=0) + 1e-5).sqrt()
    assert encoder.cfg.sample_rate == 8_000
    assert measure([encoder(waves).x], [model(normal).last_hidden_state]) < 1e-5
    with caplog.at_level(logging.WARNING):
        assert not load_encoder(save(model, tmp_path / "without")).normalize_input
    assert "no preprocessor_config.json" in caplog.text
    assert load_encoder(save(build("hubert large"), tmp_path / "large")).normalize_input


@torch.no_grad()
def test_parts_and_pickles_give_the_same(tmp_path):
    model = build("wavlm")
    whole, parts, pickled = (save(model, tmp_path / name, normalize=False) for name in ("whole", "parts", "pickled"))
    for folder in (parts, pickled):
        (folder / "model.safetensors").unlink()
    model.save_pretrained(parts, max_shard_size="40KB")
    assert len(list(parts.glob("model-*.safetensors"))) > 1 and not (parts / "model.safetensors").exists()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    waves, _ = make_waves(1, 1500)
    expected = load_encoder(whole)(waves).x
    assert all(torch.equal(load_encoder(folder)(waves).x, expected) for folder in (parts, pickled))


def test_commands_take_a_folder(tmp_path, capsys):
    folder = save(build("wav2vec2"), tmp_path / "hf", normalize=True)
    assert main(["info", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["layers"], found["width"], found["normalize"]) == ("wav2vec2", 3, 48, True)


# changes of config.json, and what the sentence names
REFUSED = {
    "another model": (dict(model_type="wav2vec2-conformer"), "model_type='wav2vec2-conformer' is not supported"),
    "adapter": (dict(add_adapter=True), "add_adapter=True"),
    "adapters of MMS": (dict(adapter_attn_dim=16), "adapter_attn_dim=16"),
    "activation": (dict(hidden_act="relu"), "hidden_act='relu'"),
    "activation of convolutions": (dict(feat_extract_activation="relu"), "feat_extract_activation='relu'"),
    "another epsilon": (dict(layer_norm_eps=1e-6), "layer_norm_eps=1e-06"),
    "no norm before the projection": (dict(feat_proj_layer_norm=False), "feat_proj_layer_norm=False"),
    "positions of another kind": (dict(position_embeddings_type="rotary"), "position_embeddings_type='rotary'"),
    "unknown": (dict(window=7), "window=7 is not known here"),
    "missing": (dict(hidden_size=None), "lacks hidden_size"),
    "convolutions": (dict(conv_dim=[24]), "conv_dim, conv_kernel and conv_stride"),
    "no number": (dict(hidden_size="48"), "encoder_embed_dim='48'"),
    "shape": (dict(intermediate_size=81), "fc1.weight"),
    "depth": (dict(num_hidden_layers=4), "4 encoder.layers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_computed_is_refused_by_name(case, tmp_path):
    settings, sentence = REFUSED[case]
    folder = save(build("hubert"), tmp_path / "hf", normalize=False)
    change(folder, **settings)
    with pytest.raises(UserError) as caught:
        load_encoder(folder)
    assert sentence in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["Hubert", "Wav2Vec2", "WavLM"])
def test_every_setting_of_transformers_is_translated_fixed_or_harmless(name, tmp_path):
    folder = save(build(next(kind for kind in KINDS if KINDS[kind][0] == name)), tmp_path / "hf", normalize=False)
    full = getattr(transformers, f"{name}Config")(**SHAPE).to_dict()
    written = json.loads((folder / "config.json").read_text())
    change(folder, **{key: value for key, value in full.items() if key not in written})
    assert HARMLESS.keys() & full.keys() <= json.loads((folder / "config.json").read_text()).keys() | {"problem_type"}
    assert load_encoder(folder).depth == 3


def test_damage_is_a_sentence(tmp_path):
    folder = save(build("hubert"), tmp_path / "hf", normalize=False)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_encoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="neither model.safetensors nor pytorch_model.bin"):
        load_encoder(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(UserError, match=r"is refused: it names \.\./a"):
        load_encoder(folder)
    (folder / "config.json").write_text("{")
    assert is_folder(folder)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        load_encoder(folder)


def test_a_pickle_runs_none_of_its_code(tmp_path):
    folder = save(build("hubert"), tmp_path / "hf", normalize=False)
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1), "b": pytest.raises}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="is refused: it asks for"):
        load_encoder(folder)


def test_without_the_library_the_way_is_named(tmp_path, monkeypatch):
    folder = save(build("hubert"), tmp_path / "hf", normalize=False)
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r"pip install 'fairseq-distill\[export\]'"):
        load_encoder(folder)
