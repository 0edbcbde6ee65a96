"""Measure word and character error rates of a model that fairseq fine-tuned by CTC (recipes ctc_letters, ctc_pieces).

CKPT is a hubert_ctc or wav2vec_ctc model. Decoding is greedy, without a language model: the likeliest token of each
frame, repeats collapsed, blanks taken out. An utterance goes through the model alone; of one over 40 s, parts of at
most that. Intervals are 95 % percentiles of 1000 bootstrap draws over utterances.
"""

import argparse
from pathlib import Path
from typing import Any, Dict

from ...errors import UserError
from ...evaluation.ctc import TRANSCRIPT_ENDINGS, evaluate_ctc
from ..formatting import align, describe_interval, describe_skipped

HELP = "a model that fairseq fine-tuned by CTC: word and character error rates"
EPILOG = """\
MANIFESTS is a folder with fairseq's audio manifest SPLIT.tsv (the audio root, then PATH<TAB>SAMPLES a line) and its
transcripts in the same order: SPLIT.ltr (letters, with | behind each word) or SPLIT.spm (sentencepiece's pieces); an
empty line skips its utterance. Files that cannot be used are counted; more than 1 % of the split, rounded up to whole
files, stops the command. `fairseq-distill manifest librispeech` writes such a folder.

examples:
  fairseq-distill evaluate ctc tuned/checkpoint_best.pt --data manifests/librispeech
  fairseq-distill evaluate ctc tuned/checkpoint_best.pt --data manifests/librispeech --split valid --show 5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a model fine-tuned by CTC")
    parser.add_argument(
        "--data", metavar="MANIFESTS", type=Path, required=True, help="folder of manifests and transcripts"
    )
    parser.add_argument("--split", default="test", help="which manifest (default: test)")
    parser.add_argument(
        "--labels", choices=TRANSCRIPT_ENDINGS, help="ending of the transcripts (default: that of CKPT's training)"
    )
    parser.add_argument("--show", metavar="N", type=int, help="print the N worst utterances and N random ones too")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def measure(args: argparse.Namespace) -> Dict[str, Any]:
    """The result, as `--json` prints it."""
    if args.show is not None and args.show < 1:
        raise UserError(f"--show {args.show}: give a number of utterances, at least 1")
    return evaluate_ctc(args.checkpoint, args.data, args.split, args.labels, args.show or 0)


def format_result(result: Dict[str, Any]) -> str:
    """The result of `evaluate_ctc` for people: a line for each figure, then the examples."""
    table = align(
        {
            "checkpoint": result["checkpoint"],
            "data": f"{result['data']}, {result['split']}.tsv and {result['split']}.{result['labels']}",
            "utterances": f"{result['utterances']} ({result['words']} words)",
            "skipped": describe_skipped(result["skipped"]),
            "WER": f"{result['wer']:.1%} ({describe_interval(result['wer_interval'])})",
            "CER": f"{result['cer']:.1%} ({describe_interval(result['cer_interval'])})",
            "time": f"{result['seconds']} s",
        }
    )
    for name in ("worst", "random"):
        for example in result.get(name, ()):
            table.append(f"\n{name}: {example['path']}, {example['word_errors']} errors in {example['words']} words")
            table += [f"  said        {example['reference']}", f"  recognised  {example['hypothesis']}"]
    return "\n".join(table)
