"""`fairseq-distill predict`: labels, embeddings and speaker comparison of audio files."""

import argparse
import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from tqdm import tqdm

from ..data.audio_file import BrokenAudio, read_wave
from ..encoder.pieces import LONGEST
from ..errors import UserError
from ..multitask.model import MultitaskModel, MultitaskOutput, load_multitask
from ..output.files import write_whole

HELP = "labels with probabilities, embeddings, and whether two files are of one speaker, by a fine-tuned model"
EPILOG = f"""example:
  fairseq-distill predict checkpoints/checkpoint_best.pt a.wav b.wav

CKPT is a checkpoint of speech_multitask (recipes in config/finetune). Files are at its sample rate; channels are
averaged. Each file goes through the model alone; of one over {LONGEST} s, the encoder is given parts of at most that.
Two files are compared by the cosine of their embeddings, from -1 to 1; which cosine is high enough to mean the same
speaker is found on a list of trials: fairseq-distill evaluate heads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a model fine-tuned as speech_multitask")
    parser.add_argument("files", metavar="AUDIO", nargs="+", help="audio files")
    parser.add_argument(
        "--top", metavar="N", type=int, default=3, help="how many labels to print (default: 3; --json has all)"
    )
    parser.add_argument(
        "--embed",
        metavar="OUT.npz",
        type=Path,
        help="write each task's embeddings (files, width) under its name, and 'files'",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> None:
    """Predict, and print the result."""
    if args.embed and args.embed.suffix != ".npz":
        raise UserError(f"--embed {args.embed}: the name must end in .npz")
    if args.top < 1:
        raise UserError(f"--top {args.top}: give a number of labels, at least 1")
    model = load_multitask(args.checkpoint)
    files = tqdm(args.files, desc="predicting", unit="file", delay=5, leave=False)
    outputs = [run_model(model, path) for path in files]
    result = describe(model, args.files, outputs)
    if args.embed:
        names = outputs[0].embeddings
        arrays: Dict[str, Any] = {
            name: torch.cat([output.embeddings[name] for output in outputs]).numpy() for name in names
        }
        write_whole(args.embed, lambda partial: np.savez(partial, files=np.array(args.files), **arrays))
    print(json.dumps(result) if args.json else format_result(result, args.top))


def run_model(model: MultitaskModel, path: str) -> MultitaskOutput:
    """The model's output for one audio file, which must be at the model's sample rate.

    Raises:
        UserError: the file cannot be used.
    """
    try:
        wave = read_wave(path, model.cfg.sample_rate, None, model.cfg.shortest_wave)
    except BrokenAudio as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    return model.run_wave(wave)


def describe(model: MultitaskModel, files: List[str], outputs: List[MultitaskOutput]) -> Dict[str, Any]:
    """What `--json` prints: all labels of each file and classification task, likeliest first; cosines of two files."""
    rows: List[Dict[str, Any]] = [{"file": path, "labels": {}} for path in files]
    cosines = {}
    for task in model.tasks:
        if task.kind == "classification":
            for row, output in zip(rows, outputs):
                chances = output.scores[task.name][0].softmax(-1).tolist()
                ranked = sorted(zip(chances, model.classes[task.name]), key=lambda pair: -pair[0])
                row["labels"][task.name] = {label: chance for chance, label in ranked}
        elif len(files) == 2:
            one, other = (output.embeddings[task.name] for output in outputs)
            cosines[task.name] = torch.nn.functional.cosine_similarity(one, other).item()
    return {"files": rows, "cosine": cosines}


def format_result(result: Dict[str, Any], top: int) -> str:
    """The result for people: a line for each file and task."""
    lines = []
    for row in result["files"]:
        lines.append(row["file"])
        for task, labels in row["labels"].items():
            likeliest = list(labels.items())[:top]
            lines.append(f"  {task}: " + ", ".join(f"{label} {chance:.3f}" for label, chance in likeliest))
    for task, cosine in result["cosine"].items():
        lines.append(f"{task}: cosine {cosine:.3f} between the two files")
    return "\n".join(lines)
