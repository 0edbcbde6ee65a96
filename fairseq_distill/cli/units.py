"""Label speech with a teacher's units, k-means clusters of the frames of one of its layers.

The labels are for training a student by HuBERT's own masked prediction (DiceHuBERT, arXiv 2507.02911; recipe
dicehubert), or for task.label_dir of any stock hubert_pretraining.

K-means (scikit-learn's MiniBatchKMeans) is fitted on the frames of one layer, on a random part of the first manifest;
then every row of every manifest is labelled: DIR/<split>.km, DIR/dict.km.txt and DIR/units.json, all or none.
"""

import argparse
from pathlib import Path
from typing import List, Sequence

import numpy as np

from ..checkpoints.reading import load_encoder
from ..data.manifest import Manifest, read_manifest
from ..encoder.model import SpeechEncoder
from ..encoder.size import frame_rate
from ..errors import UserError
from ..layer_clusters.fingerprint import identify
from ..units.fitting import MAX_FRAMES, Fit, fit_units
from ..units.folder import LABEL_ENDING, check_folder, label_file, write_units
from ..units.frames import LONGEST, LayerFrames
from ..units.labelling import Labelled, Labeller

HELP = "k-means units of a teacher's layer, as labels for HuBERT's masked prediction"

EPILOG = f"""\
MANIFEST is fairseq's audio manifest: the audio root, then PATH<TAB>SAMPLES a line, at the teacher's sample rate;
train.tsv is labelled in train.km, a line for each row. Of a wave over {LONGEST} s, parts of at most that go through the
teacher.

A row whose file cannot be used keeps its line, with the unit of silence for each frame; over 1 % of them stops the
command. K-means sees at most {MAX_FRAMES:,} frames, drawn from --seconds; memory does not grow with the speech.
The same seed, first manifest and machine give the same units.

example:
  fairseq-distill units hubert_base_ls960.pt train.tsv valid.tsv --layer 9 --clusters 500 --out units

Layer 0 is what enters the first transformer layer, l is layer l's output. HuBERT Large was trained on 500 units of
layer 9 of HuBERT Base.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and its help."""
    parser.add_argument("teacher", metavar="TEACHER", type=Path, help="any checkpoint that fairseq-distill info reads")
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", help="speech to label, such as train.tsv valid.tsv")
    parser.add_argument("--layer", metavar="L", type=int, required=True, help="which layer's frames")
    parser.add_argument("--clusters", metavar="K", type=int, default=500, help="number of units (default: 500)")
    parser.add_argument(
        "--seconds", metavar="N", type=float, default=3600.0, help="seconds of speech to fit on (default: 3600)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which speech, and where k-means starts (default: 0)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the labels: task.label_dir")


def run(args: argparse.Namespace) -> None:
    """Fit, label, write."""
    manifests = [read_manifest(path) for path in args.manifests]
    teacher = load_encoder(args.teacher)
    _check_numbers(args, teacher)
    check_folder(args.out, manifests)
    layer_frames = LayerFrames(teacher, args.layer)
    fit = fit_units(layer_frames, args.manifests[0], args.seconds, args.clusters, args.seed)
    rate = frame_rate(teacher.cfg)
    settings = {
        "teacher": identify(args.teacher, teacher),
        "layer": args.layer,
        "clusters": args.clusters,
        "seed": args.seed,
        "frames_per_second": rate,
        "fit": fit.facts,
    }
    labelled = write_units(args.out, Labeller(layer_frames, fit.kmeans), manifests, settings)
    print(f"units       {args.clusters} of layer {args.layer} of {args.teacher}")
    print("\n".join(_describe(fit, manifests, labelled)))
    labels = f"task.label_dir={args.out.resolve()} task.labels=[{LABEL_ENDING}] task.label_rate={rate:g}"
    print(f"written to {args.out}: {labels} task.sample_rate={teacher.cfg.sample_rate}")


def _check_numbers(args: argparse.Namespace, teacher: SpeechEncoder) -> None:
    if not 0 <= args.layer <= teacher.depth:
        raise UserError(f"--layer {args.layer}: {args.teacher} has layers 1 to {teacher.depth}, and 0 enters the first")
    if args.clusters < 2:
        raise UserError(f"--clusters {args.clusters}: must be at least 2")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: must be from 0 to {2**32 - 1}")


def _describe(fit: Fit, manifests: Sequence[Manifest], labelled: Sequence[Labelled]) -> List[str]:
    """What k-means saw, and what was labelled."""
    lines = [
        f"fitted on   {fit.facts['frames']:,} frames of {fit.facts['seconds']:.0f} s in {fit.facts['manifest']}, "
        f"{fit.facts['inertia_per_frame']:.4g} squared distance per frame"
    ]
    for manifest, done in zip(manifests, labelled):
        line = f"{label_file(manifest):<12}{done.rows:,} rows, {done.counts.sum():,} frames"
        if done.unreadable:
            line += f"; {len(done.unreadable)} of them cannot be used and have unit silence"
        if done.too_short:
            line += f"; {done.too_short} too short for a frame"
        lines.append(line)
    counts = np.sum([done.counts for done in labelled], axis=0)
    largest = counts.max() / counts.sum()
    lines.append(
        f"used        {np.count_nonzero(counts)} of {len(counts)} units, the largest for {largest:.1%} of the frames"
    )
    return lines
