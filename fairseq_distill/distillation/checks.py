"""Settings of a distillation that do not go together, each refused with the way out."""

from typing import Any, Sequence

from ..checkpoints.reading import EncoderCheckpoint
from ..encoder.layer_groups import Group
from ..errors import UserError
from .distances import DISTANCES
from .relations import RELATIONS, needed_for
from .states import check_captured


def check_heads(criterion: Any, model_cfg: Any) -> None:
    """Features are compared through heads; heads that nothing trains must not be there."""
    distances = [name for name in DISTANCES if criterion[name]]
    no_heads = str(model_cfg.get("prediction_head", "linear")) == "none"
    if no_heads and distances:
        raise UserError(
            f"criterion.{distances[0]} compares features at the teacher's width: set model.prediction_head=linear (or its weight to 0)"
        )
    if not no_heads and not distances:
        raise UserError(
            f"no distance of features has a weight ({', '.join(DISTANCES)}), so nothing would train the heads: set "
            "model.prediction_head=none"
        )


def check_relations(criterion: Any, groups: Sequence[Group], model_cfg: Any) -> None:
    """Relations compare layers of the student with layers of the teacher; some need transformer layers."""
    names = [name for name in RELATIONS if criterion[name]]
    if names and str(criterion.predict_from) != "layers":
        raise UserError(f"criterion.{names[0]} compares layer to layer: set criterion.predict_from=layers")
    if names and criterion.masking:
        raise UserError(f"criterion.{names[0]} compares whole utterances: set criterion.masking=false")
    reduction = model_cfg.get("time_reduction", 1)
    if names and reduction > 1:
        raise UserError(f"criterion.{names[0]} compares frame by frame: model.time_reduction={reduction} must be 1")
    captured = [name for name in names if any(needed_for([name]))]
    if captured:
        check_captured(groups, captured)


def check_labels(criterion: Any, label_dir: str, model_cfg: Any) -> None:
    """Masked prediction and the folder of units belong together."""
    if bool(criterion.masked_prediction) != bool(label_dir):
        raise UserError(
            f"criterion.masked_prediction={criterion.masked_prediction:g} with task.label_dir={label_dir or 'nothing'}: give both "
            "or none (fairseq-distill units makes the folder)"
        )
    reduction = model_cfg.get("time_reduction", 1)
    if label_dir and reduction > 1:
        raise UserError(
            f"criterion.masked_prediction has a unit for each frame: model.time_reduction={reduction} must be 1"
        )


def check_same(one: EncoderCheckpoint, other: EncoderCheckpoint) -> None:
    """What several teachers need in common."""
    for name in ("encoder_embed_dim", "normalize"):
        if getattr(one.config, name) != getattr(other.config, name):
            raise UserError(
                f"task.teacher: {one.path} has {name}={getattr(one.config, name)}, {other.path} has "
                f"{getattr(other.config, name)}; several teachers need the same"
            )
