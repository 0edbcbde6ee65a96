"""Writes small checkpoint files in the layouts of the released ones, with random weights of stock fairseq's models."""

import dataclasses
import importlib
import re
from argparse import Namespace
from collections import OrderedDict
from enum import Enum
from types import SimpleNamespace
from typing import Any, Dict

import numpy as np
import torch
from fairseq import tasks
from fairseq.dataclass.configs import CheckpointConfig, CommonConfig, OptimizationConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.hubert.hubert_asr import HubertCtc
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from omegaconf import OmegaConf, open_dict

from .. import builders
from ..builders import LARGE, build_dictionary

# dropout as fairseq's defaults have it: it must be off where features are compared
SMALL = {name: value for name, value in builders.SMALL.items() if "dropout" not in name}
QUANTIZER = dict(quantize_targets=True, latent_vars=10, latent_dim=16)


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough that attention is sharp and every bias, norm and buffer shows when it is misused."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith(("weight_g", "running_var", "original0")):
                value.copy_(1 + noise.abs())
            elif value.dim() < 2:
                value.copy_((1.0 if name.endswith("weight") else 0.0) + 0.3 * noise)
            else:
                value.copy_(1.5 * noise / value[0].numel() ** 0.5)
    return model.eval()


def plain_settings(config: Any, **changes: Any) -> Dict[str, Any]:
    """A fairseq dataclass as fairseq saves it: enums by value, interpolations resolved."""
    settings = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        value = value.value if isinstance(value, Enum) else value
        settings[f.name] = 400_000 if isinstance(value, str) and value.startswith("${") else value
    return {**settings, **changes}


def build_hubert(**changes: Any) -> HubertModel:
    """Stock HuBERT of SMALL shape."""
    config = HubertConfig(**{**SMALL, "label_rate": 400.0, **changes})
    model = randomize(HubertModel(config, SimpleNamespace(sample_rate=16_000), [build_dictionary(12)]))
    model.cfg = config  # fairseq's other models keep theirs
    return model


def build_wav2vec2(**changes: Any) -> Wav2Vec2Model:
    """Stock wav2vec 2.0 of SMALL shape, with its quantizer."""
    return randomize(Wav2Vec2Model(Wav2Vec2Config(**{**SMALL, **QUANTIZER, **changes})))


def make_wavlm_state(large: bool) -> Dict[str, torch.Tensor]:
    """Weights of a WavLM with Microsoft's names: HuBERT's, and the gated position bias of 32 buckets."""
    state = build_hubert(**(LARGE if large else {})).state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(("final_proj", "label_embs"))}
    heads, head_dim = SMALL["encoder_attention_heads"], SMALL["encoder_embed_dim"] // SMALL["encoder_attention_heads"]
    generator = torch.Generator().manual_seed(5)
    shapes = {"encoder.layers.0.self_attn.relative_attention_bias.weight": (32, heads)}
    for index in range(SMALL["encoder_layers"]):
        name = f"encoder.layers.{index}.self_attn"
        shapes[f"{name}.grep_a"] = (1, heads, 1, 1)
        shapes[f"{name}.grep_linear.weight"], shapes[f"{name}.grep_linear.bias"] = (8, head_dim), (8,)
    return {**state, **{key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}}


def wavlm_to_torchaudio(state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """WavLM's weights from Microsoft's names to torchaudio's, which joins query, key and value."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^(feature_extractor.conv_layers.\d+)\.0\.", r"\1.conv.", key)
        key = re.sub(r"^(feature_extractor.conv_layers.\d+)\.2\.(1\.)?", r"\1.layer_norm.", key)
        key = re.sub(r"^layer_norm\.", "encoder.feature_projection.layer_norm.", key)
        key = key.replace("post_extract_proj", "encoder.feature_projection.projection")
        key = re.sub(r"^encoder\.(pos_conv|layers|layer_norm)", r"encoder.transformer.\1", key)
        key = key.replace("pos_conv.0.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0")
        key = key.replace("pos_conv.0.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1")
        key = key.replace("pos_conv.0.bias", "pos_conv_embed.conv.bias")
        key = key.replace("self_attn_layer_norm", "layer_norm")
        key = key.replace("self_attn.relative_attention_bias", "attention.rel_attn_embed")
        key = key.replace("self_attn.grep_linear", "attention.gru_rel_pos_linear")
        key = key.replace("self_attn.grep_a", "attention.gru_rel_pos_const")
        key = key.replace("self_attn.out_proj", "attention.attention.out_proj")
        key = key.replace("fc1", "feed_forward.intermediate_dense").replace("fc2", "feed_forward.output_dense")
        renamed[key] = value
    for kind in ("weight", "bias"):
        for query in [key for key in renamed if key.endswith(f"self_attn.q_proj.{kind}")]:
            parts = [renamed.pop(query.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
            renamed[query.replace(f"self_attn.q_proj.{kind}", f"attention.attention.in_proj_{kind}")] = torch.cat(parts)
    renamed.pop("mask_emb")
    return renamed


def build_data2vec(**changes: Any) -> torch.nn.Module:
    """Stock data2vec audio of SMALL shape, with its moving average."""
    module = importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")
    settings = dict(pos_conv_depth=5, conv_pos=19, layer_norm_first=False, extractor_mode="layer_norm", max_update=1)
    model = randomize(module.Data2VecAudioModel(module.Data2VecAudioConfig(**{**SMALL, **settings, **changes})))
    model.make_ema_teacher()
    return model


def hydra_cfg(model_name: str, model: Any, task: Dict[str, Any], **changes: Any) -> Dict[str, Any]:
    """The whole run's settings as fairseq's trainer saves them, `model` being a config or plain settings."""
    model = plain_settings(model) if dataclasses.is_dataclass(model) else dict(model)
    return {
        "_name": None,
        "common": plain_settings(CommonConfig()),
        "optimization": plain_settings(OptimizationConfig()),
        "checkpoint": plain_settings(CheckpointConfig()),
        "task": {"data": "/nowhere/manifests", "sample_rate": 16_000, **task},
        "criterion": {"_name": "ctc" if model_name.endswith("_ctc") else "wav2vec"},
        "model": {**model, "_name": model_name, **changes},
        "ema": None,
        "job_logging_cfg": {"version": 1, "handlers": {"console": {"class": "logging.StreamHandler"}}},
    }


def write_fairseq(path, state: Dict, cfg: Any = None, args: Any = None, task_state: Any = None, **options: Any):
    """Write a checkpoint with all that fairseq's trainer puts beside the model; returns the path."""
    meter = {"val": np.float64(2.5), "sum": torch.tensor(9.0), "count": 4, "round": 3}
    content = {
        "args": args,
        "cfg": cfg,
        "model": state,
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "HubertCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": np.float64(2.0)},
                "num_updates": 100,
            }
        ],
        "task_state": task_state or {},
        "extra_state": {
            "metrics": OrderedDict([("default", [(10, "loss", "AverageMeter", meter)])]),
            "previous_training_time": 12.5,
            "train_iterator": {"epoch": 2, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": np.float32(2.25),
            "best": np.int64(2),
        },
        "last_optimizer_state": {"state": {0: {"step": 9, "exp_avg": torch.zeros(5)}}, "param_groups": [{"lr": 5e-4}]},
    }
    if cfg is None:
        del content["cfg"], content["task_state"]  # the argparse era knew neither
    torch.save(content, path, **options)
    return path


def write_hubert(path, model: HubertModel, normalize: bool = False, **save_options: Any):
    """HuBERT Base, Large, X-Large: `cfg` a plain dict, Dictionary in the task's state."""
    cfg = hydra_cfg("hubert", model.cfg, hubert_task(normalize))
    task_state = {"dictionaries": [build_dictionary(12)]}
    return write_fairseq(path, model.state_dict(), cfg=cfg, task_state=task_state, **save_options)


def write_wav2vec2(path, model: Wav2Vec2Model, normalize: bool = False, **save_options: Any):
    """wav2vec 2.0 of the hydra era, XLSR, MMS."""
    cfg = hydra_cfg("wav2vec2", model.cfg, {"_name": "audio_pretraining", "normalize": normalize})
    return write_fairseq(path, model.state_dict(), cfg=cfg, **save_options)


def write_argparse_wav2vec2(path, model: Wav2Vec2Model, normalize: bool = False):
    """wav2vec_small.pt, libri960_big.pt: one Namespace for model, task and all else."""
    return write_fairseq(path, model.state_dict(), args=argparse_settings(model, normalize))


def write_data2vec(path, model: torch.nn.Module, normalize: bool = True):
    """audio_base_ls.pt: the moving average is an entry of the state dict."""
    cfg = hydra_cfg("data2vec_audio", model.cfg, {"_name": "audio_pretraining", "normalize": normalize})
    state = model.state_dict()
    assert isinstance(state["_ema"], dict)
    return write_fairseq(path, state, cfg=cfg)


def write_wav2vec_ctc(path, model: Wav2Vec2Model, normalize: bool = False, argparse_era: bool = False, **changes: Any):
    """wav2vec_small_960h.pt and its likes: stock fairseq's own fine-tuning model around `model`."""
    task, state = {"_name": "audio_finetuning", "labels": "ltr"}, {"target_dictionary": build_dictionary(9)}
    w2v_args = hydra_cfg("wav2vec2", model.cfg, {"_name": "audio_pretraining", "normalize": normalize})
    settings = fine_tuned_settings("wav2vec_ctc", normalize, w2v_args)
    weights = build_fine_tuned(Wav2VecCtc, settings, {**task, "normalize": normalize}, state, model).state_dict()
    if argparse_era:
        w2v_args = argparse_settings(model, normalize)
        args = Namespace(**{**settings, "arch": "wav2vec_ctc", "task": "audio_pretraining", "w2v_args": w2v_args})
        return write_fairseq(path, weights, args=args)
    return write_fairseq(path, weights, cfg=hydra_cfg("wav2vec_ctc", settings, task, **changes), task_state=state)


def write_hubert_ctc(path, model: HubertModel, normalize: bool = False):
    """hubert_large_ll60k_finetune_ls960.pt: stock fairseq's own fine-tuning model around `model`."""
    task = {**hubert_task(normalize), "fine_tuning": True}
    state = {"dictionaries": [build_dictionary(9)], "target_dictionary": build_dictionary(9)}
    w2v_args = hydra_cfg("hubert", model.cfg, hubert_task(normalize))
    settings = fine_tuned_settings("hubert_ctc", normalize, w2v_args)
    weights = build_fine_tuned(HubertCtc, settings, task, state, model).state_dict()
    return write_fairseq(path, weights, cfg=hydra_cfg("hubert_ctc", settings, task), task_state=state)


def write_wavlm(path, state: Dict[str, torch.Tensor], **cfg: Any):
    """WavLM-Base.pt, WavLM-Large.pt as Microsoft ships them: `cfg` flat, nothing but `cfg` and `model`."""
    settings = {
        **{key: value for key, value in SMALL.items() if key != "final_dim"},
        **dict(activation_fn="gelu", dropout=0.1, attention_dropout=0.1, mask_prob=0.8, normalize=False),
        **dict(extractor_mode="default", conv_bias=False, layer_norm_first=False, feature_grad_mult=0.1),
        **dict(relative_position_embedding=True, num_buckets=32, max_distance=20, gru_rel_pos=True),
        **dict(expand_attention_head_size=-1, encoder_layerdrop=0.05),
    }
    torch.save({"cfg": {**settings, **cfg}, "model": state}, path)
    return path


def argparse_settings(model: Wav2Vec2Model, normalize: bool) -> Namespace:
    """The settings of a model as `fairseq-train` kept them before hydra."""
    settings = plain_settings(model.cfg, arch="wav2vec2", task="audio_pretraining", normalize=normalize)
    for later in ("_name", "layer_type", "conv_pos_batch_norm", "pos_conv_depth", "checkpoint_activations", "adp_num"):
        settings.pop(later, None)
    settings.update(latent_temp="(2,0.5,0.999995)", data="/nowhere", criterion="wav2vec", sample_rate=16_000, lr=[5e-4])
    return Namespace(**settings)


def hubert_task(normalize: bool) -> Dict[str, Any]:
    """Task section of a HuBERT checkpoint."""
    labels = {"label_rate": 400.0, "labels": ["km"], "fine_tuning": False}
    return {"_name": "hubert_pretraining", "normalize": normalize, **labels}


def fine_tuned_settings(name: str, normalize: bool, w2v_args: Dict[str, Any]) -> Dict[str, Any]:
    """Model section of a fine-tuned checkpoint."""
    return dict(_name=name, w2v_path="/nowhere/pretrained.pt", normalize=normalize, data="/nowhere", w2v_args=w2v_args)


def build_fine_tuned(model_class: type, settings: Dict, task_settings: Dict, state: Dict, pretrained: torch.nn.Module):
    """Stock fairseq's fine-tuning model with `pretrained`'s weights inside, as fairseq sets it up when it loads one."""
    task = tasks.setup_task(OmegaConf.create({"data": "/nowhere", "sample_rate": 16_000, **task_settings}))
    task.load_state_dict(state)
    cfg = OmegaConf.merge(OmegaConf.structured(MODEL_DATACLASS_REGISTRY[settings["_name"]]), {})
    with open_dict(cfg):
        cfg.update(settings)
    model = randomize(model_class.build_model(cfg, task))
    weights = pretrained.state_dict()
    weights.pop("label_embs_concat", None)  # of other labels
    result = model.w2v_encoder.w2v_model.load_state_dict(weights, strict=False)
    assert set(result.missing_keys) <= {"label_embs_concat"}
    return model.eval()
