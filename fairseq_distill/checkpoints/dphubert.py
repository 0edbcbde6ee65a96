"""DPHuBERT's files, and those of DiariZen's encoder: {"state_dict", "config"}, in torchaudio's names.

`config` is what DPHuBERT's `wav2vec2_model` is called with: torchaudio's settings, with a list where layers may differ
(2305.17651; DiariZen's WavLM has the same). They are translated to fairseq's, the weights to fairseq's names.
"""

import json
import reprlib
from typing import Any, Dict, List, Mapping, Tuple

import torch
from torch import Tensor

from ..encoder.conv_spec import format_conv_layers
from .component_names import NORM, name_as_fairseq

MARK = "extractor_conv_layer_config"  # a setting that only these files have
# theirs -> ours, where values are the same
SAME = {
    "extractor_conv_bias": "conv_bias",
    "encoder_embed_dim": "encoder_embed_dim",
    "encoder_projection_dropout": "dropout_input",
    "encoder_pos_conv_kernel": "conv_pos",
    "encoder_pos_conv_groups": "conv_pos_groups",
    "encoder_num_layers": "encoder_layers",
    "encoder_attention_dropout": "attention_dropout",
    "encoder_ff_interm_dropout": "activation_dropout",
    "encoder_dropout": "dropout",
    "encoder_layer_norm_first": "layer_norm_first",
    "encoder_layer_drop": "encoder_layerdrop",
    "normalize_waveform": "normalize",
}
WAVLM = {"encoder_num_buckets": "num_buckets", "encoder_max_distance": "max_distance"}
MODES = {"group_norm": "default", "layer_norm": "layer_norm"}
# gates that are not cut; each may be False
GATES = (
    *("extractor_prune_conv_channels", "encoder_prune_attention_heads", "encoder_prune_attention_layer"),
    *("encoder_prune_feed_forward_intermediate", "encoder_prune_feed_forward_layer", "use_layerwise_prune"),
)
_OTHERS = {
    *(MARK, "extractor_mode", "encoder_use_attention", "encoder_use_feed_forward", "encoder_ff_interm_features"),
    *("encoder_num_heads", "encoder_head_dim", "encoder_total_num_heads", "encoder_remaining_heads"),
    *("aux_num_out", "limit_l", "limit_r", "temperature"),  # an output behind the encoder; shapes of the gates
}
OURS = "fairseq_distill"  # an entry beside theirs, for what they have no setting for
SCALE = "feature_extractor.dummy_weight"


def is_dphubert(state: Any) -> bool:
    """Whether a file is laid out like this."""
    config = state.get("config") if isinstance(state, dict) else None
    return isinstance(config, dict) and MARK in config and isinstance(state.get("state_dict"), dict)


def translate(state: Mapping[str, Any]) -> Dict[str, Any]:
    """The same in fairseq's form: {"cfg": {"model", "task"}, "model": weights}.

    Raises:
        ValueError: a setting is missing, is not known, or asks for gates or a network that is not computed here.
    """
    config, weights = state["config"], dict(state["state_dict"])
    _check_known(config)
    is_wavlm = "encoder_remaining_heads" in config
    model = {ours: _get(config, theirs) for theirs, ours in {**SAME, **(WAVLM if is_wavlm else {})}.items()}
    mode = _get(config, "extractor_mode")
    if mode not in MODES:
        raise ValueError(f"extractor_mode={reprlib.repr(mode)} is none of {', '.join(MODES)}")
    model["extractor_mode"] = MODES[mode]
    model["conv_feature_layers"] = format_conv_layers([tuple(layer) for layer in _get(config, MARK)])
    depth = model["encoder_layers"]
    attention, feed_forward = (
        _get_list(config, f"encoder_use_{part}", depth) for part in ("attention", "feed_forward")
    )
    ffn_dims = _get_list(config, "encoder_ff_interm_features", depth)
    model["layer_ffn_dims"] = [size if used else 0 for size, used in zip(ffn_dims, feed_forward)]
    model["encoder_ffn_embed_dim"] = max([*model["layer_ffn_dims"], 1])
    given = state.get(OURS)
    given = given if isinstance(given, dict) else {}
    # without a word on its origin: lengths are rounded to frames by the convolution's formula, as DPHuBERT's code does
    model["_name"] = "wavlm" if is_wavlm else str(given.get("family", "wav2vec2"))
    weights = name_as_fairseq({str(key): value for key, value in weights.items()}, mode == "layer_norm")
    numbers = _set_wavlm_heads(config, model, attention) if is_wavlm else _set_heads(config, model, attention)
    _fill_empty_parts(model, weights)
    for index, kept in enumerate(numbers):
        key = f"encoder.layers.{index}.self_attn.grep_a"
        if isinstance(weights.get(key), Tensor):
            weights[key] = weights[key][:, kept]
    _take_scale(model, weights)
    task = {"normalize": model.pop("normalize"), **{k: given[k] for k in ("sample_rate",) if k in given}}
    return {"cfg": {"model": model, "task": task}, "model": weights}


def _get(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        raise ValueError(f"its config has no {name}, which DPHuBERT's model is called with")
    return config[name]


def _get_list(config: Mapping[str, Any], name: str, depth: int) -> List[Any]:
    values = _get(config, name)
    if not isinstance(values, (list, tuple)) or len(values) != depth:
        raise ValueError(f"{name}={reprlib.repr(values)} is no list of encoder_num_layers={depth} values")
    return list(values)


def _check_known(config: Mapping[str, Any]) -> None:
    gated = [name for name in GATES if config.get(name)]
    if gated:
        raise ValueError(
            f"{gated[0]}={config[gated[0]]!r} says that its gates are not cut: DPHuBERT's prune.py cuts them"
        )
    unknown = [str(key) for key in config if key not in {*SAME, *WAVLM, *GATES, *_OTHERS}]
    if unknown:
        raise ValueError(
            f"{unknown[0]}={reprlib.repr(config[unknown[0]])} is no setting of DPHuBERT's that is known here"
        )


def _set_heads(config: Mapping[str, Any], model: Dict[str, Any], attention: List[Any]) -> List[List[int]]:
    """Heads of each layer into the settings; no layer's heads have numbers."""
    heads = _get_list(config, "encoder_num_heads", len(attention))
    model["head_dim"] = _get(config, "encoder_head_dim")
    model["layer_heads"] = [count if used else 0 for count, used in zip(heads, attention)]
    model["encoder_attention_heads"] = max([*model["layer_heads"], 1])
    return []


def _set_wavlm_heads(config: Mapping[str, Any], model: Dict[str, Any], attention: List[Any]) -> List[List[int]]:
    """Heads of each layer, which have numbers in the shared position bias, into the settings; returns the numbers."""
    totals = set(_get_list(config, "encoder_total_num_heads", len(attention)))
    remaining = _get_list(config, "encoder_remaining_heads", len(attention))
    if len(totals) != 1:
        raise ValueError(f"encoder_total_num_heads={sorted(totals)} must be alike: layers share the position bias")
    numbers = [list(kept) if used else [] for kept, used in zip(remaining, attention)]
    model.update(relative_position_embedding=True, gru_rel_pos=True, encoder_attention_heads=totals.pop())
    model.update(layer_heads=[len(kept) for kept in numbers], layer_head_numbers=json.dumps(numbers))
    return numbers


def _fill_empty_parts(model: Mapping[str, Any], weights: Dict[str, Any]) -> None:
    """Parts that are not there add nothing: our bias of them is 0, and pre-norm models have no norm before them."""
    parts: Tuple[Tuple[str, str, str], ...] = (
        ("layer_heads", "self_attn.out_proj.bias", "self_attn_layer_norm"),
        ("layer_ffn_dims", "fc2.bias", "final_layer_norm"),
    )
    if not isinstance(weights.get(NORM), Tensor):
        raise ValueError("its state_dict has no encoder.transformer.layer_norm")
    nothing = torch.zeros_like(weights[NORM])
    for sizes, bias, norm in parts:
        for index, size in enumerate(model[sizes]):
            if size:
                continue
            layer = f"encoder.layers.{index}."
            weights.setdefault(layer + bias, nothing.clone())
            for name in ("weight", "bias") if model["layer_norm_first"] else ():
                weights.pop(f"{layer}{norm}.{name}", None)
    weights.setdefault("mask_emb", nothing.clone())  # masked prediction is not theirs


def _take_scale(model: Dict[str, Any], weights: Dict[str, Any]) -> None:
    """DPHuBERT's factors on the last convolution's channels, which soft gates leave there; most files have some."""
    scale = weights.pop(SCALE, None)
    if isinstance(scale, Tensor) and not bool((scale == 1).all()):
        model["scale_features"], weights["feature_scale"] = True, scale
