"""Where a run that was stopped goes on: at its last checkpoint, or at the newest one that is intact."""

import logging
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from fairseq import checkpoint_utils
from omegaconf import OmegaConf, open_dict

from ..errors import UserError
from ..run.workers import ask_first_worker
from .safe_load import PathLike, read_pickled

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"
_NUMBERED = r"checkpoint(\d+|_\d+_\d+)\.pt"  # of an epoch, of an epoch and an update
_OTHERS = r"checkpoint(_best|\.best_.+)\.pt"
_LEFTOVERS = r"checkpoint.*\.pt(\.tmp|\.\d+\.partial)"

_stock_load = checkpoint_utils.load_checkpoint


def repair_resuming() -> None:
    """Put `load_checkpoint` in the place of fairseq's; all versions need it."""
    checkpoint_utils.load_checkpoint = load_checkpoint


def load_checkpoint(cfg: Any, trainer: Any, **options: Any) -> Tuple[Any, Any]:
    """Fairseq's `load_checkpoint`, whose arguments it takes, with three repairs.

    Where the run's `checkpoint_last.pt` is damaged, or missing beside others, fairseq stops, or begins anew; here the
    newest intact checkpoint of the folder is taken. The schedule of rates has heard of the same epochs and losses as in
    the run that was stopped. And a run that had made all its updates makes none when it is started again, where fairseq
    makes one more.

    Raises:
        UserError: no checkpoint of the folder is intact.
    """
    if cfg.restore_file == LAST and not trainer.checkpoint_suffix:
        folder = Path(cfg.save_dir)
        instead = ask_first_worker(lambda: _prepare(folder, bool(cfg.no_last_checkpoints)))
        if instead is not None:
            cfg = OmegaConf.create(OmegaConf.to_container(cfg))  # what the run saves of its settings stays
            cfg.restore_file, cfg.finetune_from_model, cfg.continue_once = instead, None, None
    extra_state, batches = _stock_load(cfg, trainer, **options)
    if extra_state and not (cfg.reset_optimizer or cfg.reset_lr_scheduler or cfg.reset_dataloader):
        _tell_schedule(trainer, extra_state)
    _stop_if_finished(trainer)
    return extra_state, batches


def _prepare(folder: Path, without_last: bool) -> Optional[str]:
    """Tidy a run's folder; the checkpoint to go on from, None where fairseq finds it."""
    for leftover in _list(folder, _LEFTOVERS):
        leftover.unlink(missing_ok=True)
        logger.info(f"removed {leftover}, which a run that was stopped left half written")
    found = None if without_last else find_replacement(folder)
    return None if found is None else str(found)


def find_replacement(folder: PathLike) -> Optional[Path]:
    """The newest intact checkpoint of a run's folder, where `checkpoint_last.pt` is not; None where that is.

    None too where there is nothing but a model that was chosen among others, as `checkpoint_best.pt`: whoever removes
    the last checkpoint and all numbered ones begins anew.

    Raises:
        UserError: none is intact.
    """
    folder = Path(folder)
    last, numbered = folder / LAST, _list(folder, _NUMBERED)
    if last.is_symlink() or last.exists():
        try:
            check_intact(last)
        except UserError as error:
            problem = str(error)
        else:
            return None
        candidates = numbered + _list(folder, _OTHERS)
    elif numbered:
        problem, candidates = f"{last} is missing", numbered
    else:
        return None
    for updates, _, path in sorted(filter(None, map(_date, candidates)), reverse=True):
        try:
            check_intact(path)
        except UserError as error:
            logger.warning(f"passed over: {error}")
        else:
            logger.warning(f"{problem}; the run goes on from {path}, the newest that is intact, at update {updates}")
            return path
    raise UserError(
        f"{problem}; of the {len(candidates)} other checkpoints in {folder} none is intact: move them away to begin "
        "anew, or put a copy back"
    )


def check_intact(path: PathLike) -> int:
    """Number of updates of a training checkpoint; UserError where any byte of it is not as it was written."""
    return _read_updates(path, compare_checksums=True)


def _read_updates(path: PathLike, compare_checksums: bool) -> int:
    state = read_pickled(path, compare_checksums)
    try:
        if not state["model"] or not isinstance(state["extra_state"]["train_iterator"], dict):
            raise KeyError("model")
        return int(state["optimizer_history"][-1]["num_updates"])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise UserError(f"{path} is no checkpoint that training can go on from (without {error})") from error


def _date(path: Path) -> Optional[Tuple[int, float, Path]]:
    try:
        return _read_updates(path, compare_checksums=False), path.stat().st_mtime, path
    except (UserError, OSError) as error:
        logger.warning(f"passed over: {error}")
        return None


def _list(folder: Path, pattern: str) -> List[Path]:
    return [path for path in folder.glob("checkpoint*") if re.fullmatch(pattern, path.name)]


def _tell_schedule(trainer: Any, extra_state: Dict[str, Any]) -> None:
    """Fairseq's schedules hear of an epoch after its checkpoint was saved, and of a resumed one too early."""
    place = extra_state["train_iterator"]
    loss = extra_state.get("val_loss") if not place.get("iterations_in_epoch") else None
    trainer.lr_step(max(place["epoch"] - 1, 1), loss)


def _stop_if_finished(trainer: Any) -> None:
    wanted, done = trainer.cfg.optimization.max_update, trainer.get_num_updates()
    if 0 < wanted <= done:
        logger.info(f"all of optimization.max_update={wanted} updates are done ({done}): nothing is trained")
        with open_dict(trainer.cfg.optimization):
            trainer.cfg.optimization.max_epoch = -1  # fairseq begins an epoch while its number is not above
