"""K-means on disk: kmeans.npz, arrays that numpy.load(FILE, allow_pickle=False) opens."""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any, Dict, Union

import numpy as np

from ..errors import UserError
from .kmeans import KMeans, Origin
from .numpy_files import read_arrays

FORMAT = 1
_LONGEST_TEXT = 2**16  # characters
_FIELDS = {"teacher": "U", "weights_sha256": "U", "layer": "i", "normalize": "b", "sample_rate": "i"}


def write_kmeans(path: Path, kmeans: KMeans) -> None:
    """Write what `read_kmeans` reads; the same k-means makes the same bytes. OSError where it cannot be written.

    Arrays: centroids (units, width) float32; format; those of `Origin`; made, in JSON.
    """
    origin = vars(kmeans.origin) if kmeans.origin else {}
    arrays = {"centroids": kmeans.centroids, "format": FORMAT, **origin, "made": json.dumps(kmeans.made)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), stream.getvalue())  # dated 1980, unlike numpy.savez


def read_kmeans(path: Union[str, Path]) -> KMeans:
    """Read what `write_kmeans` wrote, or centroids alone: an .npy file, or an .npz file of one array of any name.

    Raises:
        UserError: as `read_arrays`; or it holds no finite centroids (units, width), or was written by another version.
    """
    arrays = read_arrays(path)
    bare = "format" not in arrays
    if bare and "centroids" not in arrays and len(arrays) != 1:
        raise UserError(
            f"{path} holds {len(arrays)} arrays and none called centroids: give a file of the centroids alone, or one "
            "that fairseq-distill units wrote"
        )
    centroids = arrays["centroids"] if "centroids" in arrays else next(iter(arrays.values()), np.zeros(0))
    centroids = _check_centroids(path, centroids)
    return KMeans(centroids) if bare else KMeans(centroids, *_read_facts(path, arrays))


def _check_centroids(path: Union[str, Path], centroids: np.ndarray) -> np.ndarray:
    """As (units, width) float32 of their own memory."""
    what = f"{path}: centroids of shape {centroids.shape} and type {centroids.dtype}"
    if centroids.dtype.kind != "f" or centroids.dtype.itemsize not in (4, 8):
        raise UserError(f"{what}: they must be float32 (or float64, which is rounded to it)")
    if centroids.ndim != 2 or len(centroids) < 2 or not centroids.shape[1]:
        raise UserError(f"{what}: they must be (units, width of the teacher), at least 2 units")
    with np.errstate(over="ignore"):
        centroids = np.ascontiguousarray(centroids, dtype=np.float32)
    if not np.isfinite(centroids).all():
        raise UserError(f"{path}: {int((~np.isfinite(centroids)).any(1).sum())} centroids are not finite")
    return centroids


def _read_facts(path: Union[str, Path], arrays: Dict[str, np.ndarray]) -> Any:
    """Origin and making."""
    try:
        version = _take(arrays, "format", "i")
        if version != FORMAT:
            raise ValueError(f"version {version} of fairseq-distill's format, and this one reads {FORMAT}")
        origin = Origin(**{name: _take(arrays, name, kind) for name, kind in _FIELDS.items()})
        if not re.fullmatch("[0-9a-f]{64}", origin.weights_sha256):
            raise ValueError("weights_sha256 is no SHA-256")
        if origin.layer < 0 or origin.sample_rate < 1:
            raise ValueError("layer or sample_rate is negative")
        made = json.loads(_take(arrays, "made", "U"))
        if not isinstance(made, (dict, type(None))):
            raise ValueError("made is no object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no k-means of fairseq-distill units: {error}") from error
    return origin, made


def _take(arrays: Dict[str, np.ndarray], name: str, kind: str) -> Any:
    """A single value, as Python's own type."""
    if name not in arrays or arrays[name].shape != () or arrays[name].dtype.kind != kind:
        raise ValueError(f"{name} is missing, or of another type")
    if arrays[name].nbytes > 4 * _LONGEST_TEXT:
        raise ValueError(f"{name} is longer than {_LONGEST_TEXT} characters")
    return arrays[name].item()
