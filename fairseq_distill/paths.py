"""Paths as the user typed them: hydra has changed the working directory by the time they are used."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd

from .errors import UserError


def make_absolute(path: str) -> str:
    """Absolute form of a path that was typed relative to the folder the command was started in."""
    start = get_original_cwd() if HydraConfig.initialized() else os.getcwd()
    return os.path.normpath(os.path.join(start, os.path.expanduser(path)))


def find_file(path: str, key: str) -> str:
    """Absolute path of an existing file; UserError naming the setting `key` otherwise."""
    absolute = make_absolute(path)
    if not Path(absolute).is_file():
        raise UserError(f"{key}={path}: no such file ({absolute})")
    return absolute
