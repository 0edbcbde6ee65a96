"""Measure a frozen encoder by a linear probe on its features: a small form of the SUPERB benchmark.

A softmax-weighted sum of the hidden states is averaged over time and goes to a linear classifier. Layer weights and
classifier are trained together on train; the strength of the L2 penalty is chosen on valid; the accuracy is that on
test, with its 95 % interval (Wilson). Chance is the accuracy of always naming train's commonest class. Every dimension
of every layer is standardised with train's mean and deviation first. Nothing is random.

With --label speaker there is also the equal error rate: cosine scores of all pairs of test utterances, between their
standardised, pooled and summed hidden states. If valid has speakers with several utterances, the sum is the one with
the lowest rate on valid: all layers equally, the probe's weights, or one layer. Otherwise it is all layers equally.
Every single layer's rate on test is listed beside it and never chosen by. If valid or test have speakers that are not
in train, there is no accuracy, and the output says so. --trials gives the pairs of test instead. minDCF is the least
detection cost over all thresholds (NIST, VoxCeleb: both errors cost 1, prior of a target 0.01 and 0.05).

Intervals other than Wilson's are 95 % percentiles of 1000 bootstrap draws: over test utterances for accuracy and macro
F1, over test speakers for error rates of pairs, which count as often as their speakers are drawn.
"""

import argparse
import os
from pathlib import Path
from typing import Any, Dict

from ...evaluation.probing import LABEL_KINDS, SPLITS, evaluate_probe
from ..formatting import align, describe_costs, describe_interval, describe_pairs
from ..numbers import SEED, check_numbers

HELP = "a frozen encoder: keywords or speakers by a linear probe, and speaker verification"
EPILOG = """\
MANIFESTS is a folder with, for train, valid and test, fairseq's audio manifest SPLIT.tsv (the audio root, then
PATH<TAB>SAMPLES a line) and SPLIT.keyword or SPLIT.speaker, one label a line in the same order; an empty line skips its
utterance. Audio is at CKPT's sample rate. Files that cannot be used are counted; more than 1 % of a split, rounded up
to whole files, stops the command. `fairseq-distill manifest` writes such a folder.

A list of trials holds '1 PATH PATH' or '0 PATH PATH' a line (VoxCeleb), or 'PATH PATH target' or 'PATH PATH nontarget'
(Kaldi), with the paths of test.tsv.

examples: a teacher, its student, and the floor that the comparison stands on (the same network, untrained)
  fairseq-distill evaluate probe hubert_base_ls960.pt --data manifests/keywords
  fairseq-distill evaluate probe checkpoints/checkpoint_best.pt --data manifests/keywords
  fairseq-distill evaluate probe checkpoints/checkpoint_best.pt --data manifests/keywords --random-weights 1
  fairseq-distill evaluate probe student.pt --data manifests/voxceleb --label speaker --trials test.trials

Features are computed once for each checkpoint and manifest, and found again whichever label is asked for. Of a wave
over 40 s, parts of at most that go through the encoder.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a checkpoint of a teacher or of a student")
    parser.add_argument("--data", metavar="MANIFESTS", type=Path, required=True, help="folder of manifests and labels")
    parser.add_argument("--label", choices=LABEL_KINDS, default="keyword", help="what to predict (default: keyword)")
    parser.add_argument(
        "--trials",
        metavar="FILE",
        type=Path,
        help="with --label speaker: pairs of test to compare (default: all); also looked for in MANIFESTS",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        type=Path,
        default=cache_home / "fairseq-distill" / "features",
        help="where pooled features are kept, 40 kB an utterance for HuBERT Base; old ones are never removed (default: "
        "fairseq-distill/features in $XDG_CACHE_HOME, which is ~/.cache if not set)",
    )
    parser.add_argument(
        "--random-weights",
        metavar="SEED",
        type=int,
        help="give the network random weights under this seed, instead of its own: what an untrained one reaches",
    )


def measure(args: argparse.Namespace) -> Dict[str, Any]:
    """The result, as `--json` prints it."""
    check_numbers(args, random_weights=SEED)
    return evaluate_probe(args.checkpoint, args.data, args.label, args.cache, args.random_weights, args.trials)


def format_result(result: Dict[str, Any]) -> str:
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
        lines["accuracy"] = (
            f"{result['accuracy']:.1%} on test ({describe_interval(result['accuracy_interval'])}, "
            f"chance {result['chance']:.1%}); {result['valid_accuracy']:.1%} on valid, "
            f"with L2 strength {result['l2']:g} chosen there"
        )
        lines["macro F1"] = f"{result['macro_f1']:.1%} on test ({describe_interval(result['macro_f1_interval'])})"
        columns["weight"] = [f"{weight:.3f}" for weight in result["layer_weights"]]
    if result["eer"] is not None:
        pairs = describe_pairs(result)
        if result["trials"]:
            pairs += f", of {result['trials']} ({result['trials_skipped']} skipped)"
        lines["EER"] = f"{result['eer']:.1%} ({result['eer_layers']}); {pairs}"
        lines[""] = f"{describe_interval(result['eer_interval'])} over {result['eer_speakers']} speakers"
        lines.update(describe_costs(result))
        columns["EER"] = [f"{rate:.1%}" for rate in result["eer_per_layer"]]
    elif result["label"] == "speaker":
        lines["EER"] = f"none: {result['eer_reason']}"
    lines["time"] = f"{result['seconds']} s"
    rows = [["layer", *columns], *([number, *cells] for number, cells in enumerate(zip(*columns.values())))]
    return "\n".join([*align(lines), *("".join(f"{cell:>8}" for cell in row) for row in rows)])
