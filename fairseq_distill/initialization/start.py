"""Where a student starts: its shape and its weights from a checkpoint, as far as they fit or can be cut to fit."""

import logging
import os
import reprlib
from typing import Any, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from ..checkpoints.reading import EncoderCheckpoint, build_encoder, read_checkpoint
from ..encoder.anatomy import BIAS_HEADS
from ..encoder.config import FRONT_FIELDS, KIND_FIELDS, EncoderConfig
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from ..run.paths import find_checkpoint, make_absolute
from ..run.settings import find_run
from .importance import measure_importance
from .layer_choice import check_layers, choose_layers
from .narrowing import Narrowing, describe_choice
from .parts import copy_parts, find_origin, name_part
from .selection import Selection, check_shapes, choose_kept

logger = logging.getLogger(__name__)

LAYER_FIELDS = KIND_FIELDS + ["encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "head_dim"]
LIKE_INIT = ("none", "front", "layers", "all")
# the settings below as they stand in a student's own checkpoint, which needs no other file
STANDALONE = {
    "init": "",
    "like_init": "none",
    "init_layers": [],
    "init_choice": "first",
    "init_clusters": "",
    "init_width": "none",
}
# of LAYER_FIELDS, recipes give their own, which are passed over with a line in the log
_NEVER_PASSED_OVER = ("extractor_mode", "conv_feature_layers", "conv_bias", "layer_heads", "layer_ffn_dims")
_SEED = 0  # of the utterances for activations, not the run's: runs that differ in their seed start alike


class Start:
    """The checkpoint that a student starts from, in three steps: what of its shape, what of each axis, its weights.

    Args:
        cfg: a student's settings with `init`, as the user gave them.

    Attributes:
        shape: settings that the student takes over.

    Raises:
        UserError: the checkpoint cannot be used, or settings contradict each other or it.
    """

    def __init__(self, cfg: Any):
        self.checkpoint = read_checkpoint(find_checkpoint(cfg.init, "model.init"))
        source = self.checkpoint.config
        if source.prune and not cfg.prune:
            raise UserError(
                f"model.init={cfg.init} still has its gates: cut them first, fairseq-distill prune {cfg.init} "
                "PRUNED.pt, and start from PRUNED.pt"
            )
        like, choice, given = str(cfg.like_init), str(cfg.init_choice), list(cfg.init_layers)
        depth = source.encoder_layers if like == "all" else cfg.encoder_layers
        self.layers = choose_layers(choice, given, cfg.init_clusters, depth, source.encoder_layers)
        self.asked = bool(given) or choice != "first"
        self.shape = shape_like(source, like, depth, self.layers if self.asked else [])
        if like == "front" and cfg.project_features:  # as wide as its convolutions, where the checkpoint is not
            self.shape["project_features"] = True
        _check_given(cfg, self.shape, like)
        self.width, self.seconds = str(cfg.init_width), cfg.init_seconds
        self.chosen: Optional[Selection] = None

    def select(self, cfg: Any, task_cfg: Any) -> Dict[str, Any]:
        """With `init_width`, choose the channels, heads and neurons that the student keeps.

        Args:
            cfg: the student's settings, with what `shape` says.
            task_cfg: the task's; its training manifest is the speech for "activations".

        Returns:
            Settings that follow from the choice: which heads of WavLM's position bias the layers have.
        """
        if self.width == "none":
            return {}
        student, source = EncoderConfig.from_settings(cfg), self.checkpoint.config
        check_shapes(student, source)
        encoder, waves = build_encoder(self.checkpoint), None
        if self.width == "activations":
            waves = self._read_speech(encoder, cfg, task_cfg)
        importance = measure_importance(encoder, self.layers, waves)
        self.chosen = choose_kept(student, source, self.layers, importance)
        kept = describe_choice(student, source, self.layers, self.chosen)
        logger.info(f"kept of {self.checkpoint.describe()}, with the largest importance by {self.width}: {kept}")
        return {"layer_head_numbers": self.chosen.head_numbers} if BIAS_HEADS in self.chosen.keep else {}

    def copy_into(self, student: SpeechEncoder) -> None:
        """Give the student its weights."""
        if self.chosen is None:
            copy_weights(student, self.checkpoint, self.layers if self.asked else [])
        else:
            source = self.checkpoint
            Narrowing(source.weights, source.config, student.cfg, self.layers, self.chosen).copy_into(student)

    def _read_speech(self, encoder: SpeechEncoder, cfg: Any, task_cfg: Any):
        # imported where needed: reading audio for evaluation takes scikit-learn along
        from ..data.speech_sample import SpeechSample

        run = find_run(cfg)
        if not run:
            raise UserError("model.init_width=activations needs a training run, for its speech; weights does not")
        if torch.cuda.is_available() and not run.common.cpu:
            encoder.cuda()
        manifest = os.path.join(make_absolute(task_cfg.data), f"{run.dataset.train_subset}.tsv")
        return (wave for wave, _ in SpeechSample(manifest, self.seconds, _SEED, encoder.cfg))


def check_rate(sample_rate: int, trained_at: int, source: str) -> None:
    """Raise UserError where a run's waves are at another rate than those that a checkpoint was trained on.

    Args:
        sample_rate: the run's `task.sample_rate`.
        trained_at: the checkpoint's.
        source: the checkpoint as it was given, setting=path.
    """
    if sample_rate != trained_at:
        raise UserError(
            f"task.sample_rate={sample_rate}, but {source} was trained at {trained_at} Hz: give "
            f"task.sample_rate={trained_at} and speech at {trained_at} Hz (ffmpeg -i IN -ar {trained_at} OUT resamples "
            "a file)"
        )


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
        names = ["encoder_layers", "layer_heads", "layer_ffn_dims", "layer_head_numbers"]
        values.update({name: getattr(config, name) for name in names})
    if like != "front":  # where the checkpoint has neither, they are the user's to choose
        if config.time_reduction > 1:
            values["time_reduction"] = config.time_reduction
        if config.reuse_attention:
            origin = list(layers) or range(1, values.get("encoder_layers", depth) + 1)
            reused = set(config.reuse_attention)
            values["reuse_attention"] = [place for place, n in enumerate(origin, 1) if n in reused and place > 1]
    if like == "layers" and (config.layer_heads or config.layer_ffn_dims):
        chosen = check_layers(layers or range(1, depth + 1), config.encoder_layers)
        values.update(
            layer_heads=[config.heads[n - 1] for n in chosen], layer_ffn_dims=[config.ffn_dims[n - 1] for n in chosen]
        )
        if config.layer_head_numbers:
            values["layer_head_numbers"] = str([config.head_numbers[n - 1] for n in chosen]).replace(" ", "")
    return values


def _check_given(cfg: Any, shape: Dict[str, Any], like: str) -> None:
    """Refuse a shape that the user gave and `like_init` would pass over: neither default nor the same."""
    defaults = EncoderConfig()
    for name in _NEVER_PASSED_OVER:
        if name not in shape:
            continue
        given, taken = getattr(cfg, name), shape[name]
        given = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else given
        given = getattr(given, "value", given)  # of a choice, its text
        if given not in (taken, getattr(defaults, name)):
            raise UserError(
                f"model.{name}={reprlib.repr(given)}, but model.like_init={like} takes {reprlib.repr(taken)} over from "
                f"model.init={cfg.init}: leave model.{name} out, or set model.like_init=none"
            )


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
    origin = asked or list(range(1, min(depth, checkpoint.config.encoder_layers) + 1))
    same_kind = student.cfg.layer_norm_first == checkpoint.config.layer_norm_first
    same_front = student.cfg.extractor_mode == checkpoint.config.extractor_mode

    def find(key: str) -> Optional[Tensor]:
        other_layer = key.startswith("encoder.layers.") and not same_kind
        other_front = key.startswith("feature_extractor.") and not same_front
        source = None if other_layer or other_front else find_origin(key, origin)
        return None if source is None else checkpoint.weights.get(source)

    copied = copy_parts(student, name_part, find)
    refused = [part for part in copied.scratch if part.startswith("layer ")] if asked else []
    if refused:
        raise UserError(
            f"layers {asked} of model.init: the student's {refused[0]} does not fit, its shape is another; "
            "model.init_width cuts layers for a narrower student"
        )
    if not copied.taken:
        raise UserError(f"model.init={checkpoint.path}: no part of it has the shape of this student")
    taken, scratch = (_shorten(list(parts)) for parts in copied)
    logger.info(f"student starts from {checkpoint.describe()}: {taken}; from scratch: {scratch}")
    return list(copied.taken)


def _shorten(parts: Sequence[str]) -> str:
    layers = [part[len("layer ") :] for part in parts if part.startswith("layer ")]
    others = [part for part in parts if not part.startswith("layer ")]
    return ", ".join(others + ([f"layers {' '.join(layers)}"] if layers else [])) or "nothing"
