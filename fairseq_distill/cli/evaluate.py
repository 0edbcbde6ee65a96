"""`fairseq-distill evaluate`: how far a frozen encoder's features predict keywords or speakers."""

import argparse
import json
import os
from pathlib import Path
from typing import Any, Dict

from ..evaluation.evaluate import LABELS, SPLITS, evaluate

HELP = "measure an encoder's features by a linear probe (keywords, speakers) and speaker verification"

_DESCRIPTION = """\
Measure what the features of a frozen encoder are worth, the SUPERB way in small.

A softmax-weighted sum of the hidden states is averaged over time and goes to a linear classifier. Layer weights and
classifier are trained together on train; the strength of the L2 penalty is chosen on valid; the accuracy is that on
test, with its 95 % interval (Wilson). Chance is the accuracy of always naming train's commonest class. Every dimension
of every layer is standardised with train's mean and deviation first. Nothing is random.

With --label speaker there is also the equal error rate: cosine scores of all pairs of test utterances, between their
standardised, pooled and summed hidden states. If valid has speakers with several utterances, the sum is the one with
the lowest rate on valid: all layers equally, the probe's weights, or one layer. Otherwise it is all layers equally.
Every single layer's rate on test is listed beside it and never chosen by. If valid or test have speakers that are not
in train, there is no accuracy, and the output says so.
"""

EPILOG = """\
MANIFESTS is a folder with, for train, valid and test, fairseq's audio manifest SPLIT.tsv (the audio root, then
PATH<TAB>SAMPLES a line) and SPLIT.keyword or SPLIT.speaker, one label a line in the same order; an empty line skips its
utterance. Audio is 16 kHz. Files that cannot be used are counted; more than 1 % of a split, rounded up to whole files,
stops the command.

example: a teacher, its student, and the floor that the comparison stands on (the same network, untrained)

    fairseq-distill evaluate hubert_base_ls960.pt --data manifests/keywords
    fairseq-distill evaluate checkpoints/checkpoint_best.pt --data manifests/keywords
    fairseq-distill evaluate checkpoints/checkpoint_best.pt --data manifests/keywords --random-weights 1

Features are computed once for each checkpoint and manifest, and found again whichever label is asked for.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and its help."""
    parser.description = _DESCRIPTION  # more than the docstring that the command line takes by default
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a checkpoint of a teacher or of a student")
    parser.add_argument("--data", metavar="MANIFESTS", type=Path, required=True, help="folder of manifests and labels")
    parser.add_argument("--label", choices=LABELS, default="keyword", help="what to predict (default: keyword)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        type=Path,
        default=default_cache(),
        help="where pooled features are kept, 40 kB an utterance for HuBERT Base; old ones are never removed (default: "
        "fairseq-distill/features in $XDG_CACHE_HOME, which is ~/.cache if not set)",
    )
    parser.add_argument(
        "--random-weights",
        metavar="SEED",
        type=int,
        help="give the network random weights under this seed, instead of its own: what an untrained one reaches",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the result on stdout."""
    result = evaluate(args.checkpoint, args.data, args.label, args.cache, args.random_weights)
    print(json.dumps(result) if args.json else format_table(result))
    return 0


def default_cache() -> Path:
    """The folder for features where none is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairseq-distill" / "features"


def format_table(result: Dict[str, Any]) -> str:
    """The result for people: a line for each figure, then a line for each layer."""
    seed = result["random_weights"]
    skipped = [f"{n} {why} in {name}" for name in SPLITS for why, n in result["skipped"][name].items() if n]
    lines = {
        "checkpoint": result["checkpoint"] + ("" if seed is None else f", random weights under seed {seed}"),
        "data": f"{result['data']}, {result['classes']} {result['label']}s in train",
        "utterances": ", ".join(f"{name} {result[name]}" for name in SPLITS),
        "skipped": ", ".join(skipped) or "none",
    }
    columns = {}
    if result["accuracy"] is None:
        lines["accuracy"] = f"none: {result['accuracy_reason']}"
    else:
        low, high = (100 * end for end in result["accuracy_interval"])
        lines["accuracy"] = (
            f"{result['accuracy']:.1%} on test (95 % interval {low:.1f} to {high:.1f}, chance {result['chance']:.1%}); "
            f"{result['valid_accuracy']:.1%} on valid, with L2 strength {result['l2']:g} chosen there"
        )
        columns["weight"] = [f"{weight:.3f}" for weight in result["layer_weights"]]
    if result["eer"] is not None:
        lines["EER"] = (
            f"{result['eer']:.1%} ({result['eer_layers']}); "
            f"{result['same_pairs']} pairs of the same speaker, {result['different_pairs']} of different ones"
        )
        columns["EER"] = [f"{rate:.1%}" for rate in result["eer_per_layer"]]
    elif result["label"] == "speaker":
        lines["EER"] = f"none: {result['eer_reason']}"
    lines["time"] = f"{result['seconds']} s"
    table = [f"{name:<12}{text}" for name, text in lines.items()]
    table.append("".join(f"{head:>8}" for head in ["layer", *columns]))
    for number, cells in enumerate(zip(*columns.values())):
        table.append("".join(f"{cell:>8}" for cell in [str(number), *cells]))
    return "\n".join(table)
