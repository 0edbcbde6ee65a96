"""The settings of a run: sections that fairseq hands over one by one, read and written as the one config that they belong to."""

from typing import Any, Dict

from omegaconf import OmegaConf, open_dict


def find_run(part: Any) -> Any:
    """The whole run's settings that a section which fairseq handed over belongs to; {} if it belongs to none."""
    root = part._get_parent() if OmegaConf.is_config(part) else None
    return {} if root is None else root


def read_run_settings(part: Any, section: str, defaults: Any) -> Any:
    """Another section of the run that `part` belongs to, over `defaults`, a dataclass; what that has no field for is left out."""
    given = find_run(part).get(section)
    if not OmegaConf.is_dict(given):
        given = {}
    return OmegaConf.merge(defaults, {key: given[key] for key in given if key in defaults.__dataclass_fields__})


def update_run_settings(part: Any, section: str, values: Dict[str, Any]) -> None:
    """Write resolved settings into the run's own config, so that its checkpoints hold what was used.

    fairseq hands models and tasks a merged copy of their section, which still knows the run's config as its parent.

    Args:
        part: the copy that fairseq handed over.
        section: "model" or "task".
        values: the settings to write.
    """
    for settings in (part, find_run(part).get(section)):
        if OmegaConf.is_dict(settings):
            with open_dict(settings):
                settings.update(values)
