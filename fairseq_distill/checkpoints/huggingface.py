"""Folders of Hugging Face: config.json and model.safetensors of HubertModel, Wav2Vec2Model, WavLMModel and their CTC.

Settings are translated one by one to fairseq's, weights to fairseq's names; nothing of transformers is needed, and no
code of a folder is run. A setting that is neither translated nor listed here is refused.
"""

import json
import logging
import reprlib
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

import torch
from torch import Tensor

from ..encoder.conv_spec import format_conv_layers
from ..errors import UserError
from .archive import check_storages
from .component_names import NORM, name_as_fairseq
from .safe_load import PathLike, read_pickled

logger = logging.getLogger(__name__)

_FAMILIES = {"hubert": "hubert", "wav2vec2": "wav2vec2", "wavlm": "wavlm"}
# theirs -> ours, where values are the same
_SAME = {
    "hidden_size": "encoder_embed_dim",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_embed_dim",
    "do_stable_layer_norm": "layer_norm_first",
    "conv_bias": "conv_bias",
    "num_conv_pos_embeddings": "conv_pos",
    "num_conv_pos_embedding_groups": "conv_pos_groups",
}
_DROPOUTS = {
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "layerdrop": "encoder_layerdrop",
    "feat_proj_dropout": "dropout_input",
}
_WAVLM = {"num_buckets": "num_buckets", "max_bucket_distance": "max_distance"}
_MODES = {"group": "default", "layer": "layer_norm"}
# what has one value in fairseq's network: name -> that value
_FIXED: Dict[str, Tuple[Any, ...]] = {
    "feat_extract_activation": ("gelu",),
    "hidden_act": ("gelu",),
    "layer_norm_eps": (1e-5,),
    "feat_proj_layer_norm": (True,),
    "add_adapter": (False,),
    "adapter_attn_dim": (None,),
    "pruned_heads": ({}, None),
}
_TRANSLATED = {
    *(*_SAME, *_DROPOUTS, *_WAVLM, *_FIXED, "feat_extract_norm", "conv_dim", "conv_kernel", "conv_stride"),
    *("model_type", "conv_pos_batch_norm"),
}
_REASONS = {
    "names, and says nothing of the network": (
        "_name_or_path architectures transformers_version torch_dtype dtype tokenizer_class processor_class "
        "feature_extractor_type id2label label2id problem_type finetuning_task task_specific_params"
    ),
    "counts what stands in other settings too": "num_feat_extract_layers",
    "says what a call returns, or how it computes the same": (
        "output_attentions output_hidden_states return_dict use_return_dict chunk_size_feed_forward torchscript "
        "attn_implementation _attn_implementation gradient_checkpointing use_cache is_encoder_decoder is_decoder "
        "tie_word_embeddings"
    ),
    "is used in training only": (
        "hidden_dropout_prob final_dropout feat_extract_dropout feat_quantizer_dropout initializer_range "
        "freeze_feat_extract_train ctc_loss_reduction ctc_zero_infinity diversity_loss_weight "
        "contrastive_logits_temperature num_negatives replace_prob"
    ),
    "masks in training only": (
        "apply_spec_augment mask_time_prob mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length "
        "mask_feature_min_masks mask_channel_length mask_channel_min_space mask_channel_other mask_channel_prob "
        "mask_channel_selection mask_time_min_space mask_time_other mask_time_selection no_mask_channel_overlap "
        "no_mask_time_overlap"
    ),
    "belongs to heads behind the encoder": (
        "vocab_size num_ctc_classes classifier_proj_size use_weighted_layer_sum tdnn_dim tdnn_kernel tdnn_dilation "
        "xvector_output_dim codevector_dim proj_codevector_dim num_codevector_groups num_codevectors_per_group "
        "bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id"
    ),
    "is read only with add_adapter, which is refused": (
        "adapter_kernel_size adapter_stride num_adapter_layers output_hidden_size"
    ),
}
HARMLESS: Dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()}
_FIRST_WEIGHT = "feature_extractor.conv_layers.0.conv.weight"


def is_folder(path: PathLike) -> bool:
    """Whether there is a folder with a model's config.json."""
    return (Path(path) / "config.json").is_file()


def read_folder(path: PathLike) -> Dict[str, Any]:
    """What a folder's files say in fairseq's form: {"cfg": {"model", "task"}, "model": weights}.

    Raises:
        UserError: a file is missing or damaged, or the model is none that is computed here.
    """
    folder = Path(path)
    config = _read_json(folder / "config.json")
    preprocessor = folder / "preprocessor_config.json"
    heard = _read_json(preprocessor) if preprocessor.is_file() else {}
    try:
        model = _translate(config)
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be used: {error}. What loads: docs/checkpoints.md") from error
    weights = _read_weights(folder)
    first = next((key for key in weights if key.endswith(_FIRST_WEIGHT)), _FIRST_WEIGHT)
    prefix = first[: -len(_FIRST_WEIGHT)]
    weights = {key[len(prefix) :] if key.startswith(prefix) else key: value for key, value in weights.items()}
    batch_norm = bool(config.get("conv_pos_batch_norm"))
    weights = name_as_fairseq(weights, model["extractor_mode"] == "layer_norm", batch_norm)
    if "mask_emb" not in weights and NORM in weights:  # it is there only where training masked
        weights["mask_emb"] = torch.zeros_like(weights[NORM])
    task = {"normalize": heard.get("do_normalize"), "sample_rate": heard.get("sampling_rate")}
    if task["normalize"] is None:
        task["normalize"] = config["feat_extract_norm"] == "layer"
        logger.warning(
            f"{folder} has no preprocessor_config.json with do_normalize: waves are "
            f"{'normalised' if task['normalize'] else 'taken as they are'}, as feat_extract_norm="
            f"{config['feat_extract_norm']} is trained"
        )
    return {"cfg": {"model": model, "task": task}, "model": weights}


def _translate(config: Mapping[str, Any]) -> Dict[str, Any]:
    """Their settings as fairseq's; ValueError, naming the first that does not fit."""
    name = config.get("model_type")
    if name not in _FAMILIES:
        raise ValueError(f"model_type={reprlib.repr(name)} is not supported; supported: {', '.join(_FAMILIES)}")
    for key, allowed in _FIXED.items():
        if key in config and config[key] not in allowed:
            raise ValueError(f"{key}={reprlib.repr(config[key])} is not supported ({key}={allowed[0]} is)")
    for key, value in config.items():
        if key not in _TRANSLATED and key not in HARMLESS and value not in (None, False, [], {}, ""):
            raise ValueError(f"{key}={reprlib.repr(value)} is not known here")
    same = {**_SAME, **(_WAVLM if name == "wavlm" else {})}
    missing = [
        key for key in (*same, "feat_extract_norm", "conv_dim", "conv_kernel", "conv_stride") if key not in config
    ]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if config["feat_extract_norm"] not in _MODES:
        raise ValueError(f"feat_extract_norm={reprlib.repr(config['feat_extract_norm'])} is none of group, layer")
    model = {ours: config[theirs] for theirs, ours in same.items()}
    model.update({ours: config[theirs] for theirs, ours in _DROPOUTS.items() if theirs in config})
    convs = [config[key] for key in ("conv_dim", "conv_kernel", "conv_stride")]
    if len({len(values) for values in convs}) != 1:
        raise ValueError("conv_dim, conv_kernel and conv_stride must be as long as each other")
    model.update(
        _name=_FAMILIES[str(name)],
        extractor_mode=_MODES[config["feat_extract_norm"]],
        conv_feature_layers=format_conv_layers(list(zip(*convs))),
        conv_pos_batch_norm=bool(config.get("conv_pos_batch_norm")),
    )
    if name == "wavlm":
        model.update(relative_position_embedding=True, gru_rel_pos=True)
    return model


def _read_weights(folder: Path) -> Dict[str, Tensor]:
    """Tensors by their names there: of safetensors, whole or in parts, or of a pickle through the safe reader."""
    whole, parts, pickled = (
        folder / name for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    )
    if whole.is_file():
        return _read_safetensors(whole)
    if parts.is_file():
        files = _read_json(parts).get("weight_map")
        names = sorted({str(name) for name in files.values()}) if isinstance(files, dict) else []
        odd = [name for name in names if Path(name).name != name]
        if odd or not names:
            raise UserError(f"{parts} is refused: it names {odd[0] if odd else 'no file'}, not files of its folder")
        return {key: value for name in names for key, value in _read_safetensors(folder / name).items()}
    if pickled.is_file():
        state = read_pickled(pickled)
        if not isinstance(state, dict):
            raise UserError(f"{pickled} holds a {type(state).__name__}, not weights by name")
        weights = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
        check_storages(pickled, weights.values())
        return weights
    raise UserError(f"{folder} has a config.json but neither model.safetensors nor pytorch_model.bin")


def _read_safetensors(file: Path) -> Dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{file} needs a library that is not installed: pip install 'fairseq-distill[export]' ({error})"
        ) from error
    try:
        return load_file(str(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as safetensors: {error}; copy or download it again") from error


def _read_json(file: Path) -> Dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no settings by name")
    return value
