"""The network decides, not its name: derived models laid out as they are released equal the stock network inside."""

import math

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.errors import UserError

from ..builders import LARGE
from . import layouts
from .comparing import assert_same

HEADS, BUCKETS, FARTHEST = layouts.SMALL["encoder_attention_heads"], 32, 20
# settings of Microsoft's code beside HuBERT's
MICROSOFT = dict(
    relative_position_embedding=False,
    gru_rel_pos=False,
    num_buckets=BUCKETS,
    max_distance=FARTHEST,
    expand_attention_head_size=-1,
    streaming=False,
    chunk_size=0,
    left_chunk=0,
    boundary_mask=False,
    structure_type="transformer",
)
DINOSR = dict(
    discrete=True,
    codebook_size=6,
    normal_init_codebook=False,
    codebook_init_decay=0.9,
    codebook_end_decay=0.99,
    freeze_teacher_step=200001,
    freeze_pre_enc_modules=True,
)


def random(*shape):
    """Weights of a head that is left out."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def assert_left_out(path, caplog, *parts):
    """Load a file; the one line names each of the parts that were left out, with its number of tensors."""
    with caplog.at_level("INFO", logger="fairseq_distill"):
        encoder = load_encoder(path)
    (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    left_out = line.split("left out: ")[1].split(", ")
    assert set(parts) <= set(left_out), line
    return encoder, line


def write(path, name, model, task, weights, **settings):
    """A checkpoint of a derived model: the settings of `model`'s class, a name, and other weights beside."""
    cfg = layouts.hydra_cfg(name, model.cfg, task, **settings)
    return layouts.write_fairseq(path, {**model.state_dict(), **weights}, cfg=cfg)


@pytest.mark.parametrize("name", ["bc_m_hubert", "unispeech_sat"])
@torch.no_grad()
def test_unispeech_sat(name, tmp_path, caplog):
    """HuBERT's network; heads for speakers and a quantizer beside it."""
    model = layouts.build_hubert(**LARGE)
    heads = {
        "spk_proj.weight": random(8, 48),
        "spk_proj.bias": random(8),
        "quantizer.vars": random(1, 16, 4),
        "project_q.weight": random(8, 8),
    }
    path = write(tmp_path / "sat.pt", name, model, layouts.hubert_task(True), heads, **MICROSOFT)
    encoder, line = assert_left_out(path, caplog, "spk_proj (2)", "quantizer (1)", "project_q (1)", "final_proj (2)")
    assert f"{name} (taken for hubert by its settings" in line
    for padded in (False, True):
        assert_same(encoder, model, True, padded)


def find_bucket(distance):
    """T5's bucket of key minus query, by the paper's words: one half for each sign, then exact, then logarithmic."""
    half, size = BUCKETS // 2, abs(distance)
    exact = half // 2
    if size >= exact:
        grown = math.log(size / exact) / math.log(FARTHEST / exact)
        size = min(exact + int(grown * (half - exact)), half - 1)
    return size + (half if distance > 0 else 0)


def add_position_bias(model, table):
    """Make stock layers add a bias (buckets, heads) to their scores, by the mask that fairseq's attention takes."""

    def give_bias(module, args, kwargs):
        frames, batch = kwargs["query"].shape[:2]
        buckets = torch.tensor([[find_bucket(key - query) for key in range(frames)] for query in range(frames)])
        return args, {**kwargs, "attn_mask": table[buckets].permute(2, 0, 1).repeat(batch, 1, 1)}

    for layer in model.encoder.layers:
        layer.self_attn.register_forward_pre_hook(give_bias, with_kwargs=True)


@pytest.mark.parametrize("large", [False, True])
@torch.no_grad()
def test_ils_ssl(large, tmp_path, caplog):
    """HuBERT with WavLM's position bias, which no gate scales; several layers have prediction heads."""
    model = layouts.build_hubert(**(LARGE if large else {}))
    table = 2 * random(BUCKETS, HEADS)
    weights = {
        "encoder.layers.0.self_attn.relative_attention_bias.weight": table,
        "final_proj.0.weight": random(8, 48),
        "label_embs_concat": random(2, 14, 8),
    }
    settings = {**MICROSOFT, "relative_position_embedding": True, "predict_layers": "[2,3]"}
    path = write(tmp_path / "ils.pt", "ils_hubert", model, layouts.hubert_task(False), weights, **settings)
    encoder, _ = assert_left_out(path, caplog, "final_proj (3)", "label_embs_concat (1)")
    add_position_bias(model, table)
    for padded in (False, True):
        assert_same(encoder, model, False, padded)
    with pytest.raises(AssertionError):
        assert_same(encoder, layouts.build_hubert(**(LARGE if large else {})), False, False)


@pytest.mark.parametrize("width", [48, 32])
@torch.no_grad()
def test_dinosr(width, tmp_path, caplog):
    """data2vec's network, with its projection at any width; codebooks and their heads beside it."""
    model = layouts.build_data2vec(encoder_embed_dim=width)
    heads = {f"heads.{index}.weight": random(6, width) for index in range(2)}
    heads.update({f"_codebook{index}": random(6, width) for index in range(2)})
    heads.update({f"_codebook_cnts{index}": random(6) for index in range(2)})
    task = {"_name": "audio_pretraining", "normalize": True}
    path = write(tmp_path / "dinosr.pt", "dinosr", model, task, heads, **DINOSR)
    parts = "heads (2)", "_codebook (2)", "_codebook_cnts (2)", "_ema (60)"
    encoder, line = assert_left_out(path, caplog, *parts)
    assert "dinosr (taken for data2vec" in line and encoder.cfg.family == "data2vec"
    for padded in (False, True):
        assert_same(encoder, model, True, padded)


@torch.no_grad()
def test_contentvec(tmp_path, caplog):
    """HuBERT; behind its layers others that are conditioned on the speaker, for the loss alone."""
    model = layouts.build_hubert()
    behind = {
        f"encoder.layers.{index}.{part}": random(48, 48)
        for index in (3, 4)
        for part in ("self_attn.q_proj.weight", "self_attn_layer_norm.weight_ln.weight")
    }
    behind["encoder.cond_layer_norm.weight_ln.weight"] = random(48, 48)
    speaker = {"pred_masked_weight": 1.0, "spk_dim": 256, "ctr_layers": [-6]}
    task = {**layouts.hubert_task(False), "_name": "contentvec_pretraining"}
    path = write(tmp_path / "cv.pt", "contentvec", model, task, behind, encoder_layers_1=2, **speaker)
    parts = "encoder.layers.3 (2)", "encoder.layers.4 (2)", "encoder.cond_layer_norm (1)"
    encoder, _ = assert_left_out(path, caplog, *parts)
    assert "not known here, taken for harmless: ctr_layers, pred_masked_weight, spk_dim" in caplog.text
    for padded in (False, True):
        assert_same(encoder, model, False, padded)
    more = write(tmp_path / "more.pt", "contentvec", model, task, behind, encoder_layers_1=1)
    with pytest.raises(UserError, match=r"encoder.layers.4.* has no place in these settings"):
        load_encoder(more)


@torch.no_grad()
def test_wav2vec2_trained_as_data2vec_is(tmp_path):
    """Where there is no projection, it is wav2vec 2.0's network, whatever else the settings speak of."""
    model = layouts.build_wav2vec2(encoder_embed_dim=32)
    task = {"_name": "audio_pretraining", "normalize": False}
    path = write(tmp_path / "own.pt", "own_teacher", model, task, {}, average_top_k_layers=4, ema_decay=0.99)
    assert read_checkpoint(path).config.family == "wav2vec2"
    assert_same(load_encoder(path), model, False, padded=True)


EXTRA = {
    "table of a bias that the settings do not have": "encoder.relative_attention_bias.weight",
    "another part of the encoder": "encoder.embed_positions.weight",
    "quantised input": "input_quantizer.vars",
    "its projection": "project_inp.weight",
    "positions in a layer": "encoder.layers.0.self_attn.pos_bias_u",
}


@pytest.mark.parametrize("kind", EXTRA)
def test_weights_that_may_change_the_numbers_are_not_left_out(kind, tmp_path):
    model = layouts.build_hubert()
    path = write(tmp_path / "x.pt", "hubert", model, layouts.hubert_task(False), {EXTRA[kind]: random(4, 4)})
    with pytest.raises(UserError, match=f"{EXTRA[kind]} has no place in these settings"):
        load_encoder(path)


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
@torch.no_grad()
def test_a_new_name_is_told_by_settings_then_by_task_then_by_weights(kind, tmp_path):
    """BEST-RQ and others that change what is learnt, not the network; the families round padding differently."""
    build = layouts.build_hubert if kind == "hubert" else layouts.build_wav2vec2
    task = layouts.hubert_task(False) if kind == "hubert" else {"_name": "audio_pretraining", "normalize": False}
    model = build()
    path = write(tmp_path / "rq.pt", "best_rq", model, task, {"rq_codebooks": random(4, 8)}, num_codebooks=4)
    assert read_checkpoint(path).config.family == kind
    assert_same(load_encoder(path), model, False, padded=True)
    shape = {**layouts.SMALL, "_name": "best_rq"}  # names of settings that every family has
    neutral = {"_name": "my_task", "normalize": False}
    head = "label_embs_concat" if kind == "hubert" else "quantizer.vars"
    for task_settings, weights in ((task, {}), (neutral, {head: random(1, 4, 2)})):
        encoder_alone = {key: value for key, value in model.state_dict().items() if key.startswith(ENCODER_PARTS)}
        torch.save({"cfg": {"model": shape, "task": task_settings}, "model": {**encoder_alone, **weights}}, path)
        assert read_checkpoint(path).config.family == kind
        assert_same(load_encoder(path), model, False, padded=True)
    torch.save({"cfg": {"model": shape, "task": neutral}, "model": encoder_alone}, path)
    with pytest.raises(UserError, match="architecture 'best_rq' is not supported.*save it with that _name"):
        load_encoder(path)


ENCODER_PARTS = ("feature_extractor.", "post_extract_proj.", "layer_norm.", "mask_emb", "encoder.")
REFUSED = {
    "data2vec 2.0": (
        dict(_name="data2vec_multi", modalities={"audio": {}}, depth=8, num_heads=12, norm_eps=1e-6),
        r"_name=data2vec_multi is not supported \(data2vec 2.0.*modalities=.*is not supported",
    ),
    "MR-HuBERT": (
        dict(_name="multires_hubert", label_rate_ratios=[1, 2], conv_adapator_kernal=7),
        r"_name=multires_hubert is not supported.*label_rate_ratios=\[1, 2\] is not supported",
    ),
    "wav2vec 1.0": (dict(_name="wav2vec", conv_feature_layers="[(24,10,5)]"), "_name=wav2vec is not supported"),
    "conformer with rotary positions": (
        dict(_name="wav2vec2", layer_type="conformer", pos_enc_type="rope", attn_type="espnet"),
        "layer_type=conformer is not supported.*pos_enc_type=rope.*attn_type=espnet",
    ),
    "streaming": (dict(_name="wavlm", streaming=True), "streaming=True is not supported"),
    "SEW": (dict(_name="sew", squeeze_factor=2), "squeeze_factor=2 is not supported"),
    "SpeechT5": (dict(_name="speech2c", use_rel_pos_enc=True), "use_rel_pos_enc=True is not supported"),
    "unknown attention": (dict(_name="mine", window_attention=16), "window_attention=16 is not known here"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_networks_are_refused_by_the_settings_that_say_so(kind, tmp_path):
    settings, pattern = REFUSED[kind]
    cfg = {"model": settings, "task": {"_name": "audio_pretraining", "normalize": True}}
    torch.save({"cfg": cfg, "model": layouts.build_wav2vec2().state_dict()}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=pattern) as refusal:
        load_encoder(tmp_path / "other.pt")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600
