"""Where a file keeps an encoder's settings and weights, and what other hands have called them.

file                                    settings                          weights
fairseq                                 cfg, sections; or args, flat      model
WavLM, UniSpeech-SAT of Microsoft       cfg, flat                         model
s3prl's converted form                  model_cfg, task_cfg               model_weight
lightning                               cfg, args or hyper_parameters     state_dict
DPHuBERT, DiariZen                      config, torchaudio's              state_dict, torchaudio's names

The encoder may stand inside another model, under any prefix: then its settings are `w2v_args` or the only ones that
describe convolutions (`conv_feature_layers`).
"""

import reprlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, Mapping, Set, Tuple

import torch
from torch import Tensor

from ..errors import UserError
from .archive import check_storages
from .dphubert import is_dphubert, translate
from .safe_load import PathLike, to_plain

_OTHER_NAMES = {
    # Microsoft keeps the position bias that all layers share in layer 0, see `TransformerEncoder`
    "layers.0.self_attn.relative_attention_bias.": "relative_attention_bias.",
    # torch's parametrised weight norm, of files that were saved again
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}
# what wraps modules and puts its name into theirs: DataParallel, torch.compile, fairscale's and torch's sharding
_WRAPPERS = {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
}
_FIRST_WEIGHT = "feature_extractor.conv_layers.0.0.weight"
_POSITIONS = "encoder.pos_conv.0."
_FIELD = "conv_feature_layers"  # what only settings of an encoder have
# of which weights say nothing, or not all
_NOT_IN_WEIGHTS = (
    "_name, encoder_attention_heads, layer_norm_first, activation_fn, the strides in conv_feature_layers, and normalize"
)


@dataclass
class Contents:
    """An encoder's part of a file.

    Attributes:
        settings: all of the run that trained it, as plain values: by section, or in one namespace.
        weights: by their names in the encoder; also what else its model has.
        around: weights of the model that the encoder stands in.
        others: what else stands among the weights, with its number of tensors (moving averages).
    """

    settings: Dict[str, Any]
    weights: Dict[str, Tensor]
    around: Dict[str, Tensor] = field(default_factory=dict)
    others: Counter = field(default_factory=Counter)

    @property
    def model(self) -> Dict[str, Any]:
        """Settings of the model; all of them where there are no sections."""
        return split_sections(self.settings)[0]

    @property
    def task(self) -> Dict[str, Any]:
        """Settings of the task; all of them where there are no sections."""
        return split_sections(self.settings)[1]

    @property
    def has_sections(self) -> bool:
        """Whether the model's settings stand apart from those of the run."""
        return self.model is not self.settings


def unpack(path: PathLike, state: Any, as_stored: bool = True) -> Contents:
    """An encoder's settings and weights, taken out of the model around it.

    Args:
        path: the file.
        state: what it holds.
        as_stored: its tensors are the file's own, not yet translated.

    Raises:
        UserError: the file holds no encoder, or no settings for it, or several encoders.
    """
    if is_dphubert(state):
        collect_tensors(path, state["state_dict"])
        state, as_stored = translate(state), False
    settings, model = _find_containers(path, state)
    weights, others = collect_tensors(path, model, as_stored)
    others.update(_count_averages(state))
    prefix = _find_prefix(path, weights)
    settings = _find_settings(path, settings, prefix)
    inside = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    around = {key: value for key, value in weights.items() if not key.startswith(prefix)}
    _put_weight_norm_back(inside)
    return Contents(settings, inside, around, others)


def split_sections(settings: Dict) -> Tuple[Dict, Dict]:
    """(model settings, task settings): two sections in the hydra era, one namespace for all in the argparse era."""
    if isinstance(settings.get("model"), dict):
        return settings["model"], settings.get("task") or {}
    return settings, settings


def _find_containers(path: PathLike, state: Any) -> Tuple[Dict, Dict]:
    """(settings, weights as they are in the file)."""
    if not isinstance(state, dict):
        raise UserError(f"{path} is no fairseq or WavLM checkpoint; this one is a {type(state).__name__}")
    if isinstance(state.get("model_weight"), dict):
        parts = {"model": state.get("model_cfg"), "task": state.get("task_cfg")}
        return {name: _check_settings(path, name, part) for name, part in parts.items()}, state["model_weight"]
    weights = next((state[key] for key in ("model", "state_dict") if isinstance(state.get(key), dict)), None)
    if not weights and any(isinstance(value, Tensor) for value in state.values()):
        raise _miss_settings(path, "is a bare state dict, weights without settings")
    if weights is None or (weights is state.get("state_dict") and not weights):
        keys = ", ".join(map(str, list(state)[:8]))
        raise UserError(
            f"{path} is no fairseq or WavLM checkpoint, which holds 'model' with 'cfg' or 'args'; this one holds "
            f"{keys or 'nothing'}"
        )
    for name in ("cfg", "args", "hyper_parameters"):
        settings = _check_settings(path, name, state.get(name))
        if name == "hyper_parameters":  # whatever the module was given, the encoder's settings or not
            settings = next((v for v in map(settings.get, ("cfg", "args")) if isinstance(v, dict)), settings)
            settings = settings if any(_list_settings({name: settings}, set())) else {}
        if settings:
            return settings, weights
    raise _miss_settings(path, "holds neither 'cfg' nor 'args', the settings of its weights")


def _check_settings(path: PathLike, name: str, value: Any) -> Dict:
    settings = to_plain(value) or {}
    if not isinstance(settings, dict):
        raise UserError(f"{path} cannot be used: {name} is {reprlib.repr(settings)}, not settings by name")
    return settings


def _miss_settings(path: PathLike, what: str) -> UserError:
    return UserError(
        f"{path} {what}. Weights do not tell {_NOT_IN_WEIGHTS}: save {{'cfg': {{'model': {{...}}, 'task': {{...}}}}, "
        "'model': weights} with fairseq's settings of the model that they come from (docs/checkpoints.md shows how)"
    )


def collect_tensors(path: PathLike, model: Mapping, as_stored: bool = True) -> Tuple[Dict[str, Tensor], Counter]:
    """(tensors by name, number of tensors of each entry that is no tensor but a collection of them)."""
    weights: Dict[str, Tensor] = {}
    others: Counter = Counter()
    for key, value in model.items():
        if not isinstance(value, Tensor):
            others[str(key)] = len(value) if isinstance(value, dict) else 1
            continue
        name = _rename(str(key))
        if name in weights:
            raise UserError(f"{path} holds {name} twice, wrapped in {', '.join(sorted(_WRAPPERS))} and not")
        weights[name] = value.detach()  # without what a pickle may hang on a tensor: hooks, attributes
    if as_stored:
        check_storages(path, weights.values())
    return weights, others


def _rename(key: str) -> str:
    """A tensor's name as fairseq has it, where another hand has written the file."""
    if not _WRAPPERS.isdisjoint(key.split(".")):
        key = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
    for theirs, ours in _OTHER_NAMES.items():
        key = key.replace(theirs, ours)
    return key


def _find_prefix(path: PathLike, weights: Mapping[str, Tensor]) -> str:
    """What stands before the names of the encoder's weights; "" where nothing does, or nothing is found."""
    prefixes = {
        key[: -len(_FIRST_WEIGHT)] for key in weights if key == _FIRST_WEIGHT or key.endswith("." + _FIRST_WEIGHT)
    }
    if "" in prefixes or not prefixes:
        return ""
    originals = {prefix for prefix in prefixes if not _is_average(prefix)} or prefixes
    if len(originals) > 1:
        raise UserError(
            f"{path} holds {len(originals)} encoders, under {', '.join(sorted(originals))}: save the one that you "
            "mean, with its settings, to a file of its own"
        )
    return originals.pop()


def _count_averages(state: Mapping) -> Dict[str, int]:
    """Tensors of moving averages beside the model, whose own weights are what fairseq loads and is taken here."""
    extra = state.get("extra_state")  # fairseq's, with `ema.store_ema`
    places = {
        **state,
        **{f"extra_state.{key}": value for key, value in (extra if isinstance(extra, dict) else {}).items()},
    }
    return {key: len(value) for key, value in places.items() if isinstance(value, dict) and _is_average(str(key))}


def _is_average(prefix: str) -> bool:
    """Whether a prefix names a moving average of the model."""
    return any("ema" in part.lower().split("_") for part in prefix.split("."))


def _find_settings(path: PathLike, settings: Dict, prefix: str) -> Dict:
    """The encoder's settings in those of the model that it stands in."""
    model, around = split_sections(settings)
    inner = next((model[key] for key in ("w2v_args", "d2v_args") if isinstance(model.get(key), dict)), None)
    own = _FIELD in model and (inner is None or not prefix)
    wrapped = bool(set(prefix.strip(".").split(".")) - {"", "model"})  # in more than lightning's module
    if own or (inner is None and not wrapped):
        return settings
    nested = [inner] if inner is not None else list(_list_settings(model, set()))
    if len(nested) != 1:
        raise UserError(
            f"{path} is fine-tuned but lacks the settings of the encoder inside it (model.w2v_args), whose weights are "
            f"{prefix}*: give the pretrained checkpoint instead"
        )
    adapters = _pick(model, "layer_type")  # fairseq adds them (MMS) to what it fine-tunes
    rate = _pick(around, "sample_rate")  # of the audio it heard last: fairseq does not mind another one
    encoder, task = split_sections(nested[0])
    if encoder is task:
        return {**nested[0], **adapters, **rate}
    return {**nested[0], "model": {**encoder, **adapters}, "task": {**task, **rate}}


def _pick(settings: Mapping, key: str) -> Dict[str, Any]:
    """A setting alone, or nothing where it is not set."""
    return {key: settings[key]} if settings.get(key) else {}


def _list_settings(settings: Mapping, seen: Set[int]) -> Iterator[Dict]:
    """Settings of encoders anywhere in those of a model, each with its sections where it has them."""
    for value in settings.values():
        if not isinstance(value, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        if _FIELD in split_sections(value)[0]:
            yield value
        else:
            yield from _list_settings(value, seen)


def _put_weight_norm_back(weights: Dict[str, Tensor]) -> None:
    """Split the positional convolution's weight into norm and direction, where its weight norm was taken away."""
    weight = weights.get(_POSITIONS + "weight")
    if weight is None or weight.dim() != 3 or _POSITIONS + "weight_v" in weights:
        return
    direction = weights.pop(_POSITIONS + "weight").float()
    norm = direction.norm(dim=(0, 1), keepdim=True)
    weights[_POSITIONS + "weight_g"] = norm
    weights[_POSITIONS + "weight_v"] = torch.where(norm > 0, direction, torch.ones_like(direction))  # 0 has none
