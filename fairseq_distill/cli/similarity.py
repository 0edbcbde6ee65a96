"""Compare every hidden state of a student (rows) with every one of its teacher (columns) on the same speech.

Widths and depths may differ, as linear CKA needs no common axes; frame rates may not. The comparison says which
layers of a deep or a wide student took over what from which layers of the teacher.
"""

import argparse
import json
from pathlib import Path
from typing import List

from ..checkpoints.reading import load_encoder
from ..data.speech_sample import SpeechSample
from ..layer_clusters.fingerprint import identify
from ..layer_clusters.pictures import draw_similarity
from ..layer_clusters.similarity import Similarity, compare_encoders
from .clusters import SAMPLE_RANGES, add_sample_arguments, describe_comparison
from .numbers import check_numbers

HELP = "layer by layer, how alike two encoders are"

EPILOG = """\
MANIFEST is fairseq's audio manifest: the audio root, then PATH<TAB>SAMPLES a line, at the encoders' sample
rate. Utterances are drawn at random, one at a time; of one longer than 20 s, 20 s are taken.

example:
  fairseq-distill similarity checkpoints/checkpoint_best.pt hubert_base_ls960.pt valid.tsv --plot map.png

Layer 0 is what enters the first transformer layer, l is layer l's output.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and its help."""
    parser.add_argument("student", metavar="STUDENT", type=Path, help="any checkpoint that fairseq-distill info reads")
    parser.add_argument("teacher", metavar="TEACHER", type=Path, help="another one")
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="speech, such as valid.tsv")
    add_sample_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the map (.png, .pdf, .svg)")


def run(args: argparse.Namespace) -> None:
    """Compare, print, draw."""
    check_numbers(args, **SAMPLE_RANGES)
    student, teacher = load_encoder(args.student), load_encoder(args.teacher)
    sample = SpeechSample(args.manifest, args.seconds, args.seed, student.cfg, teacher.cfg)
    similarity = compare_encoders(student, teacher, sample, args.measure, args.share, args.seed)
    if args.json:
        encoders = {"student": identify(args.student, student), "teacher": identify(args.teacher, teacher)}
        values = similarity.values.tolist()
        print(json.dumps({**encoders, "data": sample.describe(), **vars(similarity), "values": values}))
    else:
        names = [f"student     {args.student}, rows", f"teacher     {args.teacher}, columns"]
        print("\n".join([*names, *describe_comparison(similarity, sample), *_format_map(similarity)]))
    if args.plot:
        draw_similarity(similarity, args.plot, "student's layer", "teacher's layer")
        if not args.json:
            print(f"drawn in {args.plot}")


def _format_map(similarity: Similarity) -> List[str]:
    """A row for each of the student's hidden states, and the teacher's layer that it is most like."""
    lines = ["", "      " + "".join(f"{column:>6}" for column in range(similarity.values.shape[1])) + "   most like"]
    for number, row in enumerate(similarity.values):
        lines.append(f"{number:>6}" + "".join(f"{value:>6.2f}" for value in row) + f"{int(row.argmax()):>12}")
    return lines
