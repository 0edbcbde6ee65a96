"""`fairseq-distill evaluate`: what frozen features say of keywords or speakers, or what a fine-tuned model reaches."""

import argparse
import json
import os
from pathlib import Path
from typing import Any, Dict, List

from ..errors import UserError
from ..evaluation import ctc
from ..evaluation.evaluate import LABELS, SPLITS, evaluate
from ..evaluation.multitask import evaluate_heads
from ..multitask.model import load_multitask

HELP = "measure features by a linear probe (keywords, speakers) and verification, a fine-tuned model's heads, or its word errors"

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
in train, there is no accuracy, and the output says so. --trials gives the pairs of test instead. minDCF is the least
detection cost over all thresholds (NIST, VoxCeleb: both errors cost 1, prior of a target 0.01 and 0.05).

Intervals other than Wilson's are 95 % percentiles of 1000 bootstrap draws: over test utterances for accuracy and macro
F1, over test speakers for error rates of pairs, which count as often as their speakers are drawn.

With --heads CKPT is a speech_multitask model (recipes in config/finetune): its own heads are measured, accuracy and macro F1
of classifications, equal error rate and minDCF of verifications, over all pairs of the split or --trials.

With --ctc CKPT is a hubert_ctc or wav2vec_ctc model that fairseq fine-tuned (recipes ctc_letters, ctc_pieces): word and
character error rate of greedy decoding, without a language model.
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

A list of trials holds '1 PATH PATH' or '0 PATH PATH' a line (VoxCeleb), or 'PATH PATH target' or 'PATH PATH nontarget'
(Kaldi), with the paths of test.tsv. For --ctc MANIFESTS holds SPLIT.tsv and its transcripts, SPLIT.ltr (letters, with |
behind each word) or SPLIT.spm (sentencepiece's pieces).

    fairseq-distill evaluate student.pt --data manifests/voxceleb --label speaker --trials test.trials
    fairseq-distill evaluate tuned/checkpoint_best.pt --heads --data manifests/keywords
    fairseq-distill evaluate tuned/checkpoint_best.pt --ctc --data manifests/librispeech --split test --show 5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and its help."""
    parser.description = _DESCRIPTION  # more than the docstring that the command line takes by default
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a checkpoint of a teacher or of a student")
    parser.add_argument("--data", metavar="MANIFESTS", type=Path, required=True, help="folder of manifests and labels")
    parser.add_argument("--label", choices=LABELS, help="what to predict (default: keyword)")
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
    tuned = parser.add_argument_group("fine-tuned models")
    tuned.add_argument("--heads", action="store_true", help="CKPT is fine-tuned as speech_multitask: measure its heads")
    tuned.add_argument("--split", help="with --heads or --ctc: which manifest (default: test)")
    recognition = parser.add_argument_group("speech recognition")
    recognition.add_argument("--ctc", action="store_true", help="CKPT is fine-tuned by CTC: measure its word errors")
    recognition.add_argument(
        "--labels", choices=ctc.LABELS, help="ending of the transcripts (default: that of CKPT's training)"
    )
    recognition.add_argument("--show", metavar="N", type=int, help="print the N worst utterances and N random ones too")


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the result on stdout."""
    check_options(args)
    if args.heads:
        model = load_multitask(args.checkpoint)
        found = evaluate_heads(model, args.data, args.split or "test", args.trials)
        result = {"checkpoint": str(args.checkpoint), **found}
        print(json.dumps(result) if args.json else format_heads(result))
        return 0
    if args.ctc:
        result = ctc.evaluate_ctc(args.checkpoint, args.data, args.split or "test", args.labels, args.show or 0)
        print(json.dumps(result) if args.json else format_recognition(result))
        return 0
    label = args.label or "keyword"
    result = evaluate(args.checkpoint, args.data, label, args.cache, args.random_weights, args.trials)
    print(json.dumps(result) if args.json else format_table(result))
    return 0


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that the chosen evaluation would not look at."""
    if args.heads and args.ctc:
        raise UserError("--heads and --ctc are for different models: give the one that CKPT is")
    kind = "--heads" if args.heads else "--ctc" if args.ctc else "a probe"
    used = {"--heads": ("trials", "split"), "--ctc": ("split", "labels", "show")}.get(
        kind, ("label", "trials", "random_weights")
    )
    options = ("label", "trials", "random_weights", "split", "labels", "show")
    given = [f"--{name.replace('_', '-')}" for name in options if name not in used and getattr(args, name) is not None]
    if given:
        raise UserError(f"{', '.join(given)} cannot go with {kind}; see fairseq-distill evaluate --help")
    if args.show is not None and args.show < 1:
        raise UserError(f"--show {args.show}: give a number of utterances, at least 1")


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
        lines["accuracy"] = (
            f"{result['accuracy']:.1%} on test ({_interval(result['accuracy_interval'])}, "
            f"chance {result['chance']:.1%}); {result['valid_accuracy']:.1%} on valid, "
            f"with L2 strength {result['l2']:g} chosen there"
        )
        lines["macro F1"] = f"{result['macro_f1']:.1%} on test ({_interval(result['macro_f1_interval'])})"
        columns["weight"] = [f"{weight:.3f}" for weight in result["layer_weights"]]
    if result["eer"] is not None:
        pairs = f"{result['same_pairs']} pairs of the same speaker, {result['different_pairs']} of different ones"
        if result["trials"]:
            pairs += f", of {result['trials']} ({result['trials_skipped']} skipped)"
        lines["EER"] = f"{result['eer']:.1%} ({result['eer_layers']}); {pairs}"
        lines[""] = f"{_interval(result['eer_interval'])} over {result['eer_speakers']} speakers"
        for p, cost in result["min_dcf"].items():
            low, high = result["min_dcf_interval"][p]
            lines[f"minDCF {p}"] = f"{cost:.3f} (95 % interval {low:.3f} to {high:.3f})"
        columns["EER"] = [f"{rate:.1%}" for rate in result["eer_per_layer"]]
    elif result["label"] == "speaker":
        lines["EER"] = f"none: {result['eer_reason']}"
    lines["time"] = f"{result['seconds']} s"
    table = _align(lines)
    table.append("".join(f"{head:>8}" for head in ["layer", *columns]))
    for number, cells in enumerate(zip(*columns.values())):
        table.append("".join(f"{cell:>8}" for cell in [str(number), *cells]))
    return "\n".join(table)


def format_heads(result: Dict[str, Any]) -> str:
    """The result of `evaluate_heads` for people: the figures of each task."""
    skipped = ", ".join(f"{n} {why}" for why, n in result["skipped"].items() if n)
    lines = {
        "checkpoint": result["checkpoint"],
        "data": f"{result['data']}, {result['split']}.tsv",
        "skipped": skipped or "none",
    }
    table = _align(lines)
    for name, found in result["tasks"].items():
        table.append(f"\n{name} ({found['kind']}, {found['utterances']} utterances)")
        if found["kind"] == "classification":
            figures = {
                "accuracy": f"{found['accuracy']:.1%} of {found['classes']} classes ({_interval(found['accuracy_bootstrap'])})",
                "macro F1": f"{found['macro_f1']:.1%} ({_interval(found['macro_f1_interval'])})",
            }
        else:
            pairs = f"{found['same_pairs']} pairs of the same speaker, {found['different_pairs']} of different ones"
            skipped_pairs = f", {found['trials_skipped']} skipped" if found["trials_skipped"] else ""
            speakers = f"over {found['eer_speakers']} speakers"
            figures = {
                "EER": f"{found['eer']:.1%} ({_interval(found['eer_interval'])} {speakers}); {pairs}{skipped_pairs}"
            }
            for p, cost in found["min_dcf"].items():
                low, high = found["min_dcf_interval"][p]
                figures[f"minDCF {p}"] = f"{cost:.3f} (95 % interval {low:.3f} to {high:.3f})"
        table += _align(figures)
    return "\n".join([*table, "", *_align({"time": f"{result['seconds']} s"})])


def format_recognition(result: Dict[str, Any]) -> str:
    """The result of `evaluate_ctc` for people: a line for each figure, then the examples."""
    skipped = ", ".join(f"{n} {why}" for why, n in result["skipped"].items() if n)
    table = _align(
        {
            "checkpoint": result["checkpoint"],
            "data": f"{result['data']}, {result['split']}.tsv and {result['split']}.{result['labels']}",
            "utterances": f"{result['utterances']} ({result['words']} words)",
            "skipped": skipped or "none",
            "WER": f"{result['wer']:.1%} ({_interval(result['wer_interval'])})",
            "CER": f"{result['cer']:.1%} ({_interval(result['cer_interval'])})",
            "time": f"{result['seconds']} s",
        }
    )
    for name in ("worst", "random"):
        for example in result.get(name, ()):
            table.append(f"\n{name}: {example['path']}, {example['word_errors']} errors in {example['words']} words")
            table += [f"  said        {example['reference']}", f"  recognised  {example['hypothesis']}"]
    return "\n".join(table)


def _align(lines: Dict[str, str]) -> List[str]:
    """Name and text of each figure, a line each."""
    return [f"{name:<12}{text}" for name, text in lines.items()]


def _interval(interval: List[float]) -> str:
    """An interval of rates in words."""
    low, high = (100 * end for end in interval)
    return f"95 % interval {low:.1f} to {high:.1f}"
