"""The registered model `speech_multitask`: one speech encoder and a head for each task."""

import logging
from typing import Any

from fairseq.models import register_model
from torch import nn

from ..checkpoints.reading import load_encoder
from ..initialization.start import shape_like
from ..multitask.model import MultitaskModel
from ..multitask.settings import SpeechMultitaskConfig
from ..run.paths import find_checkpoint
from ..run.settings import find_run, settle

logger = logging.getLogger(__name__)


@register_model("speech_multitask", dataclass=SpeechMultitaskConfig)
class SpeechMultitask(MultitaskModel):
    """`MultitaskModel` as fairseq builds it."""

    @classmethod
    def build_model(cls, cfg: SpeechMultitaskConfig, task: Any) -> "SpeechMultitask":
        """Build the model for a fairseq task: encoder from `model.init` where that is set.

        The encoder's shape is written into the run's settings and `init` is emptied there: the checkpoint stands alone.
        """
        source = load_encoder(find_checkpoint(cfg.init, "model.init")) if cfg.init else None
        run = find_run(cfg)
        if source is not None:
            shape = shape_like(source.cfg, "all", source.depth, [])
            settle(run, "model", {**shape, "prune": list(source.cfg.prune)}, f"as in model.init={cfg.init}", cfg)
            settle(run, "model", {"init": ""}, "the checkpoint needs no other file", cfg)
        settle(run, "model", {"sample_rate": task.cfg.sample_rate}, "as the task has it", cfg)
        model = cls(cfg, task.tasks, task.classes)
        if source is not None:
            # torch's own method: fairseq's changes the names of some weights
            nn.Module.load_state_dict(model.encoder, source.state_dict())
            if source.gates is not None:
                logger.warning(
                    "this encoder's gates are not cut (fairseq-distill prune does it); they stay as they are"
                )
        return model
