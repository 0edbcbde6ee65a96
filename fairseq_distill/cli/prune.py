"""Cut what closed gates have switched off out of a student that was trained with model.prune."""

import argparse
from pathlib import Path
from typing import Dict, List

import torch

from ..checkpoints.reading import build_encoder, read_checkpoint
from ..checkpoints.saving import save_pruned
from ..encoder.anatomy import Axis
from ..encoder.config import PRUNABLE, count_places
from ..encoder.model import SpeechEncoder
from ..encoder.size import count_size
from ..errors import UserError
from ..pruning.picture import draw_shapes
from ..pruning.surgery import prune_encoder
from .formatting import align

HELP = "cut closed gates out of a student of stage 1: a smaller student with the same features"
EPILOG = """examples:
  fairseq-distill prune checkpoints/checkpoint_last.pt pruned.pt --plot pruned.png
  fairseq-hydra-train --config-dir config/distill --config-name dphubert_stage2 model.init=/path/pruned.pt ...

Gates that are open are multiplied into the weights that read them, closed ones are cut out. On noise the smaller
student's features are compared with the gated one's; nothing is written if they differ by more than 1e-4 of their size.
Distillation heads are kept for stage 2."""

TOLERANCE = 1e-4
_SECONDS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fairseq-distill prune`."""
    parser.add_argument(
        "checkpoint", metavar="STAGE1.pt", help="a student trained with model.prune, or fine-tuned since"
    )
    parser.add_argument("output", metavar="OUT.pt", type=Path, help="where to write the smaller student")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw what is left of each layer (.png, .pdf, .svg)")


def run(args: argparse.Namespace) -> None:
    """Prune, check, write, and print what is left."""
    checkpoint = read_checkpoint(args.checkpoint)
    gated = build_encoder(checkpoint)
    if gated.gates is None:
        raise UserError(
            f"{args.checkpoint} has no gates to cut: train it with model.prune, as config/distill/dphubert.yaml does"
        )
    try:
        pruned = prune_encoder(gated)
    except UserError as error:
        raise UserError(f"{args.checkpoint}: {error}") from error
    small = SpeechEncoder(pruned.config).eval()
    small.load_state_dict(pruned.weights)
    small.normalize_input = gated.normalize_input
    difference = compare_features(gated, small)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{args.checkpoint}: pruned features differ from the gated ones by {difference:.1e} of their size, more "
            f"than {TOLERANCE:g}; {args.output} is not written"
        )
    if args.plot:
        draw_shapes(checkpoint.config, pruned.config, args.plot)
    save_pruned(args.output, checkpoint, pruned)
    print(format_table(gated, small))
    print(f"\nlargest difference from the gated features, on {_SECONDS} s of noise: {difference:.1e} of their size")
    print(f"written to {args.output}" + (f", drawn in {args.plot}" if args.plot else ""))


@torch.no_grad()
def compare_features(one: SpeechEncoder, other: SpeechEncoder) -> float:
    """Largest relative difference (norm of the difference by norm) over all hidden states, for two waves of noise."""
    waves = torch.randn(2, _SECONDS * one.cfg.sample_rate, generator=torch.Generator().manual_seed(0))
    padding_mask = torch.zeros(waves.shape, dtype=torch.bool)
    padding_mask[1, waves.size(1) // 2 :] = True
    a, b = (encoder(waves.masked_fill(padding_mask, 0), padding_mask=padding_mask) for encoder in (one, other))
    states = ([x[~a.padding_mask] for x in (*output.hidden, output.x, output.features)] for output in (a, b))
    return float(torch.stack([(x - y).norm() / x.norm() for x, y in zip(*states)]).max())  # not a number stays one


def format_table(before: SpeechEncoder, after: SpeechEncoder) -> str:
    """What is left, for people: channels, then heads and FFN neurons of each layer, then the size."""
    old, new = before.cfg, after.cfg
    left: Dict[str, List[str]] = {}  # of each convolution and layer
    was, now = count_places(old), count_places(new)
    for name, kind in PRUNABLE.items():
        if not kind.whole:
            for axis, (a, b) in zip((Axis(name, i) for i in range(len(was[name]))), zip(now[name], was[name])):
                left.setdefault(axis.place, []).append(f"{a} of {b} {kind.what}")
    (a, macs), (b, all_macs) = count_size(new), count_size(old)
    facts = {place: ", ".join(parts) for place, parts in left.items()}
    facts["parameters"] = f"{a:,} of {b:,}, sparsity {1 - a / b:.3f}"
    facts["MACs/s"] = f"{macs / 1e6:,.1f} of {all_macs / 1e6:,.1f} M, sparsity {1 - macs / all_macs:.3f}"
    return "\n".join(align(facts))
