"""Write a student as fairseq writes checkpoints."""

from pathlib import Path
from typing import Any, Dict, Optional

import torch

from ..errors import UserError
from ..output.files import write_whole
from ..pruning.surgery import PrunedEncoder
from .reading import EncoderCheckpoint
from .safe_load import PathLike

_HEADS = "prediction_head."


def save_pruned(path: PathLike, checkpoint: EncoderCheckpoint, pruned: PrunedEncoder) -> None:
    """Write a `speech_student` that fairseq loads: the pruned encoder and the checkpoint's distillation heads.

    Settings are those of the run that trained `checkpoint`, with the new shape. Of a model trained by another task than
    `speech_distillation`, the encoder alone is written. The file appears whole or not at all.

    Raises:
        UserError: the file cannot be written, or is the one that is being pruned.
    """
    path = Path(path)
    if path.exists() and path.samefile(checkpoint.path):
        raise UserError(f"{path} is the file that is being pruned: give the result another name")
    heads = {key: value for key, value in checkpoint.weights.items() if key.startswith(_HEADS)}
    cfg = {**checkpoint.settings, **_describe(checkpoint, pruned, bool(heads))}
    state = make_state(cfg, {**pruned.weights, **heads})
    write_whole(path, lambda partial: torch.save(state, partial))


def make_state(cfg: Dict[str, Any], weights: Dict[str, Any], task_state: Optional[Dict[str, Any]] = None) -> Dict:
    """What fairseq's loader asks of a checkpoint: settings, weights, and a training that has not begun."""
    return {
        "args": None,
        "cfg": cfg,
        "model": weights,
        "optimizer_history": [
            {"criterion_name": "none", "optimizer_name": "none", "lr_scheduler_state": {}, "num_updates": 0}
        ],
        "task_state": task_state or {},
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": None,
    }


def _describe(checkpoint: EncoderCheckpoint, pruned: PrunedEncoder, with_heads: bool) -> Dict[str, Any]:
    """The sections `model` and `task` of the student."""
    before = checkpoint.config
    changed = {k: v for k, v in vars(pruned.config).items() if v != getattr(before, k)}
    model = {**checkpoint.settings.get("model", {}), **changed, "prune": [], "_name": "speech_student"}
    if not with_heads:  # fine-tuning has dropped them
        model.update(prediction_groups="", prediction_layers="", prediction_dim=0)
    task = checkpoint.settings.get("task", {})
    if task.get("_name") != "speech_distillation":
        task = {"_name": "speech_distillation", "data": "", "teacher": ""}
    return {"model": model, "task": {**task, "normalize": before.normalize, "sample_rate": checkpoint.sample_rate}}
