"""Measure what a model reaches on labelled speech.

probe   a frozen encoder: a linear probe on its features for keywords or speakers, and speaker verification
heads   a model fine-tuned as speech_multitask: what its own heads reach
ctc     a model that fairseq fine-tuned by CTC: word and character error rates
"""

import argparse
import json
from typing import List, Optional

from ..subcommands import add_subcommands
from . import ctc, heads, probe

HELP = "what a model reaches on labelled speech: a probe on frozen features, fine-tuned heads, or word errors"
EPILOG = """\
examples:
  fairseq-distill evaluate probe hubert_base_ls960.pt --data manifests/keywords
  fairseq-distill evaluate heads tuned/checkpoint_best.pt --data manifests/keywords
  fairseq-distill evaluate ctc tuned/checkpoint_best.pt --data manifests/librispeech --split test

`fairseq-distill evaluate probe --help` tells what files a probe needs, and so do heads and ctc.
"""
# Each module has, beside what `add_subcommands` needs, measure(args) -> result and format_result(result) -> text.
_KINDS = {"probe": probe, "heads": heads, "ctc": ctc}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a subcommand for each kind of evaluation."""
    add_subcommands(parser, "kind", _KINDS)


def run(args: argparse.Namespace) -> None:
    """Evaluate, and print the result on stdout."""
    kind = _KINDS[args.kind]
    result = kind.measure(args)
    print(json.dumps(result) if args.json else kind.format_result(result))


def translate_old_form(words: List[str]) -> Optional[List[str]]:
    """For `evaluate CKPT`, with --heads, --ctc or neither, as version 0.1.0 took it: the new form's words."""
    if not words or words[0] in (*_KINDS, "-h", "--help"):
        return None
    kind = "heads" if "--heads" in words else "ctc" if "--ctc" in words else "probe"
    return [kind, *(word for word in words if word not in ("--heads", "--ctc"))]
