"""A shape as the hydra overrides that make a recipe train it."""

from typing import Any, List, Mapping

from ..encoder.config import FRONT_FIELDS, KIND_FIELDS, EncoderConfig
from .grid import Shape
from .stacks import WHOLE

_WIDTHS = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")


def list_overrides(shape: Shape, recipe: Mapping[str, Any]) -> List[str]:
    """What to add to `fairseq-hydra-train` with a recipe, as hydra 1.0 and later take it, not quoted for a shell.

    A key that the recipe has is overridden, another one is added with `+`. With the teacher's convolution stack, the
    recipe's `like_init=front` takes this and its settings over from the teacher; with another, the student starts from
    scratch.

    Args:
        shape: the student's.
        recipe: the recipe's section `model`.
    """
    settings = {name: getattr(shape.config, name) for name in _WIDTHS}
    other_stack = shape.stack != WHOLE
    if other_stack:
        settings.update(init="", like_init="none", conv_feature_layers=shape.config.conv_feature_layers)
    # normalize follows task.teacher, the sample rate the task's
    taken_over = {"normalize", "sample_rate", *(() if other_stack else FRONT_FIELDS)}
    default = EncoderConfig()
    for name in (*KIND_FIELDS, "time_reduction", "reuse_attention"):  # the last two are of published students
        value = getattr(shape.config, name)
        if name not in taken_over and value != recipe.get(name, getattr(default, name)):
            settings[name] = value
    rate = shape.config.sample_rate
    task = [f"+task.sample_rate={rate}"] if rate != default.sample_rate else []
    return task + [f"{'' if key in recipe else '+'}model.{key}={_format(value)}" for key, value in settings.items()]


def _format(value: Any) -> str:
    if isinstance(value, list):
        return str(value).replace(" ", "")
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if any(mark in str(value) for mark in "[( ,") else str(value)
