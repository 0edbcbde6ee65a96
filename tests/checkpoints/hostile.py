"""Files that try to run something when they are read: each would create the file `marker` or breaks a rule."""

import builtins
import functools
import importlib
import io
import os
import pickle
import subprocess

import numpy as np
import torch
from fairseq import utils

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how torch's format before 1.6 begins


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class SetsState:
    """A class whose `__setstate__` acts."""

    def __init__(self, marker):
        self.marker = marker

    def __setstate__(self, state):
        open(state["marker"], "w").close()


def touch(marker):
    """A module-level function, as a file would name one."""
    open(marker, "w").close()


def nest(marker):
    """A pickle inside a pickle, which torch's own helper would load without any check."""
    inner = io.BytesIO()
    torch.save(Call(os.system, f"touch {marker}"), inner)
    return Call(torch.storage._load_from_bytes, inner.getvalue())


# what it is -> (object that acts when it is unpickled, the name that the refusal must give)
ACTING = {
    "os.system": (lambda marker: Call(os.system, f"touch {marker}"), "posix.system"),
    "eval": (lambda marker: Call(eval, f"open({marker!r}, 'w')"), "builtins.eval"),
    "exec": (lambda marker: Call(exec, f"open({marker!r}, 'w')"), "builtins.exec"),
    "open": (lambda marker: Call(builtins.open, marker, "w"), "io.open"),
    "getattr": (lambda marker: Call(getattr, torch.Tensor, "numpy"), "builtins.getattr"),
    "subprocess": (lambda marker: Call(subprocess.Popen, ["touch", marker]), "subprocess.Popen"),
    "partial": (lambda marker: functools.partial(touch, marker), "functools.partial"),
    "import": (lambda marker: Call(importlib.import_module, "this"), "importlib.import_module"),
    "class with __setstate__": (lambda marker: SetsState(marker), "tests.checkpoints.hostile.SetsState"),
    "pickle in a pickle": (nest, "torch.storage._load_from_bytes"),
    "torch.load": (lambda marker: Call(torch.load, marker), "torch.serialization.load"),
    "torch.hub": (lambda marker: Call(torch.hub.load, "/nowhere", "x"), "torch.hub.load"),
    "numpy.load": (lambda marker: Call(np.load, marker, None, True), "load"),
    "numpy.memmap": (lambda marker: Call(np.memmap, marker, "uint8", "w+", 0, (4,)), "memmap"),
    "fairseq": (lambda marker: Call(utils.import_user_module, marker), "fairseq.utils.import_user_module"),
}


def write_legacy(path, payload: bytes):
    """Write bytes as the object of a file in torch's format before 1.6."""
    head = b"".join(pickle.dumps(item, 2) for item in (MAGIC, PROTOCOL, {"little_endian": True}))
    path.write_bytes(head + payload + pickle.dumps([], 2))
    return path


# hand-made pickles that ask only for names which are allowed, for what they must not be used for
MISUSING = {
    "attribute of a class": b"\x80\x02cargparse\nNamespace\nN}X\x07\x00\x00\x00exploitK\x01s\x86b.",
    "attribute of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x07\x00\x00\x00exploitK\x01s\x86b.",
    # torch compares the source of a stored module with the installed one, and can be told to write the difference
    "module": b"\x80\x02(X\x06\x00\x00\x00modulecargparse\nNamespace\nX\x01\x00\x00\x00aX\x01\x00\x00\x00btQ.",
    "text persistent id": b"\x80\x02Pmodule\n.",
    "omegaconf container called": b"\x80\x02ccollections\nOrderedDict\ncomegaconf.dictconfig\nDictConfig\n"
    b"}X\x01\x00\x00\x00aX\x0a\x00\x00\x00${acting:1}s\x85R\x85R.",
    "dotted name": b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93.",
    "dotted name like a storage": b"\x80\x04\x8c\x05torch\x8c\x15storage.io.RawStorage\x93.",
}
