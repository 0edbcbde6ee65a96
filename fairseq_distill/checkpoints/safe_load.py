"""Reading a checkpoint file without running any code that it carries.

A `.pt` file is a pickle: it names classes and functions and asks for them to be called. `read_pickled` allows the few
names that real fairseq and WavLM checkpoints hold, and refuses every other. Even those few it does not look up: each is
replaced by a `Stored` object that keeps the data and can do nothing, so that no constructor, `__setstate__` or
comparison of theirs runs, and files of any omegaconf or numpy version read the same. Only tensors are built for real.
`to_plain` turns stored settings into dicts and lists.

torch's `weights_only` loader does the checking. Before torch 2.6 it has no allow-list by name, so there a restricted
unpickler with the same list and the same rules does.
"""

import argparse
import collections
import pickle
import re
import tarfile
import threading
import types
import typing
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, which pickles of protocol 2 use
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import omegaconf
import torch
from fairseq.data.dictionary import Dictionary

from ..errors import UserError
from .archive import check_archive, check_instructions, is_archive, read_instructions

PathLike = Union[str, Path]

_HAS_NAMED_ALLOW_LIST = torch.__version__ >= "2.6"  # compared as a version, not letter by letter

# what files hold: settings of the argparse era, settings as omegaconf 2.0 to 2.3 pickles them, label dictionaries, and
# numpy's numbers and arrays among the training statistics
_STORED_NAMES = (
    "argparse.Namespace",
    "fairseq.data.dictionary.Dictionary",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")),
    "collections.defaultdict",
    "typing.Any",
    *(
        f"builtins.{kind}"
        for kind in ["dict", "list", "tuple", "set", "int", "float", "str", "bool", "bytes", "bytearray"]
    ),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "_codecs.encode",
    "pathlib.PosixPath",
)
_TENSOR_BUILDERS = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch.storage.UntypedStorage": torch.UntypedStorage,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    **{str(kind): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)},
}


class Stored:
    """What a file says of an object whose class is not looked up: arguments and attributes, no behaviour."""

    arguments: Tuple[Any, ...]
    attributes: Dict[str, Any]

    def __new__(cls, *arguments: Any) -> "Stored":
        """Keep the arguments that the constructor would have been called with."""
        self = super().__new__(cls)
        self.arguments, self.attributes = arguments, {}
        return self

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if type(state) is dict else {"": state}


# one class each: torch tells allow-listed classes apart by name only
_STAND_INS: Dict[str, type] = {name: type(name.rsplit(".")[-1], (Stored,), {}) for name in _STORED_NAMES}


def read_pickled(path: PathLike, compare_checksums: bool = True) -> Any:
    """Load a `torch.save`d file onto the CPU, memory-mapped where its format allows.

    Args:
        path: the file.
        compare_checksums: with those in the file, which reads all of it; without, damage to weights is not seen.

    Returns:
        dicts, lists, tensors and plain values; other objects as `Stored`.

    Raises:
        UserError: there is no such file, it is no checkpoint, it is cut short, or it asks for a type or function that
            is not on the allow-list (the message names it).
    """
    path = Path(path)
    try:
        is_zip = _check_looks_like_checkpoint(path, compare_checksums)
        return _read_weights_only(path, mmap=is_zip) if _HAS_NAMED_ALLOW_LIST else _read_restricted(path, mmap=is_zip)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes the reader raise
        raise UserError(_explain(path, error)) from error


def to_plain(value: Any, _done: Optional[Dict[int, Any]] = None) -> Any:
    """Settings as plain dicts and lists: namespaces and omegaconf's containers unwrapped, interpolations as text."""
    done = {} if _done is None else _done
    if isinstance(value, Stored):
        attributes = value.attributes
        return to_plain(attributes.get("_content", attributes.get("_val", attributes)), done)
    if not isinstance(value, (dict, list, tuple)):
        return value
    # what occurs twice is converted once: a small file can describe an endless or an exponentially large structure
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        mapping: Dict[Any, Any] = {}
        done[id(value)] = mapping
        mapping.update((key, to_plain(item, done)) for key, item in value.items())
        return mapping
    items: List[Any] = []
    done[id(value)] = items
    items.extend(to_plain(item, done) for item in value)
    return items


def allow_fairseq_types() -> None:
    """Let stock fairseq's own `torch.load` read fairseq's own checkpoints under torch 2.6 and later.

    This list is everybody's in the process, and its classes are the real ones. It is therefore only what fairseq
    writes: settings, dictionaries and numpy's plain numbers. Left out on purpose: `numpy.ndarray`, which can be told to
    take bytes of the file for addresses of objects; numpy's types with fields or objects, for the same reason;
    fairseq's dataclasses and omegaconf's typed nodes, which its files do not hold. omegaconf's containers resolve
    `${...}` when they are looked into, by the resolvers that the process has registered, as fairseq has always done.
    """
    if not _HAS_NAMED_ALLOW_LIST:
        return
    scalar = np.float64(0).__reduce__()[0]
    real = [Dictionary, argparse.Namespace, collections.defaultdict, omegaconf.DictConfig, omegaconf.ListConfig]
    real += [omegaconf.base.ContainerMetadata, omegaconf.base.Metadata, omegaconf.AnyNode, dict, list, int, np.dtype]
    real += {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    # numpy 2 renamed its modules; typing.Any was no class before Python 3.11
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [(typing.Any, "typing.Any")]
    torch.serialization.add_safe_globals(real + named)


_allow_list_lock = threading.Lock()


def _read_weights_only(path: Path, mmap: bool) -> Any:
    allow_list = torch.serialization
    with _allow_list_lock:
        # not what others have allowed in this process: this list is the whole list
        others = allow_list.get_safe_globals()
        allow_list.clear_safe_globals()
        allow_list.add_safe_globals([(kind, name) for name, kind in _STAND_INS.items()])
        try:
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
        finally:
            allow_list.clear_safe_globals()
            allow_list.add_safe_globals(others)


def _read_restricted(path: Path, mmap: bool) -> Any:
    reader = types.SimpleNamespace(
        __name__="restricted_pickle",
        Unpickler=_RestrictedUnpickler,
        load=lambda file, **options: _RestrictedUnpickler(file, **options).load(),
    )
    return torch.load(str(path), map_location="cpu", weights_only=False, pickle_module=reader, mmap=mmap)


class _RestrictedUnpickler(pickle._Unpickler):
    """torch's `weights_only` rules for older torch: calls what is listed, sets attributes of `Stored` objects only.

    The Python implementation, because the C one sets attributes of anything that it is told to, classes included.
    """

    dispatch: ClassVar[Dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: List[Any]
    for _code in (pickle.PERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        del dispatch[_code[0]]

    def find_class(self, module: str, name: str) -> Any:
        full = _name_today(module, name)
        found = _STAND_INS.get(full) or _TENSOR_BUILDERS.get(full)
        if found is None:
            raise pickle.UnpicklingError(f"{full} is not on the allow-list")
        return found

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (Stored, collections.OrderedDict)):
            raise pickle.UnpicklingError(f"attributes of {type(self.stack[-2]).__name__} are not read from a file")
        super().load_build()  # type: ignore[misc]  # typeshed leaves these methods out

    def load_binpersid(self) -> None:
        # torch's other kind, "module", compares source code and can write a file
        if not (isinstance(self.stack[-1], tuple) and self.stack[-1][:1] in (("storage",), (b"storage",))):
            raise pickle.UnpicklingError("only storages of tensors are read from outside the pickle")
        super().load_binpersid()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BINPERSID[0]] = load_binpersid


def _name_today(module: str, name: str) -> str:
    """Full name of what a pickle names, also where it uses Python 2's name."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _check_looks_like_checkpoint(path: Path, compare_checksums: bool) -> bool:
    """Whether the file is a zip archive, torch's format since 1.6; UserError where it cannot be a checkpoint."""
    if path.is_dir():
        raise UserError(f"{path} is a folder without a config.json: give a checkpoint file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        is_zip = is_archive(file)
        start = file.read(512)
    text = start.lstrip().lower()
    if not text:
        raise UserError(f"{path} is empty")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page, not a checkpoint: the download failed; download it again")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a git-lfs pointer, not the checkpoint: run 'git lfs pull' where it comes from")
    if start[8:9] == b"{":  # behind the length of its header
        raise UserError(f"{path} is a safetensors file, of Hugging Face's form: give its folder, with config.json")
    if is_zip and not zipfile.is_zipfile(path):
        size = path.stat().st_size
        raise UserError(f"{path} is cut short ({size} bytes, no end of archive): copy or download it again")
    # asked of torch's own reader, which decides by the same list whether it runs the file
    if is_zip and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
        raise UserError(f"{path} is refused: it is a TorchScript program, which would run, not a checkpoint")
    if not is_zip and tarfile.is_tarfile(path):
        raise UserError(f"{path} is a tar archive, not a checkpoint: unpack it and give the file inside")
    if is_zip:
        check_archive(path, compare_checksums)
    check_instructions(path)
    return is_zip


def _explain(path: Path, error: Exception) -> str:
    refused = [name for name in dict.fromkeys(_names_asked_for(path)) if not _is_listed(name)]
    if refused:
        return (
            f"{path} is refused: it asks for {', '.join(refused[:5])}, which no checkpoint of fairseq or WavLM needs. "
            "Loading it could run code that the file carries; nothing was run"
        )
    # torch puts advice to load without checks around the cause
    cause = re.search(r"WeightsUnpickler error:\s*(.+)", str(error)) or re.search("(.+)", str(error))
    reason = cause.group(1) if cause else repr(error)
    return f"{path} cannot be read as a checkpoint (damaged, cut short, or another format): {reason:.300}"


def _is_listed(name: str) -> bool:
    return name in _STAND_INS or name in _TENSOR_BUILDERS or (name.startswith("torch.") and name.endswith("Storage"))


def _names_asked_for(path: Path) -> Iterator[str]:
    """Full names of what the file's pickles ask for, up to where they are damaged."""
    strings: List[str] = []
    try:
        for operation, argument, _ in read_instructions(path):
            if operation.name in ("GLOBAL", "INST"):
                yield _name_today(*argument.split(" ", 1))
            elif operation.name == "STACK_GLOBAL" and len(strings) > 1:
                yield _name_today(*strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # whatever damage makes the parsers raise: the names up to there are what there is to tell
        return
