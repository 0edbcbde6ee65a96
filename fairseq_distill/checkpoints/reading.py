"""Every checkpoint that people have -> (encoder settings, weights), whatever its name.

`unpacking` says where a file keeps them, `families` whose arithmetic they ask for, `fields` which settings are
followed, harmless or refused. No other folder knows about file formats.
"""

import logging
import re
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
from . import huggingface
from .families import FAMILY_OF, NAME_OF, NOT_COMPUTED, find_family
from .fields import find_refused, list_unknown
from .safe_load import PathLike, read_pickled
from .tensors import check_weights
from .unpacking import Contents, unpack

logger = logging.getLogger(__name__)

# parts that an encoder has whole: a weight in them that it has no place for means that the settings are not the file's
_OWN_PARTS = (
    "encoder.",
    "feature_extractor.",
    "layer_norm.",
    "mask_emb",
    "post_extract_proj.",
    "feature_scale",
    "input_quantizer.",
    "project_inp.",
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
        around: weights of the model that the encoder stands in, such as a fine-tuned one's.
        settings: all settings of the run that trained the encoder, as plain values, by section; empty in files from
            before fairseq had sections, and in Microsoft's.
        others: what else stands among the file's weights, with its number of tensors (data2vec's moving average).
        unknown: settings of its model that are not known here, and whose names do not speak of the network.
    """

    path: PathLike
    name: str
    config: EncoderConfig
    weights: Dict[str, Tensor]
    settings: Dict[str, Any] = field(default_factory=dict)
    others: Dict[str, int] = field(default_factory=dict)
    around: Dict[str, Tensor] = field(default_factory=dict)
    unknown: List[str] = field(default_factory=list)

    @property
    def sample_rate(self) -> int:
        """In Hz, of the audio it was trained on."""
        return self.config.sample_rate

    def describe(self) -> str:
        """One line for the log."""
        c = self.config
        norm = "pre-norm" if c.layer_norm_first else "post-norm"
        taken = "" if self.name in FAMILY_OF else f"taken for {c.family} by its settings, "
        return f"{self.name} ({taken}{c.encoder_layers} layers x {c.encoder_embed_dim}, {norm}) from {self.path}"


def load_encoder(path: PathLike) -> SpeechEncoder:
    """Load the encoder of any supported checkpoint: evaluation mode, float32, CPU; waves are normalised as it needs.

    Args:
        path: a file of HuBERT, wav2vec 2.0, data2vec audio, WavLM, of what is derived from these with the same network
            or built around it, a folder of Hugging Face, a file of DPHuBERT, or a student of ours
            (docs/checkpoints.md).

    Returns:
        `SpeechEncoder`; call it with waves (batch, samples) at `cfg.sample_rate`. float32 weights stay mapped from the
        file, so replace a file that is in use by renaming another onto it, as fairseq does.

    Raises:
        UserError: the file cannot be read or is refused, its architecture is unknown, a weight is missing or misshapen.
    """
    return build_encoder(read_checkpoint(path))


def build_encoder(checkpoint: EncoderCheckpoint) -> SpeechEncoder:
    """The encoder of a checkpoint that was read, as `load_encoder` gives it, which names the errors."""
    path = checkpoint.path
    try:
        with torch.device("meta"), _NoInitialization():  # neither memory nor time for what the file is about to give
            encoder = SpeechEncoder(checkpoint.config)
            add_gates(encoder)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: its settings describe no network that can be built: {error!s:.400}") from error
    weights, dropped = select_weights(checkpoint, encoder)
    weights = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    # torch's own method: fairseq's does not know `assign`, which takes the file's tensors as they are
    nn.Module.load_state_dict(encoder, weights, assign=True)
    unknown = checkpoint.unknown
    if unknown:
        more = f" and {len(unknown) - 12} more" if len(unknown) > 12 else ""
        logger.info(f"{path}: settings that are not known here, taken for harmless: {', '.join(unknown[:12])}{more}")
    logger.info(f"loaded {checkpoint.describe()}; left out: {', '.join(dropped) or 'nothing'}")
    encoder.normalize_input = checkpoint.config.normalize
    return encoder.eval()


def read_checkpoint(path: PathLike) -> EncoderCheckpoint:
    """Read a file's encoder settings and weights; weights stay on disk (memory-mapped) until they are used.

    Raises:
        UserError: the file cannot be read, is damaged or refused, or what it holds is no supported speech encoder with
            finite weights.
    """
    in_folder = huggingface.is_folder(path)
    state = huggingface.read_folder(path) if in_folder else read_pickled(path)
    try:
        contents = unpack(path, state, as_stored=not in_folder)
        name, family = _find_name(path, contents)
        config = _make_config(family, contents)
        _leave_out_speaker_layers(contents, config.encoder_layers)
    except (ValueError, TypeError, AttributeError, OverflowError, RuntimeError, MemoryError) as error:
        raise UserError(f"{path} cannot be used: {str(error) or type(error).__name__:.400}") from error
    _check_counts(path, config, contents.weights)
    check_weights(path, {key: value for key, value in contents.weights.items() if key.startswith(_OWN_PARTS)})
    return EncoderCheckpoint(
        path=path,
        name=name,
        config=config,
        weights=contents.weights,
        settings=contents.settings if contents.has_sections else {},
        others=contents.others,
        around=contents.around,
        unknown=list_unknown(contents.model, of_a_run=not contents.has_sections) if family else [],
    )


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
        elif theirs[key].is_floating_point() != value.is_floating_point() or theirs[key].layout != value.layout:
            problems.append(f"{key} is of {theirs[key].dtype}, {theirs[key].layout}, which no such weight is")
    left_out = Counter(checkpoint.others)
    for key in theirs.keys() - wanted.keys():
        if key.startswith(_OWN_PARTS):
            problems.append(f"{key} has no place in these settings")
    for key in [*(theirs.keys() - wanted.keys()), *checkpoint.around]:
        parts = key.split(".")
        module = ".".join(parts[: 2 if parts[0] in ("encoder", "w2v_encoder") else 1])
        left_out[re.sub(r"\d+$", "", module)] += 1
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(f"{checkpoint.path}: the weights do not fit the settings of {checkpoint.name}: {shown}")
    return {key: theirs[key] for key in wanted}, [f"{module} ({n})" for module, n in sorted(left_out.items())]


def _find_name(path: PathLike, contents: Contents) -> Tuple[str, str]:
    """(the model's name in fairseq, its family), told by settings and weights where the name is new or missing."""
    model, task = contents.model, contents.task
    name: Any = model.get("_name") or model.get("arch")
    if FAMILY_OF.get(name) != "":  # our own students have settings of their own
        refused = [f"_name={name} is not supported ({NOT_COMPUTED[name]})"] if name in NOT_COMPUTED else []
        refused += find_refused(model, of_a_run=not contents.has_sections)
        if refused:
            more = [f"and {len(refused) - 5} more"] if len(refused) > 5 else []
            said = "; ".join(refused[:5] + more)
            raise UserError(f"{path} cannot be used: {said}. What loads: docs/checkpoints.md")
    family = find_family(name, model, task, contents.weights)
    if family is None and not name and not contents.has_sections and "encoder_layers" in model:
        family = "wavlm"  # Microsoft's files have no name
    if family is None:
        raise UserError(
            f"{path}: architecture {reprlib.repr(name)} is not supported; supported: {', '.join(FAMILY_OF)}, and what "
            "its settings show to be derived from these or built around them. If its network is one of these, save it "
            "with that _name (docs/checkpoints.md)"
        )
    return str(name or NAME_OF[family]), family


def _make_config(family: str, contents: Contents) -> EncoderConfig:
    """The encoder's settings, checked; ValueError, naming the setting, where they are not supported."""
    model, task = contents.model, contents.task
    config = EncoderConfig.from_settings(model)
    if family:
        config.family = family
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
    config.check()
    if "post_extract_proj.weight" in contents.weights and not config.has_projection:
        config.project_features = True  # data2vec's kin have it at any width
    return config


def _leave_out_speaker_layers(contents: Contents, depth: int) -> None:
    """ContentVec: layers behind the encoder's that see the speaker, and that no feature comes from."""
    behind = int(contents.model.get("encoder_layers_1") or 0)
    for key in list(contents.weights) if behind > 0 else ():
        layer = re.match(r"encoder\.layers\.(\d+)\.", key)
        is_behind = layer is not None and depth <= int(layer[1]) < depth + behind
        if is_behind or key.startswith("encoder.cond"):
            del contents.weights[key]
            contents.others[".".join(key.split(".")[: 3 if layer else 2])] += 1


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
