"""The settings of a run: fairseq hands over its sections one by one; read and written here as the one config."""

import logging
from typing import Any, Mapping

from fairseq.models import MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf, open_dict

from ..errors import UserError
from .ranges import check_fairseq, check_ranges

logger = logging.getLogger(__name__)


def find_run(part: Any) -> Any:
    """The whole run's settings that a section which fairseq handed over belongs to; {} if it belongs to none."""
    root = part._get_parent() if OmegaConf.is_config(part) else None
    return {} if root is None else root


def find_section(run: Any, section: str) -> Any:
    """A section of a run's settings, or None; asked for a missing one by `get`, omegaconf 2.0's structs raise."""
    return run[section] if section in run else None  # noqa: SIM401


def find_seed(part: Any) -> int:
    """The seed of the run that a section belongs to, `common.seed`; fairseq's default without a run."""
    return int((find_section(find_run(part), "common") or {}).get("seed", 1))


def read_run_settings(part: Any, section: str, defaults: Any) -> Any:
    """Another section of the run that `part` belongs to, over `defaults`, a dataclass; other fields are left out."""
    given = find_section(find_run(part), section)
    if not OmegaConf.is_dict(given):
        given = {}
    return OmegaConf.merge(defaults, {key: given[key] for key in given if key in defaults.__dataclass_fields__})


def check_section(section: Any, kind: Any, name: str) -> None:
    """Raise UserError, naming the setting, where a number in a section of a run is outside of its field's range.

    Args:
        section: the settings.
        kind: their dataclass.
        name: of the section.
    """
    try:
        check_ranges(section, kind, name)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_run(run: Any) -> None:
    """Raise UserError, naming the setting, where a number in fairseq's own sections of a run makes no sense."""
    try:
        check_fairseq(run)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_model(section: Any) -> None:
    """`check_section` of a model's settings, by the dataclass that the model was registered with."""
    kind = MODEL_DATACLASS_REGISTRY.get(section.get("_name"))
    if kind is not None:
        check_section(section, kind, "model")


def settle(run: Any, section: str, values: Mapping[str, Any], reason: str, copy: Any = None) -> None:
    """Write resolved settings into the run's own config, so that its checkpoints hold what was used, and log each.

    Nothing else writes into a run's config. What is there already is neither written nor logged.

    Args:
        run: the whole run's settings, see `find_run`; {} where a model is built without a run.
        section: "model", "task", ...
        values: the settings to write.
        reason: where they come from, for the log.
        copy: the section as fairseq handed it over, a merged copy: it gets the values too.
    """
    targets = [target for target in (copy, find_section(run, section)) if OmegaConf.is_dict(target)]
    for key, value in values.items():
        stale = [target for target in targets if key not in target or target[key] != value]
        for target in stale:
            with open_dict(target):
                target[key] = value
        if stale:
            logger.info(f"{section}.{key}={value} ({reason})")
