"""Every setting of stock fairseq's models is computed, harmless or refused: held against stock networks, one by one."""

import dataclasses
import importlib
from enum import Enum

import pytest
import torch
from fairseq.models.hubert.hubert import HubertConfig
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.fields import COMPUTED, HARMLESS, REFUSED, find_refused, list_unknown
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.errors import UserError

from . import layouts
from .comparing import assert_same, make_waves

Data2VecAudioConfig = importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio").Data2VecAudioConfig
# class of settings -> (stock network, what writes its file)
STOCK = {
    HubertConfig: (layouts.build_hubert, layouts.write_hubert),
    Wav2Vec2Config: (layouts.build_wav2vec2, layouts.write_wav2vec2),
    Data2VecAudioConfig: (layouts.build_data2vec, layouts.write_data2vec),
}
# another valid value, where it does not follow from the type
OTHER_VALUES = dict(
    extractor_mode=lambda now: "default" if now == "layer_norm" else "layer_norm",
    conv_feature_layers=lambda now: "[(24,10,5)] + [(24,3,2)] + [(20,2,2)]",
    activation_fn=lambda now: "tanh",
    encoder_attention_heads=lambda now: 6,
    encoder_embed_dim=lambda now: 24,
    conv_pos_groups=lambda now: 8,
    conv_pos=lambda now: 30,
    pos_conv_depth=lambda now: 2,
    layer_type=lambda now: "conformer",
    pos_enc_type=lambda now: "rope",
    attn_type=lambda now: "espnet",
    adp_act_fn=lambda now: "gelu",
    adp_trf_idx=lambda now: "0:2",
    adp_num=lambda now: 2,
    crop_seq_to_multiple=lambda now: 4,
    required_seq_len_multiple=lambda now: 8,
    latent_groups=lambda now: 1,
    latent_temp=lambda now: (1.0, 0.5, 0.9),
    latent_vars=lambda now: 12,
    final_dim=lambda now: 12,
    latent_dim=lambda now: 12,
    label_rate=lambda now: 200.0,
    loss_scale=lambda now: 0.3,
    max_update=lambda now: 7,
    ema_anneal_end_step=lambda now: 7,
    encoder_layerdrop=lambda now: 0.7,
    feature_grad_mult=lambda now: 0.0,
)
# what selects another generator of masks has words for values
OTHER_VALUES.update(dict.fromkeys(("mask_selection", "mask_channel_selection"), lambda now: "uniform"))
FIELDS = {kind: [f.name for f in dataclasses.fields(kind) if f.name != "_name"] for kind in STOCK}
# data2vec's class is derived from wav2vec 2.0's: what is harmless there is tried there
CASES = [
    (kind, name)
    for kind, names in FIELDS.items()
    for name in names
    if kind is not Data2VecAudioConfig or name not in FIELDS[Wav2Vec2Config] or name in COMPUTED
]


def choose_other(name, now):
    """Another valid value of a stock field."""
    now = now.value if isinstance(now, Enum) else now
    if name in OTHER_VALUES:
        return OTHER_VALUES[name](now)
    assert isinstance(now, (bool, int, float)), f"say in OTHER_VALUES what else {name}={now!r} can be"
    return not now if isinstance(now, bool) else now + 1 if isinstance(now, int) else (now + 0.5) / 2


def copy_common_weights(source, target):
    """Random weights are drawn in the order of names, so that another head shifts all others."""
    theirs, ours = dict(source.named_parameters()), dict(target.named_parameters())
    same = [name for name, value in ours.items() if name in theirs and theirs[name].shape == value.shape]
    assert len(same) > 10
    for name in same:
        ours[name].copy_(theirs[name])


def list_stock_fields():
    """Names of all fields of the three classes."""
    return {"_name"}.union(*FIELDS.values())


def test_every_stock_field_is_in_one_list():
    ours = [COMPUTED, HARMLESS.keys(), REFUSED.keys()]
    for name in list_stock_fields():
        assert sum(name in names for names in ours) == 1, name
    assert len(list_stock_fields()) > 80
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not ours[one] & ours[other]
    assert all(HARMLESS.values()) and all(refused.what for refused in REFUSED.values())


@pytest.fixture(scope="module")
def plain_outputs(tmp_path_factory):
    """What each stock network gives before a setting is changed."""
    outputs = {}
    for kind, (build, write) in STOCK.items():
        encoder = load_encoder(write(tmp_path_factory.mktemp("plain") / "model.pt", build()))
        with torch.no_grad():
            outputs[kind] = encoder(make_waves(padded=False)[0]).x
    return outputs


@pytest.mark.parametrize("kind, name", CASES, ids=[f"{kind.__name__}.{name}" for kind, name in CASES])
@torch.no_grad()
def test_another_value_is_followed_as_in_stock_fairseq_or_refused_by_name(kind, name, plain_outputs, tmp_path):
    build, write = STOCK[kind]
    plain = build()
    value = choose_other(name, getattr(plain.cfg, name))
    if name in REFUSED:
        setattr(plain.cfg, name, value)
        with pytest.raises(UserError, match=f"{name}={value} is not supported"):
            read_checkpoint(write(tmp_path / "model.pt", plain))
        return
    model = build(**{name: value})
    copy_common_weights(plain, model)
    normalize = kind is Data2VecAudioConfig
    path = write(tmp_path / "model.pt", model, normalize)
    encoder = load_encoder(path)
    assert_same(encoder, model, normalize, padded=True)
    out, before = encoder(make_waves(padded=False)[0]).x, plain_outputs[kind]
    followed = out.shape != before.shape or not torch.allclose(out, before, atol=1e-4)
    assert followed == (name in COMPUTED)
    assert not read_checkpoint(path).unknown


def test_allowed_values_are_those_of_stock_fairseq():
    defaults = {f.name: f.default for kind in STOCK for f in dataclasses.fields(kind)}
    checked = [name for name in REFUSED if name in defaults]
    assert len(checked) >= 5
    for name in checked:
        value = defaults[name].value if isinstance(defaults[name], Enum) else defaults[name]
        assert not find_refused({name: value}) and not find_refused({name: None})


@pytest.mark.parametrize(
    "settings, named",
    [
        (dict(use_rotary=True), "use_rotary=True is not known here"),
        (dict(attention_kind="linear"), "attention_kind=linear is not known"),
        (dict(norm_eps=1e-6), "norm_eps=1e-06 is not known"),
        (dict(conv_adapator_kernal=7), "conv_adapator_kernal=7 is not known"),
        (dict(relu_squared=True), "relu_squared=True is not known"),
        (dict(streaming=True), "streaming=True is not supported"),
        (dict(expand_attention_head_size=64), "expand_attention_head_size=64 is not supported"),
        (dict(label_rate_ratios=[1, 2]), "label_rate_ratios=[1, 2] is not supported"),
        (dict(scaling_for_att=16.0), "scaling_for_att=16.0 is not supported"),
        (dict(scaling_for_att=1.0, use_rel_pos_enc=False), None),
        (dict(use_rotary=False, norm_kind=None, conv_size=0, attention_type="", expand_attention_head_size=-1), None),
        (dict(layer_norm_target_layer=True, conv_dropout=0.3, attention_loss=1.0, speakers=[3]), None),
    ],
)
def test_settings_of_unknown_models(settings, named):
    refused = find_refused(settings)
    assert (not refused) if named is None else (len(refused) == 1 and named in refused[0])


def test_unknown_settings_are_listed_but_not_those_of_a_run_in_one_namespace():
    settings = dict(encoder_layers=3, codes=8, speakers=True, context_window=5, _name="x", layer_type="transformer")
    assert list_unknown(settings) == ["codes", "context_window", "speakers"]
    assert list_unknown(settings, of_a_run=True) == ["codes", "speakers"]
    assert find_refused(settings) and not find_refused(settings, of_a_run=True)
