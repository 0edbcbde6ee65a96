"""DPHuBERT's layout, {"state_dict", "config"} in torchaudio's names, which DPHuBERT and DiariZen build their models of.

It has a number of heads and neurons for each layer, so pruned students of HuBERT, wav2vec 2.0 and WavLM fit. Before it
is put in place, our reader runs it; and torchaudio's own classes, where all layers are alike, run waves by themselves.
"""

import re
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from torch import Tensor, nn

from ..checkpoints import fields
from ..checkpoints.dphubert import MARK, MODES, OURS, SAME, SCALE, WAVLM
from ..checkpoints.reading import load_encoder
from ..encoder.config import EncoderConfig
from ..encoder.model import SpeechEncoder, require
from ..errors import UserError
from .comparison import Reader, list_states
from .microsoft_wavlm import build_torchaudio, run_torchaudio
from .source import Source, refuse_unfit

HELP = "DPHuBERT's layout, uneven heads and FFN: DPHuBERT, DiariZen"
READER = "torchaudio (our reader where layers differ)"

_FAMILIES = ("hubert", "wav2vec2", "wavlm")
_SETTINGS = {
    *SAME.values(),
    *("extractor_mode", "conv_feature_layers", "encoder_attention_heads", "encoder_ffn_embed_dim", "activation_fn"),
    *("layer_heads", "layer_ffn_dims", "head_dim", "project_features", "scale_features"),
}
_BIAS = {"relative_position_embedding", "gru_rel_pos", "layer_head_numbers", *WAVLM.values()}
_NAMES = [
    (r"^layer_norm\.", "encoder.feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "encoder.feature_projection.projection."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2\.(1\.)?", r"\1.layer_norm."),
    (r"^encoder\.relative_attention_bias\.", "encoder.layers.0.attention.rel_attn_embed."),
    (r"^encoder\.(pos_conv|layers|layer_norm)\b", r"encoder.transformer.\1"),
    (r"\.pos_conv\.0\.", ".pos_conv_embed.conv."),  # weight_g and weight_v, which torch's newer weight norm reads too
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
]


def describe(source: Source) -> Dict[str, Any]:
    """The name of the model that is written."""
    return {"model": "DPHuBERT's layout"}


def check(source: Source) -> None:
    """Refuse, with a UserError, an encoder that no config of DPHuBERT's describes."""
    cfg, path = source.config, source.checkpoint.path
    is_wavlm = cfg.family == "wavlm"
    fixed: Dict[str, Any] = {"activation_fn": "gelu"}
    fixed.update({"relative_position_embedding": True, "gru_rel_pos": True} if is_wavlm else {})
    if cfg.family not in _FAMILIES:
        raise UserError(
            f"{path} is not exported: family={cfg.family}, and DPHuBERT's models are {', '.join(_FAMILIES)}"
        )
    for name, value in fixed.items():
        if getattr(cfg, name) != value:
            raise UserError(
                f"{path} is not exported: {name}={getattr(cfg, name)}, and DPHuBERT's models have {name}={value}; "
                "--format onnx, torchscript and pt2 hold it"
            )
    if is_wavlm and cfg.attention_head_dim * cfg.encoder_attention_heads != cfg.encoder_embed_dim:
        raise UserError(
            f"{path} is not exported: head_dim={cfg.head_dim}, and heads of DPHuBERT's WavLM fill the width; "
            "--format onnx, torchscript and pt2 hold it"
        )
    refuse_unfit(source, "DPHuBERT's layout", {*_SETTINGS, *(_BIAS if is_wavlm else ()), *fields.HARMLESS})


def write(source: Source, path: Path) -> None:
    """Write settings and weights; what theirs have no setting for stands in an entry of ours, which they ignore."""
    cfg = source.encoder.cfg
    ours = {"family": cfg.family, "sample_rate": source.checkpoint.sample_rate}
    weights = make_weights(source.encoder)
    torch.save({"state_dict": weights, "config": make_config(cfg, weights), OURS: ours}, path)


def make_config(cfg: EncoderConfig, weights: Dict[str, Tensor]) -> Dict[str, Any]:
    """What DPHuBERT's `wav2vec2_model` is called with."""
    layers = range(cfg.encoder_layers)
    attention, feed_forward = (
        [f"encoder.transformer.layers.{index}.{part}.weight" in weights for index in layers]
        for part in ("attention.out_proj", "feed_forward.output_dense")
    )
    modes = {ours: theirs for theirs, ours in MODES.items()}
    config: Dict[str, Any] = {
        "extractor_mode": modes[str(getattr(cfg.extractor_mode, "value", cfg.extractor_mode))],
        MARK: cfg.conv_layers,
        **{theirs: getattr(cfg, ours) for theirs, ours in SAME.items()},
        "encoder_use_attention": attention,
        "encoder_use_feed_forward": feed_forward,
        "encoder_ff_interm_features": [max(size, 1) for size in cfg.ffn_dims],
        "aux_num_out": None,
    }
    heads = [max(count, 1) for count in cfg.heads]
    if cfg.family != "wavlm":
        return {**config, "encoder_num_heads": heads, "encoder_head_dim": cfg.attention_head_dim}
    return {
        **config,
        "encoder_total_num_heads": [cfg.encoder_attention_heads] * cfg.encoder_layers,
        "encoder_remaining_heads": [_list_numbers(cfg, index) for index in layers],
        **{theirs: getattr(cfg, ours) for theirs, ours in WAVLM.items()},
    }


def _list_numbers(cfg: EncoderConfig, index: int) -> List[int]:
    """A layer's heads in the shared position bias; one of no effect where it has none."""
    numbers = cfg.head_numbers[index]
    return list(range(cfg.heads[index]) if numbers is None else numbers) or [0]


def make_weights(encoder: SpeechEncoder) -> Dict[str, Tensor]:
    """The encoder's weights by DPHuBERT's names."""
    cfg, weights = encoder.cfg, dict(encoder.state_dict())
    width = cfg.encoder_embed_dim
    del weights["mask_emb"]  # masked prediction is not theirs
    scale = weights.pop("feature_scale", torch.ones(cfg.conv_layers[-1][0]))
    if not cfg.has_projection:  # theirs always project
        weights.update({"post_extract_proj.weight": torch.eye(width), "post_extract_proj.bias": torch.zeros(width)})
    for index in range(cfg.encoder_layers):
        _complete_layer(cfg, index, weights)
    named = {}
    for key, value in weights.items():
        for pattern, name in _NAMES:
            key = re.sub(pattern, name, key)
        named[key] = value.clone()
    return {**named, SCALE: scale.clone()}


def _complete_layer(cfg: EncoderConfig, index: int, weights: Dict[str, Tensor]) -> None:
    """Give a layer what DPHuBERT's has besides: a head or neuron without effect where only a bias is left, norms."""
    layer, width, is_wavlm = f"encoder.layers.{index}.", cfg.encoder_embed_dim, cfg.family == "wavlm"
    if not cfg.heads[index]:
        bias, dim = weights.pop(layer + "self_attn.out_proj.bias"), cfg.attention_head_dim
        if bias.any() or (is_wavlm and not index):  # WavLM's first layer hands the position bias on
            for name in "qkv":
                weights[f"{layer}self_attn.{name}_proj.weight"] = torch.zeros(dim, width)
                weights[f"{layer}self_attn.{name}_proj.bias"] = torch.zeros(dim)
            weights[layer + "self_attn.out_proj.weight"] = torch.zeros(width, dim)
            weights[layer + "self_attn.out_proj.bias"] = bias
            if is_wavlm:
                weights[layer + "self_attn.grep_linear.weight"] = torch.zeros(8, dim)
                weights[layer + "self_attn.grep_linear.bias"] = torch.zeros(8)
                weights[layer + "self_attn.grep_a"] = torch.ones(1, 1, 1, 1)
    if not cfg.ffn_dims[index]:
        bias = weights.pop(layer + "fc2.bias")
        if bias.any():
            weights[layer + "fc1.weight"], weights[layer + "fc1.bias"] = torch.zeros(1, width), torch.zeros(1)
            weights[layer + "fc2.weight"], weights[layer + "fc2.bias"] = torch.zeros(width, 1), bias
    for norm in ("self_attn_layer_norm", "final_layer_norm"):  # pre-norm: not there before a part that is empty
        weights.setdefault(f"{layer}{norm}.weight", torch.ones(width))
        weights.setdefault(f"{layer}{norm}.bias", torch.zeros(width))
    if layer + "self_attn.grep_a" in weights:  # theirs has all heads'
        every = torch.ones(1, cfg.encoder_attention_heads, 1, 1)
        every[:, _list_numbers(cfg, index)] = weights[layer + "self_attn.grep_a"]
        weights[layer + "self_attn.grep_a"] = every


def open_file(path: Path, source: Source) -> Reader:
    """The network as our reader gives it, and waves by themselves as torchaudio's classes run it where they can."""
    ours = load_encoder(path)
    ours.normalize_input = False
    theirs = _build_torchaudio(path, source.config, ours)

    def read(waves: Tensor, padding_mask: Optional[Tensor]) -> List[Tensor]:
        if padding_mask is None and theirs is not None:
            return run_torchaudio(theirs, waves)
        output = ours.encode(waves, padding_mask)
        return list_states([require(hidden) for hidden in output.hidden], require(output.x))

    return read


def _build_torchaudio(path: Path, cfg: EncoderConfig, ours: SpeechEncoder) -> Optional[nn.Module]:
    """Torchaudio's model with the file's weights; None where layers differ, for which torchaudio has no class."""
    if cfg.layer_heads or cfg.layer_ffn_dims or cfg.layer_head_numbers or cfg.head_dim or cfg.scale_features:
        return None
    if cfg.family == "wavlm":
        return build_torchaudio(cfg.with_settings(project_features=True), ours.state_dict())
    try:
        from torchaudio.models import wav2vec2_model
    except ImportError as error:
        raise UserError(f"--format dphubert compares with torchaudio: pip install torchaudio ({error})") from error
    state = torch.load(path, weights_only=True)
    config, weights = state["config"], state["state_dict"]
    for name in ("use_attention", "use_feed_forward", "head_dim"):
        del config[f"encoder_{name}"]
    del config["normalize_waveform"]
    config.update(encoder_num_heads=cfg.encoder_attention_heads, encoder_ff_interm_features=cfg.encoder_ffn_embed_dim)
    model = wav2vec2_model(**config)
    del weights[SCALE]
    model.load_state_dict(weights)
    return model.eval()
