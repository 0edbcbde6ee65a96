"""Reading a checkpoint file without running any code that it carries.

A `.pt` file is a pickle: it names classes and functions and asks for them to be called. Only the names listed here,
types that real fairseq checkpoints hold and that do nothing but keep data, are given to it; a file that asks for anything
else is refused. torch's `weights_only` loader does the checking; torch before 2.5 has no allow-list, so there a
restricted unpickler with the same list does.
"""

import argparse
import collections
import pathlib
import pickle
import re
import types
import typing
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple, Union

import numpy as np
import omegaconf
import torch
from fairseq.data.dictionary import Dictionary
from fairseq.data.text_compressor import TextCompressionLevel
from fairseq.dataclass.configs import FairseqDataclass

from .errors import UserError

PathLike = Union[str, Path]

# torch 2.4 has an allow-list, but only from 2.5 on do its entries carry names
_HAS_ALLOW_LIST = hasattr(torch.serialization, "safe_globals")


def read_pickled(path: PathLike) -> Any:
    """Load a `torch.save`d file onto the CPU, memory-mapped where its format allows.

    Raises:
        UserError: there is no such file, it is no checkpoint, it is cut short, or it asks for a type or function that
            is not on the allow-list (the message names it).
    """
    path = Path(path)
    _check_looks_like_checkpoint(path)
    try:
        return _read_weights_only(path) if _HAS_ALLOW_LIST else _read_restricted(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(_explain(path, error)) from error


def allow_fairseq_types() -> None:
    """Let stock fairseq's own `torch.load` read fairseq's own checkpoints under torch 2.6 and later."""
    if _HAS_ALLOW_LIST:
        # with names: a type may be pickled under another name than its own (numpy renamed its modules)
        torch.serialization.add_safe_globals([(kind, name) for name, kind in allowed_types().items()])


def allowed_types() -> Dict[str, Any]:
    """The allow-list: full name as a pickle spells it -> type."""
    allowed = {f"{t.__module__}.{t.__qualname__}": t for t in _plain_types()}
    allowed.update(_numpy_types())
    # typing's members were no classes before Python 3.11; omegaconf's containers name them as type hints
    allowed.update({f"typing.{name}": getattr(typing, name) for name in ("Any", "Dict", "List", "Optional", "Union")})
    return allowed


def _plain_types() -> Iterator[type]:
    yield from (dict, list, tuple, set, int, float, str, bool, bytes, complex, slice, type(None))
    yield from (argparse.Namespace, collections.OrderedDict, collections.defaultdict, pathlib.PosixPath)
    yield from (Dictionary, TextCompressionLevel)
    yield from _subclasses(FairseqDataclass)
    yield from (
        kind
        for module in (omegaconf.base, omegaconf.dictconfig, omegaconf.listconfig, omegaconf.nodes)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__.startswith("omegaconf.")
    )


def _subclasses(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        if child.__module__.split(".")[0] in ("fairseq", "fairseq_distill"):
            yield child
            yield from _subclasses(child)


def _numpy_types() -> Dict[str, Any]:
    multiarray = import_module("numpy._core.multiarray" if np.__version__ >= "2" else "numpy.core.multiarray")
    allowed: Dict[str, Any] = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}
    for package in ("numpy.core", "numpy._core"):  # numpy 2 renamed it; files keep the name they were written with
        allowed[f"{package}.multiarray.scalar"] = multiarray.scalar
        allowed[f"{package}.multiarray._reconstruct"] = multiarray._reconstruct
    for kind in vars(getattr(np, "dtypes", types.SimpleNamespace())).values():
        if isinstance(kind, type):
            allowed[f"numpy.dtypes.{kind.__name__}"] = kind
    return allowed


def _read_weights_only(path: Path) -> Any:
    allow_fairseq_types()  # not torch's context manager: it would take the types off the list again when it ends
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _read_restricted(path: Path) -> Any:
    options = {"mmap": True} if zipfile.is_zipfile(path) and torch.__version__ >= "2.1" else {}
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_restricted_pickle(), **options)


def _restricted_pickle() -> Any:
    """A stand-in for the pickle module that finds only what is on the allow-list and torch's own tensor builders."""
    allowed = allowed_types()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            full = f"{module}.{name}"
            if full in allowed:
                return allowed[full]
            kind = getattr(torch, name, None) if module == "torch" else None
            is_storage = module in ("torch", "torch.storage") and name.endswith("Storage")
            if is_storage or isinstance(kind, torch.dtype) or full in _TORCH_BUILDERS:
                return super().find_class(module, name)
            if full == "_codecs.encode":  # how Python 2's strings were pickled
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {full} was not an allowed global")

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return types.SimpleNamespace(Unpickler=Unpickler, load=load, UnpicklingError=pickle.UnpicklingError)


_TORCH_BUILDERS = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
}


def _check_looks_like_checkpoint(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        raise UserError(f"{path} is empty")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page, not a checkpoint: the download did not give the file; download it again")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a git-lfs pointer, not the checkpoint itself: run 'git lfs pull' where it comes from")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is cut short ({path.stat().st_size} bytes, no end of archive): copy or download it again")


def _explain(path: Path, error: Exception) -> str:
    found = re.search(r"(?:GLOBAL|Unsupported (?:class|global|type|operand):?)\s+([\w.]*\w)", str(error))
    if found and "." in found.group(1):
        return (
            f"{path} is refused: it asks for {found.group(1)}, which no checkpoint of fairseq or WavLM needs. "
            "Loading it would run code from the file; nothing was run"
        )
    reason: Tuple[str, ...] = tuple(line.strip() for line in str(error).splitlines() if line.strip())
    return f"{path} cannot be read as a checkpoint (damaged, cut short, or another format): {reason[0] if reason else error!r}"[:400]
