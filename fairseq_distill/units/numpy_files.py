"""Numbers and text from .npz and .npy files that anybody may have made: no code runs, no more is unpacked than fits."""

import io
import math
import os
import shlex
import zipfile
from pathlib import Path
from typing import Any, Dict, Union

import numpy as np

from ..errors import UserError

_MOST_ARRAYS = 16
_LONGEST_DIRECTORY = 2**16  # bytes, of a zip file's list of what is in it
_LONGEST_HEADER = 1024  # bytes, of an array's shape and type; numpy writes 118
_UNPACKED = 2**26  # bytes that arrays may unpack to beyond twice the file's size
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# pickles, and what joblib may compress them by: zlib, gzip, bzip2, xz, lzma, lz4, its own old form
_PICKLES = (b"\x80", b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22\x4d\x18", b"ZF")


def read_arrays(path: Union[str, Path]) -> Dict[str, np.ndarray]:
    """The arrays of an .npz file by their names; that of an .npy file is called "".

    Raises:
        UserError: it cannot be read, is a pickle or something else, is damaged, or unpacks to far more than it is.
    """
    path = Path(path)
    try:
        with _Bounded(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            file.seek(0)
            if start.startswith(b"PK\x03\x04"):
                return _read_archive(file, size)
            if start.startswith(b"\x93NUMPY"):
                return {"": _parse(file.readall(), "the array")}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever zipfile, zlib and numpy say of a file that is not what it should be
        raise UserError(f"{path} is damaged, or no file of numpy arrays: {error or type(error).__name__}") from error
    if start.startswith(_PICKLES):
        raise UserError(_explain_pickle(path))
    raise UserError(f"{path} is no .npz or .npy file of numpy: fairseq-distill units writes one beside its labels")


class _Bounded(io.FileIO):
    """A file from which zipfile cannot read a list of members of any length."""

    limit = _LONGEST_DIRECTORY

    def read(self, size: Any = -1) -> Any:
        """As of any file."""
        if size is not None and size > self.limit:
            raise ValueError(f"its list of members has {size} bytes")
        return super().read(size)


def _read_archive(file: _Bounded, size: int) -> Dict[str, np.ndarray]:
    arrays: Dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        file.limit = size
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if len(members) > _MOST_ARRAYS:
            raise ValueError(f"it holds {len(members)} arrays")
        if unpacked > 2 * size + _UNPACKED:
            raise ValueError(f"it has {size:,} bytes and would unpack to {unpacked:,}")
        for member in members:
            name, ending = os.path.splitext(member.filename)
            if ending != ".npy" or name in arrays:
                raise ValueError(f"{member.filename[:80]!r} in it is no array, or there twice")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name[:80]!r} is compressed in a way that numpy does not use")
            arrays[name] = _parse(archive.read(member), repr(name[:80]))
    return arrays


def _parse(data: bytes, name: str) -> np.ndarray:
    """An array from what an .npy file holds; ValueError says what is wrong with it."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"{name} is in version {version} of numpy's format")
    length = int.from_bytes(data[8 : 10 if version == (1, 0) else 12], "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"the header of {name} has {length} bytes")
    shape, by_columns, kind = _HEADERS[version](stream)
    if kind.hasobject:
        raise ValueError(f"{name} holds pickled objects, which can run any code")
    if kind.kind not in "biufU":
        raise ValueError(f"{name} holds neither numbers nor text")
    start = stream.tell()
    if math.prod(shape) * kind.itemsize != len(data) - start:
        raise ValueError(f"{name} should be {shape} of {kind} and has {len(data) - start} bytes")
    return np.frombuffer(data, kind, math.prod(shape), start).reshape(shape, order="F" if by_columns else "C")


def _explain_pickle(path: Path) -> str:
    new = path.with_suffix(".npz")
    code = f"import joblib, numpy; numpy.savez({str(new)!r}, centroids=joblib.load({str(path)!r}).cluster_centers_)"
    return (
        f"{path} is a pickle, as joblib and fairseq's simple_kmeans write it: whoever opens one runs any code that it "
        "carries, so it is not opened. Where you trust who made it, take its centroids out once:\n"
        f"  python -c {shlex.quote(code)}\n"
        f"and give --kmeans {shlex.quote(str(new))} with --layer"
    )
