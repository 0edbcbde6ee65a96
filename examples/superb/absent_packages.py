"""Packages that s3prl imports for recipes that nobody has asked for: absent, they fail when they are used.

`import s3prl.problem` imports what every recipe needs, among it packages that do not install beside today's torch.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from functools import partial
from types import ModuleType
from typing import Any, Dict, Optional, Sequence

from fairseq_distill.errors import UserError

# package -> what s3prl takes from it
PACKAGES: Dict[str, str] = {
    "catalyst": "samplers for several GPUs",
    "dcase_util": "scores of HEAR's sound events",
    "sed_eval": "scores of HEAR's sound events",
    "sox": "nothing that it uses",
}


class _AbsentType(type):
    """A class of an absent package has whatever attributes are read of it; calling it is an error."""

    def __getattr__(cls, name: str) -> Any:
        return _make_absent(f"{cls.__module__}.{cls.__name__}", name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        absent = next(base for base in cls.__mro__ if base.__module__.partition(".")[0] in PACKAGES)
        package = absent.__module__.partition(".")[0]
        raise UserError(
            f"s3prl calls {absent.__module__}.{absent.__name__} ({PACKAGES[package]}), and {package} is not installed: "
            f"pip install {package}"
        )


def _make_absent(module: str, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _AbsentType(name, (), {"__module__": module})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Last on `sys.meta_path`, so what is installed is found before."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__getattr__"] = partial(_make_absent, module.__name__)


def install() -> None:
    """Let s3prl import the absent ones of `PACKAGES`."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
