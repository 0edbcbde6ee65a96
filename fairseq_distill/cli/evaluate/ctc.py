"""Measure unit, word and character error rates of a model that fairseq fine-tuned by CTC, its own or a released one.

CKPT is a hubert_ctc or wav2vec_ctc model, of HuBERT, wav2vec 2.0, data2vec or a student, saved by any version of
fairseq. Decoding is greedy, without a language model: the likeliest token of each frame, repeats collapsed, blanks
taken out. An utterance goes through the model alone; of one over 40 s, parts of at most that. Intervals are 95 %
percentiles of 1000 bootstrap draws over utterances.
"""

import argparse
from pathlib import Path
from typing import Any, Dict

from ...errors import UserError
from ...evaluation.ctc import RATES, evaluate_ctc
from ..formatting import align, describe_interval, describe_skipped

HELP = "a model that fairseq fine-tuned by CTC: unit, word and character error rates"
EPILOG = """\
MANIFESTS is a folder with fairseq's audio manifest SPLIT.tsv (the audio root, then PATH<TAB>SAMPLES a line) and its
transcripts in the same order, SPLIT.LABELS, tokens with spaces between them: .ltr, .phn, .spm or whatever ending CKPT
was trained on (--labels chooses another); an empty line skips its utterance. Units are these tokens: letters, phonemes,
characters, pieces. Words are counted where they are marked: by | between words of letters, by \u2581 before the first
piece of a word, by @@ behind pieces that go on; or they are the tokens of .wrd. Files that cannot be used are counted;
more than 1 % of the split, rounded up to whole files, stops the command. `fairseq-distill manifest librispeech` writes
such a folder.

The tokens of CKPT's outputs stand inside it or in MANIFESTS/dict.LABELS.txt (released wav2vec 2.0), or are given by
--dict. What fairseq's task hubert_pretraining fine-tuned lacks the encoder's settings: --pretrained gives them.

examples:
  fairseq-distill evaluate ctc tuned/checkpoint_best.pt --data manifests/librispeech
  fairseq-distill evaluate ctc tuned/checkpoint_best.pt --data manifests/librispeech --split valid --show 5
  fairseq-distill evaluate ctc wav2vec_small_960h.pt --data manifests/librispeech --dict dict.ltr.txt
"""
_UNMARKED = {
    "uer": "-  (other tokens than the model's)",
    "wer": "-  (no words are marked)",
    "cer": "-  (no words that are spelled)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a model fine-tuned by CTC")
    parser.add_argument(
        "--data", metavar="MANIFESTS", type=Path, required=True, help="folder of manifests and transcripts"
    )
    parser.add_argument("--split", default="test", help="which manifest (default: test)")
    parser.add_argument("--labels", help="ending of the transcripts (default: that of CKPT's training)")
    parser.add_argument(
        "--dict",
        dest="dictionary",
        metavar="FILE",
        type=Path,
        help="fairseq's dictionary of CKPT's tokens (default: inside CKPT, or MANIFESTS/dict.LABELS.txt)",
    )
    parser.add_argument(
        "--pretrained",
        metavar="FILE",
        type=Path,
        help="checkpoint that CKPT was fine-tuned from, for a CKPT without the settings of its encoder",
    )
    parser.add_argument("--show", metavar="N", type=int, help="print the N worst utterances and N random ones too")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def measure(args: argparse.Namespace) -> Dict[str, Any]:
    """The result, as `--json` prints it."""
    if args.show is not None and args.show < 1:
        raise UserError(f"--show {args.show}: give a number of utterances, at least 1")
    return evaluate_ctc(
        args.checkpoint, args.data, args.split, args.labels, args.show or 0, args.dictionary, args.pretrained
    )


def format_result(result: Dict[str, Any]) -> str:
    """The result of `evaluate_ctc` for people: a line for each figure, then the examples."""
    counted = {"units": result["unit"], "words": "words"}
    sizes = ", ".join(f"{result[count]} {name}" for count, name in counted.items() if result[count] is not None)
    lines = {
        "checkpoint": result["checkpoint"],
        "data": f"{result['data']}, {result['split']}.tsv and {result['split']}.{result['labels']}",
        "utterances": f"{result['utterances']} ({sizes})",
        "skipped": describe_skipped(result["skipped"]),
    }
    if result["unknown_units"]:
        lines["unknown"] = f"{result['unknown_units']} {result['unit']} are not in the model's dictionary"
    for rate in RATES:
        lines[rate.upper()] = _describe_rate(result, rate)
    table = align({**lines, "time": f"{result['seconds']} s"})
    for name in ("worst", "random"):
        for example in result.get(name, ()):
            table.append(f"\n{name}: {example['path']}, {_describe_errors(example, result['unit'])}")
            table += [f"  said        {example['reference']}", f"  recognised  {example['hypothesis']}"]
    return "\n".join(table)


def _describe_rate(result: Dict[str, Any], rate: str) -> str:
    if result[rate] is None:
        return _UNMARKED[rate]
    unit = f" of {result['unit']}" if rate == "uer" else ""
    return f"{result[rate]:.1%}{unit} ({describe_interval(result[f'{rate}_interval'])})"


def _describe_errors(example: Dict[str, Any], unit: str) -> str:
    if example["words"] is None:
        return f"{example['unit_errors']} errors in {example['units']} {unit}"
    return f"{example['word_errors']} errors in {example['words']} words"
