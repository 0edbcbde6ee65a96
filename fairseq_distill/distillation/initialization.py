"""Where a student starts: its shape and its weights from a checkpoint, as far as they fit."""

import logging
from typing import Any, Dict, Iterable, List, Sequence

import torch

from ..checkpoints import EncoderCheckpoint
from ..encoder.config import EncoderConfig
from ..encoder.model import SpeechEncoder
from ..errors import UserError

logger = logging.getLogger(__name__)

FRONT_FIELDS = "family normalize extractor_mode conv_feature_layers conv_bias project_features".split()
LAYER_FIELDS = FRONT_FIELDS + (
    "encoder_embed_dim encoder_ffn_embed_dim encoder_attention_heads head_dim activation_fn layer_norm_first "
    "conv_pos conv_pos_groups conv_pos_batch_norm pos_conv_depth "
    "relative_position_embedding num_buckets max_distance gru_rel_pos"
).split()
LIKE_INIT = ("none", "front", "layers", "all")


def shape_like(config: EncoderConfig, like: str, depth: int, layers: Sequence[int]) -> Dict[str, Any]:
    """Settings that a student takes over from the checkpoint it starts from.

    Args:
        config: the checkpoint's.
        like: "none" takes nothing over; "front" the convolution stack; "layers" also the kind and the widths of the
            layers, but not how many; "all" the depth too.
        depth: number of the student's layers, where it is not taken over.
        layers: the checkpoint's layers that the student's start from, numbered from 1; empty = the first ones.
    """
    if like == "none":
        return {}
    names = FRONT_FIELDS if like == "front" else LAYER_FIELDS
    values = {name: getattr(config, name) for name in names}
    if like == "all":
        names = ("encoder_layers", "layer_heads", "layer_ffn_dims", "layer_head_numbers")
        values.update({name: getattr(config, name) for name in names})
    elif like == "layers" and (config.layer_heads or config.layer_ffn_dims):
        chosen = check_layers(layers or range(1, depth + 1), config.encoder_layers)
        values.update(
            layer_heads=[config.heads[n - 1] for n in chosen], layer_ffn_dims=[config.ffn_dims[n - 1] for n in chosen]
        )
        if config.layer_head_numbers:
            values["layer_head_numbers"] = str([config.head_numbers[n - 1] for n in chosen]).replace(" ", "")
    return values


def check_layers(layers: Iterable[int], depth: int) -> List[int]:
    """The layer numbers as a list; UserError if one is not among 1 to `depth`."""
    layers = list(layers)
    wrong = [n for n in layers if not 1 <= n <= depth]
    if wrong:
        raise UserError(f"model.init_layers={layers}: the checkpoint has layers 1 to {depth}, not {wrong}")
    return layers


@torch.no_grad()
def copy_weights(student: SpeechEncoder, checkpoint: EncoderCheckpoint, layers: Sequence[int]) -> List[str]:
    """Copy into `student` every part of the checkpoint that fits whole: each convolution stack, norm, layer or head.

    Student layer i starts as the checkpoint's layer `layers[i]` (numbered from 1); with `layers` empty, as layer i.
    A part is copied only if all its tensors are there with the student's shapes and, for a layer, if it is of the same
    kind (pre- or post-norm).

    Returns:
        Names of the parts copied.

    Raises:
        UserError: nothing fits, or a layer asked for by `layers` does not.
    """
    depth, asked = student.cfg.encoder_layers, list(layers)
    if asked and len(check_layers(asked, checkpoint.config.encoder_layers)) != depth:
        raise UserError(f"model.init_layers={asked} names {len(asked)} layers for a student of {depth}")
    origin = asked or list(range(1, min(depth, checkpoint.config.encoder_layers) + 1))
    theirs = checkpoint.weights
    parts: Dict[str, Dict[str, str]] = {}  # part of the student -> {its key: their key}
    for key in student.state_dict():
        part, source = _part_and_source(key, origin)
        if source is not None:
            parts.setdefault(part, {})[key] = source
    same_kind = student.cfg.layer_norm_first == checkpoint.config.layer_norm_first
    same_front = student.cfg.extractor_mode == checkpoint.config.extractor_mode
    own = student.state_dict(keep_vars=True)
    copied = []
    for part, keys in parts.items():
        fits = all(source in theirs and theirs[source].shape == own[key].shape for key, source in keys.items())
        kind_differs = (part.startswith("layer ") and not same_kind) or (part == "feature_extractor" and not same_front)
        if not fits or kind_differs:
            if asked and part.startswith("layer "):
                raise UserError(f"model.init_layers={asked}: {part} does not fit the checkpoint's, whose shape is another")
            continue
        for key, source in keys.items():
            own[key].copy_(theirs[source])
        copied.append(part)
    if not copied:
        raise UserError(f"model.init={checkpoint.path}: no part of it has the shape of this student")
    skipped = sorted(set(parts) - set(copied))
    logger.info(f"student starts from {checkpoint.describe()}: {_shorten(copied)}; from scratch: {_shorten(skipped)}")
    return copied


def _part_and_source(key: str, origin: Sequence[int]):
    """(part that a student's key belongs to, their key that it would start from or None)."""
    pieces = key.split(".")
    if pieces[:2] == ["encoder", "layers"]:
        number = int(pieces[2]) + 1
        source = ".".join(["encoder", "layers", str(origin[number - 1] - 1), *pieces[3:]]) if number <= len(origin) else None
        return f"layer {number}", source
    return (".".join(pieces[:2]) if pieces[0] == "encoder" else pieces[0]), key


def _shorten(parts: Sequence[str]) -> str:
    layers = [part[len("layer ") :] for part in parts if part.startswith("layer ")]
    others = [part for part in parts if not part.startswith("layer ")]
    return ", ".join(others + ([f"layers {' '.join(layers)}"] if layers else [])) or "nothing"
