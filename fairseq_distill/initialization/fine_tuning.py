"""Stock fine-tuning (`hubert_ctc` and its kind) around an encoder of ours, which fairseq does not ask for its rate."""

from typing import Any

from fairseq.tasks import FairseqTask

from ..encoder.model import SpeechEncoder
from .start import check_rate

_stock_build_model = FairseqTask.build_model


def build_model_of_rate(task: FairseqTask, cfg: Any, from_checkpoint: bool = False) -> Any:
    """Fairseq's `FairseqTask.build_model`, whose arguments it takes, with one check.

    Raises:
        UserError: in a new run, the task reads audio at another rate than an encoder of ours inside was trained on.
    """
    model = _stock_build_model(task, cfg, from_checkpoint)
    rate = getattr(task.cfg, "sample_rate", None)
    if rate and not from_checkpoint:
        for encoder in (part for part in model.modules() if isinstance(part, SpeechEncoder)):
            check_rate(rate, encoder.cfg.sample_rate, f"model.w2v_path={getattr(cfg, 'w2v_path', '')}")
    return model


def guard_fine_tuning() -> None:
    """Make fairseq build every model by `build_model_of_rate`."""
    FairseqTask.build_model = build_model_of_rate
