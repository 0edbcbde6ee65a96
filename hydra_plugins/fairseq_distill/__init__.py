"""Hydra imports `hydra_plugins.*` at its start: this one gives recipes `${fairseq_distill:user_dir}`, an absolute path.

And it repairs how Hydra 1.0 reports errors: here, since errors come before fairseq imports the user-dir, too.

fairseq imports `common.user_dir` after Hydra has changed the working directory, so a relative path would not be found.
Every Hydra program of the environment imports this module: keep it free of fairseq and torch.
"""

import importlib.util
import os
import traceback
from typing import Any

from hydra._internal import utils as hydra_utils
from omegaconf import OmegaConf


def locate(name: str) -> str:
    """Return the absolute folder of the package `fairseq_distill`, without importing it.

    Raises:
        ValueError: `name` is not "user_dir", or the package cannot be found.
    """
    if name != "user_dir":
        raise ValueError(f"${{fairseq_distill:{name}}} is not known; write ${{fairseq_distill:user_dir}}")
    spec = importlib.util.find_spec("fairseq_distill")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"package fairseq_distill not found beside its hydra plugin {__file__}; install it again")
    return os.path.abspath(spec.submodule_search_locations[0])


# Hydra may import this twice in one process, and omegaconf 2.0 (hydra 1.0) refuses a second registration.
if hasattr(OmegaConf, "register_new_resolver"):
    OmegaConf.register_new_resolver("fairseq_distill", locate, replace=True)
elif OmegaConf.get_resolver("fairseq_distill") is None:
    OmegaConf.register_resolver("fairseq_distill", locate)


def print_exception(etype: Any, value: BaseException, tb: Any) -> None:
    """Print an error as Python does; Hydra 1.0 gives the first argument by a name that Python 3.10 took away."""
    traceback.print_exception(type(value), value, tb)


if hasattr(hydra_utils, "print_exception"):  # Hydra 1.0
    hydra_utils.print_exception = print_exception
