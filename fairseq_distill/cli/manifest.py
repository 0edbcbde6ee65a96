"""`fairseq-distill manifest`: fairseq manifests, labels and official splits of an unpacked corpus."""

import argparse
from pathlib import Path
from typing import Any, Optional

from ..corpora import librispeech, speech_commands, voxceleb
from ..corpora.output import NewFolder, Report, make_folder
from ..errors import UserError

HELP = "write manifests and labels of Speech Commands, VoxCeleb1 or LibriSpeech from an unpacked download"

_DESCRIPTION = """\
Write what training and evaluation read, from a corpus as its download unpacks: for train, valid and test a manifest
SPLIT.tsv (the audio root, then PATH<TAB>SAMPLES a line) and, in the same order, a file for each kind of label
(SPLIT.keyword, SPLIT.speaker, SPLIT.ltr ...), one label a line, empty where there is none.

Every file's header is read. What is not 16 kHz mono, is shorter than 25 ms or cannot be read is left out, and counted
in the table that is printed. OUT is new or empty; it appears at the end, whole, or not at all. The same corpus gives
the same files. Audio stays where it is: manifests hold absolute paths to DIR.
"""

EPILOG = """\
examples:
  fairseq-distill manifest speech-commands speech_commands_v0.02 --out keywords
  fairseq-distill manifest voxceleb VoxCeleb1 --trials veri_test2.txt --out speakers
  fairseq-distill manifest librispeech LibriSpeech --train train-clean-100 --pieces 1000 --out letters

`fairseq-distill manifest CORPUS --help` tells what a corpus must look like and what is written.
"""

_SPEECH_COMMANDS = """\
Writes train, valid and test with .keyword and .speaker, by the two official lists. Of other words, train has all; valid
and test have a tenth of the ten words' utterances, as in the corpus' recipe, so that accuracies compare with published
ones. Silence is a tenth, too, of every split: pieces of a second in OUT/silence, cut from the first 80 % of each noise
for train, the next 10 % for valid and the last 10 % for test; pieces of one split overlap where there are many. Do not
move OUT afterwards: the manifests name these pieces by absolute paths.

example, with the test set that the corpus' authors publish:
  fairseq-distill manifest speech-commands v0.02 --test-set speech_commands_test_set_v0.02 --out keywords
"""

_VOXCELEB = """\
Writes train, valid and test with .speaker. For verification (the default) test has the speakers of the trial list, or
without one id10270 to id10309; train and valid have all others, valid the last video of each that has several, in the
alphabet. test.trials holds the trials in VoxCeleb's own form, `LABEL ENROL TEST` a line, LABEL 1 for the same speaker
and 0 for another, both files as in test.tsv. For identification, the three parts of iden_split.txt.

example:
  fairseq-distill manifest voxceleb VoxCeleb1 --trials veri_test2.txt --out speakers
"""

_LIBRISPEECH = """\
Writes each split with .speaker, .wrd (words) and .ltr (letters, `|` after each word), and dict.ltr.txt; with --pieces
also .spm (sentencepiece units), dict.spm.txt and the model itself, spm.model. Units and dictionaries are those of the
training transcripts. Stock fairseq reads the folder: task._name=audio_finetuning task.data=OUT task.labels=ltr.

example:
  fairseq-distill manifest librispeech LibriSpeech --train train-clean-100 --valid dev-other --pieces 1000 --out letters
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a subcommand for each corpus."""
    parser.description = _DESCRIPTION
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    sub = _add_corpus(
        corpora, "speech-commands", "Google Speech Commands v0.01 or v0.02: keywords", speech_commands.__doc__
    )
    sub.epilog = _SPEECH_COMMANDS
    sub.set_defaults(write=_write_speech_commands)
    sub.add_argument(
        "--classes",
        choices=("12", "all"),
        default="12",
        help="12 (default): the ten keywords, _unknown_ and _silence_; all: every word its own class, no silence",
    )
    sub.add_argument(
        "--test-set",
        metavar="FOLDER",
        type=Path,
        help="unpacked speech_commands_test_set_v0.0X, as test of the 12 classes",
    )
    sub = _add_corpus(corpora, "voxceleb", "VoxCeleb1: speaker verification or identification", voxceleb.__doc__)
    sub.epilog = _VOXCELEB
    sub.set_defaults(write=_write_voxceleb)
    sub.add_argument(
        "--protocol",
        choices=("verification", "identification"),
        default="verification",
        help="verification (default): test speakers are not in train; identification: DIR/iden_split.txt",
    )
    sub.add_argument(
        "--trials", metavar="FILE", type=Path, help="trial list (default: DIR/veri_test2.txt, else DIR/veri_test.txt)"
    )
    sub = _add_corpus(corpora, "librispeech", "LibriSpeech: speech recognition", librispeech.__doc__)
    sub.epilog = _LIBRISPEECH
    sub.set_defaults(write=_write_librispeech)
    sub.add_argument("--train", metavar="SUBSET", nargs="+", help="subsets for train (default: every train-* of DIR)")
    sub.add_argument(
        "--valid", metavar="SUBSET", nargs="+", help="for valid (default: dev-clean, else the first dev-*)"
    )
    sub.add_argument(
        "--test", metavar="SUBSET", nargs="+", help="for test (default: test-clean, else the first test-*)"
    )
    sub.add_argument(
        "--pieces",
        metavar="N",
        type=int,
        help="also write units of a sentencepiece model of N pieces, <unk>, <s> and </s> among them (1000 is usual)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder, print the table; returns the exit code."""
    source = args.source.absolute()
    if not source.is_dir():
        raise UserError(f"{args.source} is no folder: give the one that the download was unpacked into")
    with make_folder(args.out) as folder:
        report = args.write(args, source, folder)
    print(report.describe())
    print(f"written to {args.out}: task.data={folder.final}")
    return 0


def _add_corpus(corpora: Any, name: str, text: str, layout: Optional[str]) -> argparse.ArgumentParser:
    sub = corpora.add_parser(name, help=text, description=layout, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub.add_argument("source", metavar="DIR", type=Path, help="the unpacked corpus")
    sub.add_argument("--out", metavar="OUT", type=Path, required=True, help="folder to write, new or empty")
    return sub


def _write_speech_commands(args: argparse.Namespace, source: Path, folder: NewFolder) -> Report:
    return speech_commands.write(source, folder, args.classes, args.test_set)


def _write_voxceleb(args: argparse.Namespace, source: Path, folder: NewFolder) -> Report:
    return voxceleb.write(source, folder, args.protocol, args.trials)


def _write_librispeech(args: argparse.Namespace, source: Path, folder: NewFolder) -> Report:
    chosen = {"train": args.train, "valid": args.valid, "test": args.test}
    return librispeech.write(source, folder, chosen, args.pieces)
