"""Distil, cluster and prune speech encoders inside fairseq."""

__version__ = "0.1.0"

from .output.interrupt import end_imports_quietly

end_imports_quietly()

try:
    import fairseq as _fairseq  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fairseq_distill is a plugin for fairseq, which cannot be imported here "
        f"({error}): pip install 'fairseq-distill[fairseq]', or install the fairseq of your choice"
    ) from error

from .checkpoints.safe_load import allow_fairseq_types  # noqa: E402

allow_fairseq_types()

from .compat import repair_fairseq  # noqa: E402

repair_fairseq()

from .checkpoints.half_precision import repair_half_precision  # noqa: E402
from .checkpoints.resuming import repair_resuming  # noqa: E402
from .initialization.fine_tuning import guard_fine_tuning  # noqa: E402
from .run.ending import repair_endings  # noqa: E402

repair_resuming()
repair_half_precision()
repair_endings()
guard_fine_tuning()

# fairseq scans tasks/ and models/ of a user-dir, but never criterions/, and nothing if the package was imported before
from . import criterions, models, tasks  # noqa: E402,F401
from .checkpoints.reading import load_encoder  # noqa: E402
from .encoder.model import EncoderOutput, SpeechEncoder  # noqa: E402

__all__ = ["EncoderOutput", "SpeechEncoder", "__version__", "load_encoder"]
