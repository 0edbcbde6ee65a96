"""The folder of labels that fairseq's `hubert_pretraining` reads as `task.label_dir`."""

import json
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np

from ..data.manifest import Manifest
from ..errors import UserError
from ..output.files import write_whole
from .labelling import Labelled, Labeller

LABEL_ENDING = "km"  # for task.labels
DICTIONARY = f"dict.{LABEL_ENDING}.txt"
SETTINGS = "units.json"


def label_file(manifest: Manifest) -> str:
    """Name of a manifest's labels: train.tsv has train.km."""
    return f"{Path(manifest.file).stem}.{LABEL_ENDING}"


def check_folder(out: Path, manifests: Sequence[Manifest]) -> None:
    """Make the folder, before the work.

    Raises:
        UserError: it cannot be made, two manifests would share a file, or a file is there already.
    """
    names = [label_file(manifest) for manifest in manifests]
    for name in names:
        same = [manifest.file for manifest in manifests if label_file(manifest) == name]
        if len(same) > 1:
            raise UserError(
                f"{', '.join(same)} would all be labelled in {out / name}: give manifests of different names"
            )
    for name in (SETTINGS, DICTIONARY, *names):
        if (out / name).exists():
            raise UserError(
                f"{out / name} exists: labels of different units must not mix; give another folder by --out"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made: {error.strerror}; give another folder by --out") from error


def write_units(
    out: Path, labeller: Labeller, manifests: Sequence[Manifest], settings: Dict[str, Any]
) -> List[Labelled]:
    """Label manifests and write DIR/<split>.km, DIR/dict.km.txt and DIR/units.json, the last of all; none if it fails.

    Raises:
        UserError: the folder cannot be written, or as `Labeller.write`.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".units.", dir=out) as folder:
            partial = [Path(folder) / label_file(manifest) for manifest in manifests]
            labelled = [labeller.write(manifest, path) for manifest, path in zip(manifests, partial)]
            for path in partial:
                path.replace(out / path.name)
    except BrokenPipeError:  # of the progress bar: what reads it has gone
        raise
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    counts = np.sum([done.counts for done in labelled], axis=0).tolist()
    dictionary = "".join(f"{unit} {count}\n" for unit, count in enumerate(counts))
    write_whole(out / DICTIONARY, lambda path: path.write_text(dictionary))
    about = [
        {
            "manifest": manifest.file,
            "labels": label_file(manifest),
            "rows": done.rows,
            "frames": int(done.counts.sum()),
            "unreadable": len(done.unreadable),
            "too_short": done.too_short,
        }
        for manifest, done in zip(manifests, labelled)
    ]
    text = json.dumps({**settings, "silence": labeller.silence, "manifests": about}, indent=1) + "\n"
    write_whole(out / SETTINGS, lambda path: path.write_text(text))
    return labelled
