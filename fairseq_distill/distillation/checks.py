"""Settings of a distillation that do not go together, each refused with the way out."""

from typing import Any

from ..checkpoints.reading import EncoderCheckpoint
from ..errors import UserError


def check_labels(criterion: Any, label_dir: str, model_cfg: Any) -> None:
    """Masked prediction and the folder of units belong together."""
    if bool(criterion.masked_prediction) != bool(label_dir):
        raise UserError(
            f"criterion.masked_prediction={criterion.masked_prediction:g} with "
            f"task.label_dir={label_dir or 'nothing'}: give both or none (fairseq-distill units makes the folder)"
        )
    reduction = model_cfg.get("time_reduction", 1)
    if label_dir and reduction > 1:
        raise UserError(
            f"criterion.masked_prediction has a unit for each frame: model.time_reduction={reduction} must be 1"
        )


def check_same(one: EncoderCheckpoint, other: EncoderCheckpoint) -> None:
    """What several teachers need in common."""
    for name in ("encoder_embed_dim", "normalize", "sample_rate"):
        if getattr(one.config, name) != getattr(other.config, name):
            raise UserError(
                f"task.teacher: {one.path} has {name}={getattr(one.config, name)}, {other.path} has "
                f"{getattr(other.config, name)}; several teachers need the same"
            )
