"""Paths as the user typed them: hydra has changed the working directory by the time they are used."""

import os
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd

from ..errors import UserError


def make_absolute(path: str) -> str:
    """Absolute form of a path that was typed relative to the folder the command was started in."""
    return os.path.normpath(os.path.join(find_start_folder(), os.path.expanduser(path)))


def find_start_folder() -> str:
    """The folder the command was started in."""
    if HydraConfig.initialized():
        return get_original_cwd()
    # processes that fairseq spawned, one for each GPU, know of hydra only what it left in the run's folder
    record = Path(".hydra", "hydra.yaml")
    if record.is_file():
        return yaml.safe_load(record.read_text())["hydra"]["runtime"]["cwd"]
    return os.getcwd()


def find_file(path: str, key: str) -> str:
    """Absolute path of an existing file; UserError naming the setting `key` otherwise."""
    absolute = make_absolute(path)
    if not Path(absolute).is_file():
        raise UserError(f"{key}={path}: no such file ({absolute})")
    return absolute


def find_checkpoint(path: str, key: str) -> str:
    """As `find_file`; a folder of Hugging Face, with its config.json, is a checkpoint too."""
    absolute = make_absolute(path)
    return absolute if Path(absolute, "config.json").is_file() else find_file(path, key)
