"""K-means of a teacher's layer: its centroids, where they come from, and the nearest one of a frame."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Union

import numpy as np

from ..errors import UserError

_DISTANCES = 2**22  # computed at once: 34 MB


@dataclass(frozen=True)
class Origin:
    """Whose frames the centroids are of.

    Attributes:
        teacher: its checkpoint, as it was called then.
        weights_sha256: of its weights, see `fingerprint_weights`.
        layer: 0 = what enters the first transformer layer, l = layer l's output.
        normalize: its waves are normalised.
        sample_rate: of its waves, in Hz.
    """

    teacher: str
    weights_sha256: str
    layer: int
    normalize: bool
    sample_rate: int


@dataclass(frozen=True)
class KMeans:
    """What turns frames into units, on any machine.

    Attributes:
        centroids: (units, width) float32, finite.
        origin: None where the file does not say it: centroids made elsewhere.
        made: how, "seed" and "fit" of units.json; None where we did not make it.
    """

    centroids: np.ndarray
    origin: Optional[Origin] = None
    made: Optional[Dict[str, Any]] = None

    def is_same(self, other: "KMeans") -> bool:
        """Whether both give the same units, whatever the teacher's file is called."""
        same = np.array_equal(self.centroids, other.centroids)
        return same and _list_facts(self.origin) == _list_facts(other.origin)


def _list_facts(origin: Optional[Origin]) -> Dict[str, Any]:
    return {name: value for name, value in vars(origin).items() if name != "teacher"} if origin else {}


def check_origin(kmeans: KMeans, file: Union[str, Path], origin: Origin) -> None:
    """Compare a k-means that was read from `file` with the teacher whose frames shall be labelled.

    Raises:
        UserError: another teacher, or other settings of it; the layer is the caller's to compare.
    """
    was = kmeans.origin
    if was is None:
        return
    if was.weights_sha256 != origin.weights_sha256:
        raise UserError(
            f"{file} is of the teacher {was.teacher!r} (weights {was.weights_sha256[:12]}), and {origin.teacher} has "
            f"other weights ({origin.weights_sha256[:12]}): its units need that teacher"
        )
    for name, then, now in [
        ("normalize", was.normalize, origin.normalize),
        ("sample_rate", was.sample_rate, origin.sample_rate),
    ]:
        if then != now:
            raise UserError(
                f"{file} was made with {name}={then}, and {origin.teacher} has {name}={now}: its units need the "
                f"teacher as it was, {was.teacher!r}"
            )


class NearestUnit:
    """Call it with frames (frames, width) for their units (frames,), a frame at a time as far as results go.

    The unit of a frame x is the one with the least sum over the width, from the first dimension to the last, of
    (x - centroid)^2 in float64; among equals the lowest. A sum in that order is the same on every machine, where those
    of matrix products are not. So products only find the units that can be meant: those whose distance is within twice
    the error of a product and of a sum (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1) of the
    least.

    Args:
        centroids: (units, width) float32.
    """

    def __init__(self, centroids: np.ndarray):
        self.units, width = centroids.shape
        self._centroids = centroids.astype(np.float64)
        self._squares = np.square(self._centroids).sum(1)
        self._longest = np.sqrt(self._squares.max())
        self._error = 8 * (width + 4) * np.finfo(np.float64).eps  # of (|x| + |centroid|)^2; twice the bound

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """(frames, width) float32, finite, to (frames,) int64."""
        rows = max(1, _DISTANCES // self.units)
        blocks = [self._find(frames[start : start + rows]) for start in range(0, len(frames), rows)]
        return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.int64)

    def _find(self, frames: np.ndarray) -> np.ndarray:
        x = frames.astype(np.float64)
        distances = self._squares - 2 * (x @ self._centroids.T)  # without |x|^2, which is the same for all
        least = distances.min(1, keepdims=True)
        length = np.sqrt(np.square(x).sum(1, keepdims=True))
        near = distances <= least + self._error * (length + self._longest) ** 2
        units = near.argmax(1)
        for row in np.flatnonzero(near.sum(1) > 1):
            candidates = np.flatnonzero(near[row])
            sums = np.add.accumulate(np.square(self._centroids[candidates] - x[row]), axis=1)[:, -1]  # in order
            units[row] = candidates[sums.argmin()]
        return units
