"""The folder of labels that fairseq's `hubert_pretraining` reads as `task.label_dir`, and its k-means."""

import contextlib
import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..data.manifest import Manifest
from ..errors import UserError
from .kmeans import KMeans
from .labelling import Labelled, Labeller
from .storage import read_kmeans, write_kmeans

LABEL_ENDING = "km"  # for task.labels
DICTIONARY = f"dict.{LABEL_ENDING}.txt"
SETTINGS = "units.json"
KMEANS = "kmeans.npz"
_COMMON = (SETTINGS, DICTIONARY, KMEANS)  # of all labels in the folder


def label_file(manifest: Manifest) -> str:
    """Name of a manifest's labels: train.tsv has train.km."""
    return f"{Path(manifest.file).stem}.{LABEL_ENDING}"


def check_folder(out: Path, manifests: Sequence[Manifest], kmeans: Optional[KMeans] = None) -> None:
    """Make the folder, before the work. Labels of the same k-means may be there, of other manifests.

    Args:
        out: the folder.
        manifests: what will be labelled.
        kmeans: by what; None = by one that is yet to be fitted.

    Raises:
        UserError: it cannot be made, two manifests would share a file, a file is there already, or other units are.
    """
    names = [label_file(manifest) for manifest in manifests]
    for name in names:
        same = [manifest.file for manifest in manifests if label_file(manifest) == name]
        if len(same) > 1:
            raise UserError(
                f"{', '.join(same)} would all be labelled in {out / name}: give manifests of different names"
            )
    way_out = "labels of different units must not mix; give another folder by --out"
    found = [name for name in _COMMON if (out / name).exists()]
    if found and kmeans is None:
        by_it = f", or label by the units that are there: --kmeans {out / KMEANS}" if KMEANS in found else ""
        raise UserError(f"{out / found[0]} exists: {way_out}{by_it}")
    if found and found != list(_COMMON):
        missing = next(name for name in _COMMON if name not in found)
        raise UserError(f"{out / found[0]} exists and {out / missing} does not, so whose units are there? {way_out}")
    if found and kmeans is not None and not read_kmeans(out / KMEANS).is_same(kmeans):
        raise UserError(f"{out / KMEANS} is another k-means: {way_out}")
    for name in names:
        if (out / name).exists():
            raise UserError(f"{out / name} exists: {way_out}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made: {error.strerror}; give another folder by --out") from error


def write_units(
    out: Path, labeller: Labeller, manifests: Sequence[Manifest], kmeans: KMeans, settings: Dict[str, Any]
) -> List[Labelled]:
    """Label manifests and write DIR/<split>.km, kmeans.npz, dict.km.txt and units.json, the last of all; or none.

    Where labels of the same k-means are in the folder, the dictionary's counts and the list of manifests go on.

    Raises:
        UserError: the folder cannot be written, others have written to it meanwhile, or as `Labeller.write`.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".units.", dir=out) as folder:
            partial = Path(folder)
            labelled = [labeller.write(manifest, partial / label_file(manifest)) for manifest in manifests]
            counts = np.sum([done.counts for done in labelled], axis=0).tolist()
            about = [
                {"manifest": manifest.file, "labels": label_file(manifest), **done.describe()}
                for manifest, done in zip(manifests, labelled)
            ]
            with _alone_in(out):
                check_folder(out, manifests, kmeans)
                written = {**settings, "silence": labeller.silence, "manifests": about}
                if (out / SETTINGS).exists():
                    written, counts = _go_on(out, about, counts)
                else:
                    write_kmeans(partial / KMEANS, kmeans)
                (partial / DICTIONARY).write_text("".join(f"{unit} {count}\n" for unit, count in enumerate(counts)))
                (partial / SETTINGS).write_text(json.dumps(written, indent=1) + "\n")
                for path in sorted(partial.iterdir(), key=lambda path: path.name == SETTINGS):
                    path.replace(out / path.name)
    except BrokenPipeError:  # of the progress bar: what reads it has gone
        raise
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    return labelled


def _go_on(out: Path, about: Sequence[Dict[str, Any]], counts: Sequence[int]) -> Tuple[Dict[str, Any], List[int]]:
    """What units.json and the dictionary say, with so much more."""
    file = out / SETTINGS
    try:
        written = json.loads(file.read_text())
        written["manifests"] = [*written["manifests"], *about]
        file = out / DICTIONARY
        rows = [line.split() for line in file.read_text().splitlines()]
        if [unit for unit, _ in rows] != [str(unit) for unit in range(len(counts))]:
            raise ValueError(f"it does not have the units 0 to {len(counts) - 1}, a line each")
        return written, [int(count) + more for (_, count), more in zip(rows, counts)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not as fairseq-distill units wrote it ({type(error).__name__}: {error}): give another folder "
            "by --out"
        ) from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """While others, who label shards of the same speech, wait; where a file system has no locks they do not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
