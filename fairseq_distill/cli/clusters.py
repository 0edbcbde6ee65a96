"""Compare the layers of a teacher on your speech, and group those that are similar.

Every two hidden states are compared by linear CKA, on a random part of their frames; the layers are clustered bottom-up
by 1 - similarity. The table shows the groups for every number of clusters and the mean silhouette of each; nothing is
chosen unless --clusters or --height says so. This is the idea of SKILL (arXiv 2402.16830), whose own linkage, data and
clusters we do not know: groups found here are your data's.
"""

import argparse
from pathlib import Path
from typing import Dict, List

from ..checkpoints.reading import load_encoder
from ..data.speech_sample import SpeechSample
from ..encoder.layer_groups import format_groups
from ..layer_clusters import LINKAGES
from ..layer_clusters.clustering import (
    LayerClusters,
    cluster_layers,
    cut,
    list_clustered_layers,
    score_cuts,
    suggest_clusters,
)
from ..layer_clusters.fingerprint import identify
from ..layer_clusters.pictures import TITLES, draw_clusters
from ..layer_clusters.similarity import MEASURES, SHARE, Similarity, compute_similarity
from ..layer_clusters.storage import write_clusters
from ..run.ranges import COUNT, NOT_NEGATIVE, POSITIVE, Range
from .formatting import align
from .numbers import SEED, check_numbers

HELP = "similarities of a teacher's layers, their tree of clusters, and groups of layers to distil from"
SAMPLE_RANGES = {"seconds": POSITIVE, "share": Range(0, 1, above=True), "seed": SEED}
CRITERION = "highest mean silhouette"

EPILOG = """\
MANIFEST is fairseq's audio manifest: the audio root, then PATH<TAB>SAMPLES a line, at the teacher's sample
rate. Utterances are drawn at random, one at a time; of one longer than 20 s, 20 s are taken.

examples:
  fairseq-distill clusters hubert_base_ls960.pt train.tsv --plot clusters.png
  fairseq-distill clusters hubert_base_ls960.pt train.tsv --clusters 4 --adjacent --out clusters.json

Layer 0 is what enters the first transformer layer, l is layer l's output. Projection-weighted CCA is not offered: no
maintained library has it in a form that streams.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and its help."""
    parser.add_argument("teacher", metavar="TEACHER", type=Path, help="any checkpoint that fairseq-distill info reads")
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="speech, such as train.tsv")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--clusters", metavar="K", type=int, help="cut the tree into K groups")
    where.add_argument("--height", metavar="H", type=float, help="cut it at a height: 1 - similarity")
    parser.add_argument(
        "--linkage",
        choices=LINKAGES,
        default="average",
        help="distance of two clusters (default: average); ward's heights are sqrt(2 (1 - similarity))",
    )
    parser.add_argument("--adjacent", action="store_true", help="merge only neighbouring layers: groups without gaps")
    parser.add_argument("--include-layer0", action="store_true", help="cluster layer 0 too, the first layer's input")
    add_sample_arguments(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, help="write matrix, tree, groups and settings (JSON)")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw matrix and tree (.png, .pdf, .svg)")


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say what is compared, and how."""
    parser.add_argument(
        "--measure",
        choices=MEASURES,
        default="cka",
        help="linear CKA, its debiased form for few frames, or the mean cosine (default: cka)",
    )
    parser.add_argument("--seconds", metavar="N", type=float, default=600.0, help="speech to read (default: 600)")
    parser.add_argument(
        "--share", metavar="P", type=float, default=SHARE, help=f"chance of a frame to be compared (default: {SHARE})"
    )
    parser.add_argument("--seed", type=int, default=0, help="which utterances and frames (default: 0)")


def run(args: argparse.Namespace) -> None:
    """Compare, cluster, print, write, draw."""
    check_numbers(args, **SAMPLE_RANGES, clusters=COUNT, height=NOT_NEGATIVE)
    teacher = load_encoder(args.teacher)
    sample = SpeechSample(args.manifest, args.seconds, args.seed, teacher.cfg)
    list_clustered_layers(teacher.depth, args.clusters, args.height, args.include_layer0)  # told now, not after minutes
    similarity = compute_similarity(teacher, sample, args.measure, args.share, args.seed)
    found = cluster_layers(
        similarity, args.clusters, args.height, args.linkage, args.adjacent, include_layer0=args.include_layer0
    )
    scores = score_cuts(found)
    found.about = {
        "teacher": identify(args.teacher, teacher),
        "data": sample.describe(),
        "suggestion": {
            "clusters": suggest_clusters(scores),
            "criterion": CRITERION,
            "scores": {str(clusters): score for clusters, score in scores.items()},
        },
    }
    lines = [f"teacher     {args.teacher}", *describe_comparison(similarity, sample), *_describe_cuts(found, scores)]
    print("\n".join(lines))
    if args.out:
        write_clusters(args.out, found)
        print(f"written to {args.out}")
    if args.plot:
        draw_clusters(found, args.plot)
        print(f"drawn in {args.plot}")


def describe_comparison(similarity: Similarity, sample: SpeechSample) -> List[str]:
    """What was compared, by what."""
    about = sample.describe()
    utterances = f"{about['utterances']} utterances of {about['manifest']}"
    return [
        f"speech      {about['seconds']:.0f} s in {utterances}, seed {similarity.seed}",
        f"frames      {similarity.frames:,} of {similarity.seen:,}, drawn with probability {similarity.share:g}",
        f"similarity  {TITLES[similarity.measure]}",
    ]


def _describe_cuts(found: LayerClusters, scores: Dict[int, float]) -> List[str]:
    """A row for each number of clusters, the suggestion, and what was asked for."""
    which = "neighbouring layers only" if found.adjacent else "any layers"
    lines = [f"clusters    of layers {found.layers[0]} to {found.layers[-1]}, {found.linkage} linkage, {which}", ""]
    lines.append(f"{'clusters':>8}{'silhouette':>12}{'height':>8}  groups")
    for clusters in range(1, len(found.layers) + 1):
        score = f"{scores[clusters]:.3f}" if clusters in scores else "-"
        merges = len(found.layers) - clusters
        height = found.tree[merges - 1, 2] if merges else 0.0
        lines.append(f"{clusters:>8}{score:>12}{height:>8.3f}  {format_groups(cut(found, clusters))}")
    suggested = suggest_clusters(scores)
    why = f"{suggested} clusters, for the {CRITERION}" if suggested else "none: too few layers"
    uncut = "none: the tree was not cut, choose by --clusters or --height"
    groups = uncut if found.groups is None else format_groups(found.groups)
    return [*lines, "", *align({"suggested": why, "groups": groups})]
