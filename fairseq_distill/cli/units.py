"""Label speech with a teacher's units, k-means clusters of the frames of one of its layers.

The labels are for training a student by HuBERT's own masked prediction (DiceHuBERT, arXiv 2507.02911; recipe
dicehubert), or for task.label_dir of any stock hubert_pretraining.

K-means (scikit-learn's MiniBatchKMeans) is fitted on the frames of one layer, on a random part of the first manifest;
then every row of every manifest is labelled: DIR/<split>.km, DIR/dict.km.txt, DIR/units.json, and the k-means itself,
DIR/kmeans.npz; all or none. Speech that comes later is labelled by that file: --kmeans.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np

from ..checkpoints.reading import load_encoder
from ..data.manifest import Manifest, read_manifest
from ..encoder.model import SpeechEncoder
from ..encoder.pieces import LONGEST
from ..encoder.size import frame_rate
from ..errors import UserError
from ..layer_clusters.fingerprint import identify
from ..run.ranges import POSITIVE, Range
from ..units.fitting import MAX_FRAMES, fit_units
from ..units.folder import KMEANS, LABEL_ENDING, check_folder, label_file, write_units
from ..units.frames import LayerFrames
from ..units.kmeans import KMeans, Origin, check_origin
from ..units.labelling import Labelled, Labeller
from ..units.storage import read_kmeans
from .numbers import SEED, check_numbers

HELP = "k-means units of a teacher's layer, as labels for HuBERT's masked prediction"

logger = logging.getLogger(__name__)

_NEW = {"clusters": 500, "seconds": 3600.0, "seed": 0}  # defaults of a new k-means

EPILOG = f"""\
MANIFEST is fairseq's audio manifest: the audio root, then PATH<TAB>SAMPLES a line, at the teacher's sample rate;
train.tsv is labelled in train.km, a line for each row. Of a wave over {LONGEST} s, parts of at most that go through the
teacher.

A row whose file cannot be used keeps its line, with the unit of silence for each frame; over 1 % of them stops the
command. K-means sees at most {MAX_FRAMES:,} frames, drawn from --seconds; memory does not grow with the speech.
The same seed, first manifest and machine give the same units.

A frame's unit depends on that frame and the k-means alone: labels made later, in shards or on another machine equal
those made at once, as far as the teacher's features do. DIR may hold labels of the same k-means, never of another one.

examples:
  fairseq-distill units hubert_base_ls960.pt train.tsv valid.tsv --layer 9 --clusters 500 --out units
  fairseq-distill units hubert_base_ls960.pt test.tsv --kmeans units/{KMEANS} --out units

--kmeans also takes centroids from elsewhere, float32 (units, width), in an .npy file or alone in an .npz file; then
--layer says of which layer they are. A pickle, as fairseq's simple_kmeans writes it, is not opened: the command prints
how to take its centroids out.

Layer 0 is what enters the first transformer layer, l is layer l's output. HuBERT Large was trained on 500 units of
layer 9 of HuBERT Base.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and its help."""
    parser.add_argument("teacher", metavar="TEACHER", type=Path, help="any checkpoint that fairseq-distill info reads")
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", help="speech to label, such as train.tsv valid.tsv")
    parser.add_argument("--layer", metavar="L", type=int, help="which layer's frames (--kmeans FILE may know it)")
    parser.add_argument(
        "--kmeans", metavar="FILE", type=Path, help=f"label by this k-means ({KMEANS} of another run) and fit none"
    )
    parser.add_argument("--clusters", metavar="K", type=int, help=f"number of units (default: {_NEW['clusters']})")
    parser.add_argument(
        "--seconds", metavar="N", type=float, help=f"seconds of speech to fit on (default: {_NEW['seconds']:g})"
    )
    parser.add_argument("--seed", type=int, help=f"which speech, and where k-means starts (default: {_NEW['seed']})")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the labels: task.label_dir")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")


def run(args: argparse.Namespace) -> None:
    """Fit or read a k-means, label, write."""
    kmeans = _read(args) if args.kmeans else None
    _check_numbers(args)
    manifests = [read_manifest(path) for path in args.manifests]
    teacher = load_encoder(args.teacher)
    rate = frame_rate(teacher.cfg)
    _check_layer(args, teacher)
    named = identify(args.teacher, teacher)
    origin = Origin(
        teacher=named["path"],
        weights_sha256=named["weights_sha256"],
        layer=args.layer,
        normalize=teacher.normalize_input,
        sample_rate=teacher.cfg.sample_rate,
    )
    if kmeans:
        kmeans = _bind(kmeans, args.kmeans, origin, teacher)
    check_folder(args.out, manifests, kmeans)
    layer_frames = LayerFrames(teacher, args.layer)
    kmeans = kmeans or _fit(args, layer_frames, origin)
    settings = {
        "teacher": named,
        "layer": args.layer,
        "clusters": len(kmeans.centroids),
        "frames_per_second": rate,
        **{name: (kmeans.made or {}).get(name) for name in ("seed", "fit")},
    }
    labelled = write_units(args.out, Labeller(layer_frames, kmeans.centroids), manifests, kmeans, settings)
    _print(args, manifests, labelled, settings, origin.sample_rate)


def _read(args: argparse.Namespace) -> KMeans:
    """The k-means that was asked for; its layer becomes the command's."""
    given = [f"--{name}" for name in _NEW if getattr(args, name) is not None]
    if given:
        raise UserError(f"{', '.join(given)}: of a new k-means, and {args.kmeans} is one already: leave out either")
    kmeans = read_kmeans(args.kmeans)
    if kmeans.origin is None and args.layer is None:
        raise UserError(f"{args.kmeans} does not say of which layer its centroids are: give --layer L")
    if kmeans.origin and args.layer not in (None, kmeans.origin.layer):
        raise UserError(f"--layer {args.layer}: {args.kmeans} is of layer {kmeans.origin.layer}; leave --layer out")
    args.layer = args.layer if kmeans.origin is None else kmeans.origin.layer
    return kmeans


def _check_numbers(args: argparse.Namespace) -> None:
    if args.layer is None:
        raise UserError("give --layer L, whose frames are to be clustered, or --kmeans FILE, an earlier run's clusters")
    for name, default in _NEW.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    check_numbers(args, clusters=Range(2), seconds=POSITIVE, seed=SEED)


def _check_layer(args: argparse.Namespace, teacher: SpeechEncoder) -> None:
    if not 0 <= args.layer <= teacher.depth:
        raise UserError(f"--layer {args.layer}: {args.teacher} has layers 1 to {teacher.depth}, and 0 enters the first")


def _bind(kmeans: KMeans, file: Path, origin: Origin, teacher: SpeechEncoder) -> KMeans:
    """The k-means of a file, if it can be the teacher's; one that names none becomes the teacher's."""
    check_origin(kmeans, file, origin)
    width = kmeans.centroids.shape[1]
    if width != teacher.cfg.encoder_embed_dim:
        raise UserError(
            f"{file} has centroids of width {width}, and the frames of {origin.teacher} have "
            f"{teacher.cfg.encoder_embed_dim}: they are of another teacher"
        )
    if kmeans.origin:
        return kmeans
    logger.info(f"{file} names no teacher: its centroids are taken for those of layer {origin.layer} of this one")
    return KMeans(kmeans.centroids, origin)


def _fit(args: argparse.Namespace, layer_frames: LayerFrames, origin: Origin) -> KMeans:
    fit = fit_units(layer_frames, args.manifests[0], args.seconds, args.clusters, args.seed)
    return KMeans(fit.centroids, origin, {"seed": args.seed, "fit": fit.facts})


def _print(
    args: argparse.Namespace,
    manifests: Sequence[Manifest],
    labelled: Sequence[Labelled],
    settings: Dict[str, Any],
    sample_rate: int,
) -> None:
    counts = np.sum([done.counts for done in labelled], axis=0)
    task = {
        "task.label_dir": str(args.out.resolve()),
        "task.labels": [LABEL_ENDING],
        "task.label_rate": settings["frames_per_second"],
        "task.sample_rate": sample_rate,
    }
    if args.json:
        files = {label_file(manifest): done.describe() for manifest, done in zip(manifests, labelled)}
        kmeans = str(args.out / KMEANS)
        print(json.dumps({**settings, "kmeans": kmeans, "labels": files, "counts": counts.tolist(), "task": task}))
        return
    lines = [f"units       {settings['clusters']} of layer {args.layer} of {args.teacher}"]
    lines.append(f"k-means     {args.kmeans}" if args.kmeans else _describe_fit(settings["fit"]))
    lines += _describe(manifests, labelled, counts)
    words = f"task.label_dir={task['task.label_dir']} task.labels=[{LABEL_ENDING}]"
    words += f" task.label_rate={task['task.label_rate']:g} task.sample_rate={sample_rate}"
    print("\n".join([*lines, f"written to {args.out}: {words}"]))


def _describe_fit(facts: Dict[str, Any]) -> str:
    """What k-means saw."""
    return (
        f"fitted on   {facts['frames']:,} frames of {facts['seconds']:.0f} s in {facts['manifest']}, "
        f"{facts['inertia_per_frame']:.4g} squared distance per frame"
    )


def _describe(manifests: Sequence[Manifest], labelled: Sequence[Labelled], counts: np.ndarray) -> List[str]:
    """What was labelled."""
    lines = []
    for manifest, done in zip(manifests, labelled):
        line = f"{label_file(manifest):<12}{done.rows:,} rows, {done.counts.sum():,} frames"
        if done.unreadable:
            line += f"; {len(done.unreadable)} of them cannot be used and have unit silence"
        if done.too_short:
            line += f"; {done.too_short} too short for a frame"
        lines.append(line)
    largest = counts.max() / max(counts.sum(), 1)
    lines.append(
        f"used        {np.count_nonzero(counts)} of {len(counts)} units, the largest for {largest:.1%} of the frames"
    )
    return lines
