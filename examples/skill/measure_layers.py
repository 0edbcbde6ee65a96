"""How near each of a student's layers is to the same layer of its teacher, distilled or not.

    python3 measure_layers.py STUDENT TEACHER TRAIN.tsv VALID.tsv [--seconds 600]

A linear map with bias from the student's layer l to the teacher's (from the layer at the same relative depth, if the
depths differ) is fitted by least squares on speech of TRAIN.tsv. Then the loss of DPHuBERT's recipe, L1 - cosine, and
the part of the teacher's variance that is missed are measured on VALID.tsv. So a layer needs no head of its own, and
all are measured alike. Prints one JSON object: the teacher's layer -> loss and missed variance.
"""

import argparse
import json
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import torch
from torch import Tensor

from fairseq_distill import load_encoder
from fairseq_distill.data.speech_sample import SpeechSample
from fairseq_distill.distillation.distances import cosine, l1
from fairseq_distill.encoder.layer_groups import match_student_layers
from fairseq_distill.encoder.model import SpeechEncoder

RIDGE = 1e-6  # of the mean square: layers of few units have singular covariances


@torch.inference_mode()
def run_both(
    student: SpeechEncoder, teacher: SpeechEncoder, manifest: Path, seconds: float
) -> Iterator[List[Tuple[Tensor, Tensor]]]:
    """By utterance and layer of the teacher: the student's state and ones, and the teacher's state, (frames, width)."""
    layers = range(1, teacher.depth + 1)
    matching = [group[0] for group in match_student_layers([[layer] for layer in layers], student.depth, teacher.depth)]
    for wave, _ in SpeechSample(manifest, seconds, 0, student.cfg, teacher.cfg):
        ones = torch.ones(0)
        pairs = []
        ours, theirs = student(wave).hidden, teacher(wave).hidden
        for mine, its in ((ours[one], theirs[other]) for one, other in zip(matching, layers)):
            ones = ones if len(ones) else mine.new_ones(mine.size(1), 1)
            pairs.append((torch.cat([mine[0], ones], dim=1), its[0]))
        yield pairs


def fit_maps(batches: Iterator[List[Tuple[Tensor, Tensor]]]) -> List[Tensor]:
    """Least-squares maps (student width + 1, teacher width) of all layers."""
    squares: List[Tensor] = []
    products: List[Tensor] = []
    for pairs in batches:
        new = [(x.double().T @ x.double(), x.double().T @ y.double()) for x, y in pairs]
        squares = [a + b[0] for a, b in zip(squares, new)] if squares else [a for a, _ in new]
        products = [a + b[1] for a, b in zip(products, new)] if products else [b for _, b in new]
    ridge = [RIDGE * s.diagonal().mean() * torch.eye(len(s), dtype=s.dtype) for s in squares]
    return [torch.linalg.solve(s + r, p).float() for s, r, p in zip(squares, ridge, products)]


def measure(batches: Iterator[List[Tuple[Tensor, Tensor]]], maps: List[Tensor]) -> Dict[int, Dict[str, float]]:
    """Mean loss over all frames, and the sum of squared errors over that of the teacher's deviations from its mean."""
    loss = [0.0] * len(maps)
    error = [0.0] * len(maps)
    sums = [torch.zeros(mapping.size(1), dtype=torch.float64) for mapping in maps]
    square = [0.0] * len(maps)
    frames = 0
    for pairs in batches:
        frames += len(pairs[0][0])
        for layer, ((x, y), mapping) in enumerate(zip(pairs, maps)):
            prediction = x @ mapping
            loss[layer] += float((l1(prediction, y) + cosine(prediction, y)).sum())
            error[layer] += float((prediction - y).double().pow(2).sum())
            sums[layer] += y.double().sum(0)
            square[layer] += float(y.double().pow(2).sum())
    result = {}
    for layer in range(len(maps)):
        deviation = square[layer] - float(sums[layer].pow(2).sum()) / frames
        result[layer + 1] = {"loss": loss[layer] / frames, "missed": error[layer] / deviation}
    return result


def main() -> None:
    """Fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("student", "teacher", "train", "valid"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seconds", type=float, default=600, help="speech to fit on, and at most to measure on")
    args = parser.parse_args()
    student, teacher = load_encoder(args.student), load_encoder(args.teacher)
    maps = fit_maps(run_both(student, teacher, args.train, args.seconds))
    print(json.dumps(measure(run_both(student, teacher, args.valid, args.seconds), maps)))


if __name__ == "__main__":
    main()
