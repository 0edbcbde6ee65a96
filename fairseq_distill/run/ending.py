"""How a training run ends that cannot go on: with a sentence, and by convention, instead of a traceback."""

import errno
import functools
import logging
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Optional, Type

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer
from hydra._internal import utils as hydra_utils

from ..errors import UserError
from ..output.files import find_cause, find_reason
from ..output.interrupt import INTERRUPTED
from ..output.memory import explain_memory, is_out_of_memory

logger = logging.getLogger(__name__)

LESS_MEMORY = (
    "a lower dataset.max_tokens or dataset.batch_size (with a higher optimization.update_freq, updates see as much), "
    "task.max_sample_size for shorter crops, common.fp16 or common.bf16, fewer dataset.num_workers"
)
_TRAINING = "fairseq_cli.train"  # which fairseq-train and fairseq-hydra-train import
_stock_hook = sys.excepthook
_stock_save, _stock_check = checkpoint_utils.torch_persistent_save, checkpoint_utils.verify_checkpoint_directory
_stock_log_oom = Trainer._log_oom
_stock_handle_error = logging.FileHandler.handleError
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_PAUSE = 2.5  # seconds, fairseq's


def repair_endings() -> None:
    """Put in place what this module holds; all versions of fairseq and hydra need it."""
    hydra: Any = hydra_utils
    hydra.CompactHydraException = (hydra.CompactHydraException, UserError)  # whose message it prints without traceback
    checkpoint_utils.torch_persistent_save, checkpoint_utils._torch_persistent_save = save_whole, write_anew
    checkpoint_utils.verify_checkpoint_directory = check_folder
    Trainer._log_oom = count_left_out
    program: Any = sys.modules.get(_TRAINING)
    if program is not None:
        program.train = _explain(program.train)
        for name in ("__init__", "load_checkpoint"):  # the weights go to the GPU, with the optimizer's state
            setattr(Trainer, name, _explain(getattr(Trainer, name)))
        sys.excepthook = end
        logging.FileHandler.handleError = tell_once  # type: ignore[method-assign,assignment]


def save_whole(state: Any, filename: str, async_write: bool = False) -> None:
    """Fairseq's `torch_persistent_save`, whose arguments it takes; what cannot be written whole leaves nothing.

    Raises:
        UserError: it cannot be written, as on a full disk.
    """
    try:
        _stock_save(state, filename, async_write)
    except BaseException as error:
        if not async_write and PathManager.supports_rename(filename):
            Path(f"{filename}.tmp").unlink(missing_ok=True)
        if not isinstance(error, (OSError, RuntimeError)) or is_out_of_memory(error):
            raise
        raise UserError(describe_unwritable(filename, error)) from error


def write_anew(state: Any, file: Any) -> None:
    """Fairseq's `_torch_persistent_save` for an open file: three tries, as network file systems have their moments.

    fairseq's later tries go on behind what the first has left in the file. A full disk is not tried again.
    """
    for left in (2, 1, 0):
        try:
            return torch.save(state, file)
        except (OSError, RuntimeError) as error:
            cause = find_cause(error)
            if not left or cause is None or cause.errno in _LASTING:
                raise
        logger.warning(f"a checkpoint could not be written ({cause}): trying again")
        time.sleep(_PAUSE)
        file.seek(0)
        file.truncate()


def check_folder(save_dir: str) -> None:
    """Fairseq's `verify_checkpoint_directory`; UserError where nothing can be written there."""
    try:
        _stock_check(save_dir)
    except OSError as error:
        raise UserError(
            f"checkpoint.save_dir={save_dir} cannot be written: {find_reason(error)}. Give a folder that can be"
        ) from error


def describe_unwritable(path: Any, error: BaseException) -> str:
    """A sentence about a checkpoint that cannot be written."""
    return (
        f"{path} cannot be written: {find_reason(error)}. Checkpoints that were there are as they were: make room, and "
        "start the same command again"
    )


def count_left_out(self: Trainer, error: BaseException) -> None:
    """Fairseq's `_log_oom`, with the number of batches of this process that did not fit; training leaves these out."""
    _stock_log_oom(self, error)
    self.batches_too_large = getattr(self, "batches_too_large", 0) + 1
    logger.warning(
        f"out of memory in {self.batches_too_large} batches so far, of which training learns nothing: {LESS_MEMORY}"
    )


def end(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
    """`sys.excepthook` of a training run: a line after Ctrl-C and for UserError, else Python's traceback."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stdout.flush()
        start = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
        told = "interrupted; nothing is half written, and the same command goes on from the last checkpoint"
        print(f"{start}{_name_program()}: {told}", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # threads and workers of the data loader have nothing to finish
    if issubclass(kind, UserError) and not os.environ.get("HYDRA_FULL_ERROR"):
        print(f"{_name_program()}: {error}", file=sys.stderr)
    else:
        _stock_hook(kind, error, trace)


def tell_once(self: logging.FileHandler, record: logging.LogRecord) -> None:
    """`handleError` of log files: on a full disk each line of the log would have a traceback on the terminal."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        _stock_handle_error(self, record)
    elif not vars(self).get("told"):
        vars(self)["told"] = True
        print(f"{self.baseFilename} cannot be written: {find_reason(error)}; the run goes on", file=sys.stderr)


def _name_program() -> str:
    name = os.path.basename((getattr(sys, "argv", None) or [""])[0])
    return name if name.startswith("fairseq") else "training"


def _explain(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with explain_memory(LESS_MEMORY):
            return method(*args, **kwargs)

    return run
