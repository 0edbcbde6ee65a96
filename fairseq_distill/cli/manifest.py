"""Write what training and evaluation read, from a corpus as its download unpacks.

That is, for train, valid and test, a manifest SPLIT.tsv (the audio root, then PATH<TAB>SAMPLES a line) and, in the same
order, a file for each kind of label (SPLIT.keyword, SPLIT.speaker, SPLIT.ltr ...), one label a line, empty where there
is none.

Every file's header is read. What is not mono, is at another rate than --sample-rate, is shorter than 25 ms or cannot be
read is left out, and counted in the table that is printed. OUT is new or empty; it appears at the end, whole, or not at
all. The same corpus gives the same files. Audio stays where it is: manifests hold absolute paths to DIR.
"""

import argparse
from pathlib import Path

from ..corpora import librispeech, speech_commands, voxceleb
from ..corpora.output import make_folder
from ..encoder.config import EncoderConfig
from ..errors import UserError
from .subcommands import add_subcommands

HELP = "write manifests and labels of Speech Commands, VoxCeleb1 or LibriSpeech from an unpacked download"

EPILOG = """\
examples:
  fairseq-distill manifest speech-commands speech_commands_v0.02 --out keywords
  fairseq-distill manifest voxceleb VoxCeleb1 --trials veri_test2.txt --out speakers
  fairseq-distill manifest librispeech LibriSpeech --train train-clean-100 --pieces 1000 --out letters

`fairseq-distill manifest CORPUS --help` tells what a corpus must look like and what is written.
"""

# Each module has a docstring (what the corpus must look like), HELP, EPILOG (what is written), add_arguments(parser)
# and write(args, source, folder) -> report.
_CORPORA = {"speech-commands": speech_commands, "voxceleb": voxceleb, "librispeech": librispeech}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a subcommand for each corpus."""
    add_subcommands(parser, "corpus", _CORPORA, _add_folders)


def run(args: argparse.Namespace) -> None:
    """Write the folder, print the table."""
    if args.sample_rate < 1:
        raise UserError(f"--sample-rate {args.sample_rate}: give a number of samples a second, such as 8000")
    source = args.source.absolute()
    if not source.is_dir():
        raise UserError(f"{args.source} is no folder: give the one that the download was unpacked into")
    with make_folder(args.out) as folder:
        report = _CORPORA[args.corpus].write(args, source, folder)
    print(report.describe())
    rate = "" if args.sample_rate == EncoderConfig.sample_rate else f" task.sample_rate={args.sample_rate}"
    print(f"written to {args.out}: task.data={folder.final}{rate}")


def _add_folders(parser: argparse.ArgumentParser) -> None:
    """The arguments of every corpus."""
    parser.add_argument("source", metavar="DIR", type=Path, help="the unpacked corpus")
    parser.add_argument("--out", metavar="OUT", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument(
        "--sample-rate",
        metavar="HZ",
        type=int,
        default=EncoderConfig.sample_rate,
        help="samples a second of the corpus' files, which a resampled copy changes (default: %(default)s)",
    )
