"""Every checkpoint layout that people have -> (encoder settings, weights). No other file knows about file formats.

    file                                    settings                          weights under
    HuBERT, data2vec, wav2vec 2.0 (hydra)   cfg.model, cfg.task               (nothing)
    wav2vec 2.0 (argparse)                  args                              (nothing)
    fine-tuned, CTC                         cfg.model.w2v_args or args....    w2v_encoder.w2v_model.
    fine-tuned, sequence to sequence        the same                          encoder.w2v_model.
    WavLM as Microsoft ships it             cfg (flat)                        (nothing)
    students of this plugin                 cfg.model, cfg.task               (nothing)
"""

import logging
from argparse import Namespace
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from .encoder.config import EncoderConfig
from .encoder.model import SpeechEncoder
from .errors import UserError
from .safe_load import PathLike, read_pickled

logger = logging.getLogger(__name__)

# fairseq's names of models -> whose arithmetic they follow; our own students say so in their settings
_FAMILIES = {"hubert": "hubert", "wav2vec2": "wav2vec2", "data2vec_audio": "data2vec", "speech_student": None}
_FINE_TUNED_PREFIXES = ("w2v_encoder.w2v_model.", "encoder.w2v_model.")


@dataclass
class EncoderCheckpoint:
    """What a file says about its encoder.

    Attributes:
        path: the file.
        name: the model's name in fairseq ("wavlm" for Microsoft's).
        config: the encoder's settings.
        weights: state dict of the file with the encoder's names, still with what an encoder does not need.
        sample_rate: in Hz, of the audio it was trained on.
    """

    path: PathLike
    name: str
    config: EncoderConfig
    weights: Dict[str, Tensor]
    sample_rate: int

    def describe(self) -> str:
        """One line for the log."""
        c = self.config
        norm = "pre-norm" if c.layer_norm_first else "post-norm"
        return f"{self.name} ({c.encoder_layers} layers x {c.encoder_embed_dim}, {norm}) from {self.path}"


def load_encoder(path: PathLike) -> SpeechEncoder:
    """Load the encoder of any supported checkpoint: evaluation mode, float32, CPU; waves are normalised as it needs.

    Args:
        path: a file of HuBERT, wav2vec 2.0, data2vec audio (each also fine-tuned), WavLM or a student of ours.

    Returns:
        `SpeechEncoder`; call it with waves (batch, samples) at 16 kHz.

    Raises:
        UserError: the file cannot be read or is refused, its architecture is unknown, a weight is missing or misshapen.
    """
    checkpoint = read_checkpoint(path)
    with torch.device("meta"):  # no memory and no time for weights that the file is about to give
        encoder = SpeechEncoder(checkpoint.config)
    weights, dropped = select_weights(checkpoint, encoder)
    # torch's own method: fairseq's does not know `assign`, which takes the file's tensors as they are
    nn.Module.load_state_dict(encoder, {key: value.float() for key, value in weights.items()}, assign=True)
    logger.info(f"loaded {checkpoint.describe()}; left out: {', '.join(dropped) or 'nothing'}")
    encoder.normalize_input = checkpoint.config.normalize
    return encoder.eval()


def read_checkpoint(path: PathLike) -> EncoderCheckpoint:
    """Read a file's encoder settings and weights; weights stay on disk (memory-mapped) until they are used.

    Raises:
        UserError: the file cannot be read or is refused, or what it holds is no supported speech encoder.
    """
    state = read_pickled(path)
    if not isinstance(state, Mapping) or not isinstance(state.get("model"), Mapping):
        found = ", ".join(map(str, list(state)[:8])) if isinstance(state, Mapping) else type(state).__name__
        raise UserError(
            f"{path} is no fairseq or WavLM checkpoint: it should hold 'model' with 'cfg' or 'args', but holds: {found}"
        )
    model, task, weights = _find_settings(path, state)
    name = _find_name(path, model, weights)
    family = "wavlm" if name == "wavlm" else _FAMILIES[name]
    try:
        config = EncoderConfig.from_settings(model)
        config.family = family or config.family
        if name != "speech_student":
            config.normalize = bool(task.get("normalize") or False)
        config.check()
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: settings of {name} that are not supported: {error}") from error
    if model.get("quantize_input"):
        raise UserError(f"{path}: wav2vec 2.0 with quantize_input is not supported")
    return EncoderCheckpoint(path, name, config, weights, int(task.get("sample_rate") or 16_000))


def select_weights(checkpoint: EncoderCheckpoint, encoder: SpeechEncoder) -> Tuple[Dict[str, Tensor], List[str]]:
    """Pick from a checkpoint exactly the weights that `encoder` has.

    Returns:
        (state dict, names of what was left out, each module once with its number of tensors).

    Raises:
        UserError: a weight is missing or has another shape; the message names all of the first few.
    """
    theirs = dict(checkpoint.weights)
    # Microsoft keeps the shared position bias in layer 0, see TransformerEncoder
    moved = theirs.pop("encoder.layers.0.self_attn.relative_attention_bias.weight", None)
    if moved is not None:
        theirs["encoder.relative_attention_bias.weight"] = moved
    wanted = encoder.state_dict()
    problems = []
    for key, value in wanted.items():
        if key not in theirs:
            problems.append(f"{key} is missing")
        elif theirs[key].shape != value.shape:
            problems.append(f"{key} is {tuple(theirs[key].shape)}, its settings say {tuple(value.shape)}")
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(f"{checkpoint.path}: the weights do not fit the settings of {checkpoint.name}: {shown}")
    left_out: Dict[str, int] = {}
    for key in theirs.keys() - wanted.keys():
        left_out[key.split(".")[0]] = left_out.get(key.split(".")[0], 0) + 1
    return {key: theirs[key] for key in wanted}, [f"{name} ({n})" for name, n in sorted(left_out.items())]


def _find_settings(path: PathLike, state: Mapping) -> Tuple[Dict, Dict, Dict[str, Tensor]]:
    """(model settings, task settings, weights) of the encoder, out of the fine-tuned model around it if there is one."""
    weights = dict(state["model"])
    cfg, args = _to_dict(state.get("cfg")), _to_dict(state.get("args"))
    if cfg is not None and "model" not in cfg:  # Microsoft's: flat, and the task's settings among the model's
        return {"_name": "wavlm", **cfg}, cfg, weights
    model, task = _split(cfg, args)
    if model is None:
        raise UserError(f"{path} holds neither 'cfg' nor 'args': fairseq did not write it, or its settings were removed")
    prefix = next((p for p in _FINE_TUNED_PREFIXES if any(k.startswith(p) for k in weights)), None)
    if prefix is None:
        return model, task, weights
    inner = _to_dict(model.get("w2v_args"))
    if inner is None:
        raise UserError(
            f"{path} is fine-tuned but lacks the settings of the encoder inside it (model.w2v_args): "
            "give the pretrained checkpoint instead"
        )
    inner_model, inner_task = _split(inner, inner) if "model" in inner else _split(None, inner)
    return inner_model, inner_task, {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}


def _split(cfg: Optional[Dict], args: Optional[Dict]) -> Tuple[Optional[Dict], Dict]:
    """(model settings, task settings): two sections in the hydra era, one namespace for all in the argparse era."""
    if cfg is not None and "model" in cfg:
        return _to_dict(cfg["model"]) or {}, _to_dict(cfg.get("task")) or {}
    return args, args or {}


def _to_dict(settings: Any) -> Optional[Dict]:
    if settings is None:
        return None
    if OmegaConf.is_config(settings):
        return OmegaConf.to_container(settings, resolve=False, enum_to_str=True)
    return dict(vars(settings)) if isinstance(settings, Namespace) else dict(settings)


def _find_name(path: PathLike, model: Mapping, weights: Mapping) -> str:
    name = model.get("_name") or model.get("arch")
    if not name:  # some files lost the name; what only one family has tells it
        if "label_embs_concat" in weights:
            name = "hubert"
        elif any(key.startswith("quantizer.") for key in weights):
            name = "wav2vec2"
    if name not in _FAMILIES and name != "wavlm":
        raise UserError(
            f"{path}: architecture {name!r} is not supported; supported: {', '.join(_FAMILIES)}, WavLM as Microsoft "
            "ships it, and hubert_ctc or wav2vec_ctc models fine-tuned from these"
        )
    return name
