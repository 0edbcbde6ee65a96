"""Measure the heads of a model that was fine-tuned as speech_multitask (recipes in config/finetune).

Each head that MANIFESTS has labels for is measured: accuracy and macro F1 of a classification; equal error rate and
minimum detection costs of a verification, over all pairs of the split or those of --trials. An utterance goes through
the model alone; of one over 40 s, the encoder is given parts of at most that. Intervals are 95 % percentiles of 1000
bootstrap draws: over utterances for accuracy and macro F1, over speakers for error rates of pairs, which count as often
as their speakers are drawn.
"""

import argparse
from pathlib import Path
from typing import Any, Dict

from ...evaluation.heads import evaluate_heads
from ...multitask.model import load_multitask
from ..formatting import align, describe_costs, describe_interval, describe_pairs, describe_skipped

HELP = "a model fine-tuned as speech_multitask: its own heads"
EPILOG = """\
MANIFESTS is a folder with fairseq's audio manifest SPLIT.tsv (the audio root, then PATH<TAB>SAMPLES a line) and, for at
least one of the model's tasks, SPLIT.LABEL with one label a line in the same order; an empty line skips its utterance.
Files that cannot be used are counted; more than 1 % of the split, rounded up to whole files, stops the command.

A list of trials holds '1 PATH PATH' or '0 PATH PATH' a line (VoxCeleb), or 'PATH PATH target' or 'PATH PATH nontarget'
(Kaldi), with the paths of SPLIT.tsv.

examples:
  fairseq-distill evaluate heads tuned/checkpoint_best.pt --data manifests/keywords
  fairseq-distill evaluate heads tuned/checkpoint_best.pt --data manifests/voxceleb --trials test.trials --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a model fine-tuned as speech_multitask")
    parser.add_argument("--data", metavar="MANIFESTS", type=Path, required=True, help="folder of manifests and labels")
    parser.add_argument("--split", default="test", help="which manifest (default: test)")
    parser.add_argument(
        "--trials",
        metavar="FILE",
        type=Path,
        help="pairs of SPLIT to compare, for verification (default: all); also looked for in MANIFESTS",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def measure(args: argparse.Namespace) -> Dict[str, Any]:
    """The result, as `--json` prints it."""
    found = evaluate_heads(load_multitask(args.checkpoint), args.data, args.split, args.trials)
    return {"checkpoint": str(args.checkpoint), **found}


def format_result(result: Dict[str, Any]) -> str:
    """The result of `evaluate_heads` for people: the figures of each task."""
    table = align(
        {
            "checkpoint": result["checkpoint"],
            "data": f"{result['data']}, {result['split']}.tsv",
            "skipped": describe_skipped(result["skipped"]),
        }
    )
    for name, found in result["tasks"].items():
        table.append(f"\n{name} ({found['kind']}, {found['utterances']} utterances)")
        if found["kind"] == "classification":
            interval = describe_interval(found["accuracy_bootstrap"])
            figures = {
                "accuracy": f"{found['accuracy']:.1%} of {found['classes']} classes ({interval})",
                "macro F1": f"{found['macro_f1']:.1%} ({describe_interval(found['macro_f1_interval'])})",
            }
        else:
            interval = f"{describe_interval(found['eer_interval'])} over {found['eer_speakers']} speakers"
            skipped = f", {found['trials_skipped']} skipped" if found["trials_skipped"] else ""
            figures = {"EER": f"{found['eer']:.1%} ({interval}); {describe_pairs(found)}{skipped}"}
            figures.update(describe_costs(found))
        table += align(figures)
    return "\n".join([*table, "", *align({"time": f"{result['seconds']} s"})])
