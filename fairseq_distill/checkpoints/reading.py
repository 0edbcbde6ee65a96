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
import reprlib
from collections import Counter
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..encoder.config import EncoderConfig
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from ..pruning.gates import add_gates
from .safe_load import PathLike, read_pickled, to_plain

logger = logging.getLogger(__name__)

# fairseq's names of models -> whose arithmetic they follow; our own students say so in their settings
_FAMILIES = {
    "hubert": "hubert",
    "wav2vec2": "wav2vec2",
    "data2vec_audio": "data2vec",
    "wavlm": "wavlm",
    "speech_student": "",
    "speech_multitask": "",
}
_OTHER_NAMES = {
    # Microsoft keeps the position bias that all layers share in layer 0, see `TransformerEncoder`
    "layers.0.self_attn.relative_attention_bias.": "relative_attention_bias.",
    # torch's parametrised weight norm, of files that were saved again
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}
_FINE_TUNED_PREFIXES = ("w2v_encoder.w2v_model.", "encoder.w2v_model.")
# parts that an encoder has whole: a weight in them that it has no place for means that the settings are not the file's
_OWN_PARTS = (
    "encoder.layers.",
    "encoder.pos_conv.",
    "encoder.layer_norm.",
    "feature_extractor.",
    "post_extract_proj.",
    "gates.",
)


@dataclass
class EncoderCheckpoint:
    """What a file says about its encoder.

    Attributes:
        path: the file.
        name: the model's name in fairseq ("wavlm" for Microsoft's).
        config: the encoder's settings.
        weights: state dict of the file with the encoder's names, still with what an encoder does not need.
        settings: all settings of the run that trained the encoder, as plain values, by section; empty in files from
            before fairseq had sections, and in Microsoft's.
        others: what else stands among the file's weights, with its number of tensors (data2vec's moving average).
    """

    path: PathLike
    name: str
    config: EncoderConfig
    weights: Dict[str, Tensor]
    settings: Dict[str, Any] = field(default_factory=dict)
    others: Dict[str, int] = field(default_factory=dict)

    @property
    def sample_rate(self) -> int:
        """In Hz, of the audio it was trained on."""
        return self.config.sample_rate

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
        `SpeechEncoder`; call it with waves (batch, samples) at `cfg.sample_rate`. float32 weights stay mapped from the
        file, so replace a file that is in use by renaming another onto it, as fairseq does.

    Raises:
        UserError: the file cannot be read or is refused, its architecture is unknown, a weight is missing or misshapen.
    """
    checkpoint = read_checkpoint(path)
    try:
        with torch.device("meta"), _NoInitialization():  # neither memory nor time for what the file is about to give
            encoder = SpeechEncoder(checkpoint.config)
            add_gates(encoder)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: its settings describe no network that can be built: {error}") from error
    weights, dropped = select_weights(checkpoint, encoder)
    weights = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    # torch's own method: fairseq's does not know `assign`, which takes the file's tensors as they are
    nn.Module.load_state_dict(encoder, weights, assign=True)
    logger.info(f"loaded {checkpoint.describe()}; left out: {', '.join(dropped) or 'nothing'}")
    encoder.normalize_input = checkpoint.config.normalize
    return encoder.eval()


def read_checkpoint(path: PathLike) -> EncoderCheckpoint:
    """Read a file's encoder settings and weights; weights stay on disk (memory-mapped) until they are used.

    Raises:
        UserError: the file cannot be read or is refused, or what it holds is no supported speech encoder.
    """
    state = read_pickled(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        keys = ", ".join(map(str, list(state)[:8])) if isinstance(state, dict) else ""
        found = f"holds {keys or 'nothing'}" if isinstance(state, dict) else f"is a {type(state).__name__}"
        raise UserError(
            f"{path} is no fairseq or WavLM checkpoint, which holds 'model' with 'cfg' or 'args'; this one {found}"
        )
    try:
        weights, others = _collect_tensors(state["model"])
        settings, weights = _find_settings(path, state, weights)
        model, task = _split(settings)
        name = _find_name(path, model, weights)
        config = _make_config(name, model, task)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} cannot be used: {str(error) or type(error).__name__}") from error
    _check_counts(path, config, weights)
    sections = settings if model is not settings else {}
    return EncoderCheckpoint(path, name, config, weights, sections, others)


def select_weights(checkpoint: EncoderCheckpoint, encoder: SpeechEncoder) -> Tuple[Dict[str, Tensor], List[str]]:
    """Pick from a checkpoint exactly the weights that `encoder` has.

    Returns:
        (state dict, names of what was left out, each module once with its number of tensors).

    Raises:
        UserError: a weight is missing or has another shape, or the file has more in the parts that an encoder is made
            of; the message names the first few.
    """
    theirs, wanted = checkpoint.weights, encoder.state_dict()
    problems = []
    for key, value in wanted.items():
        if key not in theirs:
            problems.append(f"{key} is missing")
        elif theirs[key].shape != value.shape:
            problems.append(f"{key} is {tuple(theirs[key].shape)}, its settings say {tuple(value.shape)}")
    left_out = Counter(checkpoint.others)
    for key in theirs.keys() - wanted.keys():
        if key.startswith(_OWN_PARTS):
            problems.append(f"{key} has no place in these settings")
        parts = key.split(".")
        left_out[".".join(parts[: 2 if parts[0] in ("encoder", "w2v_encoder") else 1])] += 1
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(f"{checkpoint.path}: the weights do not fit the settings of {checkpoint.name}: {shown}")
    return {key: theirs[key] for key in wanted}, [f"{module} ({n})" for module, n in sorted(left_out.items())]


def _collect_tensors(model: Mapping) -> Tuple[Dict[str, Tensor], Dict[str, int]]:
    """(tensors by name, number of tensors of each entry that is no tensor but a collection of them)."""
    # without what a pickle may hang on a tensor: hooks, attributes
    weights = {_rename(str(key)): value.detach() for key, value in model.items() if isinstance(value, Tensor)}
    others = {str(key): value for key, value in model.items() if not isinstance(value, Tensor)}
    return weights, {key: len(value) if isinstance(value, dict) else 1 for key, value in others.items()}


def _rename(key: str) -> str:
    """A tensor's name as fairseq has it, where another hand has written the file."""
    for theirs, ours in _OTHER_NAMES.items():
        key = key.replace(theirs, ours)
    return key


def _find_settings(path: PathLike, state: Mapping, weights: Dict[str, Tensor]) -> Tuple[Dict, Dict[str, Tensor]]:
    """(settings, weights) of the encoder, taken out of a fine-tuned model around it."""
    cfg, args = to_plain(state.get("cfg")), to_plain(state.get("args"))
    if cfg and "model" not in cfg:  # Microsoft's: flat, and the task's settings among the model's
        return {"_name": "wavlm", **cfg}, weights
    if not cfg and not args:
        raise UserError(
            f"{path} holds neither 'cfg' nor 'args': fairseq did not write it, or its settings were removed"
        )
    prefix = next((p for p in _FINE_TUNED_PREFIXES if any(key.startswith(p) for key in weights)), None)
    model, fine_tuning = _split(cfg or args)
    if prefix is None and model.get("_name") == "speech_multitask":  # its encoder is a module like any other
        return cfg, _strip("encoder.", weights)
    if prefix is None:
        return cfg or args, weights
    inner = model.get("w2v_args")
    if not inner:
        raise UserError(
            f"{path} is fine-tuned but lacks the settings of the encoder inside it (model.w2v_args): "
            "give the pretrained checkpoint instead"
        )
    adapters = _pick(model, "layer_type")  # fairseq adds them (MMS) to the encoder that it fine-tunes
    rate = _pick(fine_tuning, "sample_rate")  # of the audio it heard last: fairseq does not mind another one
    encoder, task = _split(inner)
    if encoder is task:
        return {**inner, **adapters, **rate}, _strip(prefix, weights)
    return {**inner, "model": {**encoder, **adapters}, "task": {**task, **rate}}, _strip(prefix, weights)


def _pick(settings: Mapping, key: str) -> Dict[str, Any]:
    """A setting alone, or nothing where it is not set."""
    return {key: settings[key]} if settings.get(key) else {}


def _strip(prefix: str, weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The weights, those with the prefix without it."""
    return {key[len(prefix) :] if key.startswith(prefix) else key: value for key, value in weights.items()}


def _split(settings: Dict) -> Tuple[Dict, Dict]:
    """(model settings, task settings): two sections in the hydra era, one namespace for all in the argparse era."""
    if isinstance(settings.get("model"), dict):
        return settings["model"], settings.get("task") or {}
    return settings, settings


def _find_name(path: PathLike, model: Mapping, weights: Mapping) -> str:
    name = model.get("_name") or model.get("arch")
    if not name:  # some files lost the name; what only one family has tells it
        marks = {"label_embs_concat": "hubert", "quantizer.": "wav2vec2"}
        name = next((family for mark, family in marks.items() if any(key.startswith(mark) for key in weights)), None)
    if name not in _FAMILIES:
        raise UserError(
            f"{path}: architecture {reprlib.repr(name)} is not supported; supported: {', '.join(_FAMILIES)} "
            "(wavlm as Microsoft ships it), and hubert_ctc, wav2vec_ctc or wav2vec_seq2seq models fine-tuned from these"
        )
    return name


def _make_config(name: str, model: Mapping, task: Mapping) -> EncoderConfig:
    """The encoder's settings, checked; ValueError, naming the setting, where they are not supported."""
    config = EncoderConfig.from_settings(model)
    config.family = _FAMILIES[name] or config.family
    if _FAMILIES[name]:
        config.normalize = bool(task.get("normalize", model.get("normalize")) or False)
    config.sample_rate = find_sample_rate(model, task)
    if (task.get("label_rate") or 0) > 0:
        config.label_rate = task["label_rate"]
    for f in fields(config):
        value = getattr(config, f.name)
        if isinstance(f.type, type):
            allowed = (int, float) if f.type is float else (str, f.type) if issubclass(f.type, Enum) else f.type
            wrong = not isinstance(value, allowed)
        else:  # lists and tuples of numbers, optional texts
            wrong = not all(isinstance(item, (int, float, str)) for item in value or ())
        if wrong:
            raise ValueError(f"{f.name}={reprlib.repr(value)} is not of type {f.type}")
    if model.get("quantize_input"):
        raise ValueError("quantize_input of wav2vec 2.0 is not supported")
    if (model.get("crop_seq_to_multiple") or 1) > 1:
        raise ValueError(f"crop_seq_to_multiple={model['crop_seq_to_multiple']} of wav2vec 2.0 is not supported")
    config.check()
    return config


def find_sample_rate(model: Mapping, task: Mapping) -> int:
    """Samples a second of the audio that a file was trained on: its task's, or 16,000 where it names none.

    Raises:
        ValueError: it is no whole number, at least 1.
    """
    given = task.get("sample_rate") or model.get("sample_rate") or EncoderConfig.sample_rate
    rate = float(given)
    if not rate >= 1 or rate % 1:
        raise ValueError(f"sample_rate={reprlib.repr(given)} is no number of samples a second")
    return int(rate)


def _check_counts(path: PathLike, config: EncoderConfig, weights: Mapping) -> None:
    """Refuse more layers than the file has weights of, before as many are built as a broken file may claim."""
    said = {"feature_extractor.conv_layers": len(config.conv_layers), "encoder.layers": config.encoder_layers}
    for part, count in said.items():
        found = {key[len(part) + 1 :].split(".")[0] for key in weights if key.startswith(part + ".")}
        if len(found) < count:
            first = next(index for index in range(count) if str(index) not in found)
            raise UserError(
                f"{path}: its settings say {count} {part}, but there are weights of {len(found)}: "
                f"{part}.{first}.* is missing"
            )


class _NoInitialization(TorchFunctionMode):
    """Leaves new weights as they are: random numbers on the meta device import torch's compiler (100 MB, 1 s)."""

    def __torch_function__(self, function: Any, types: Any, args: Tuple = (), kwargs: Optional[Dict] = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in _INITIALIZERS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


_INITIALIZERS = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "zeros_", "ones_", "fill_", "zero_"}
