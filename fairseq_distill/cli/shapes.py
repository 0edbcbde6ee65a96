"""List the shapes of students that fit a budget, from the deepest and thinnest to the shallowest and widest.

For every depth, FFN ratio (4, 2 or 1 times the width) and convolution stack, the width that comes closest to the budget
is sought, and kept if it fits. A shape fits if it uses up the budget within the tolerance: from 95 % to 105 % of it by
default. With both --params and --macs, that holds for the one that it uses up more; of the other it may leave any part.
Heads are as wide as the teacher's, or 64 to 32 where that does not divide the width.

Convolution stacks are the teacher's, with all its channels (whole), half or a quarter of them, and FitHuBERT's (thin):
at small budgets the convolutions are most of the MACs. Everything else is of the teacher's kind (family, norms,
positions), or HuBERT Base's without --teacher. Published students (HuBERT Base's kind) are rows too where they fit.

Of more shapes than --limit, those are shown that the field uses: published students, then three for each of the usual
depths (12, 24, 2, 6, 3, 4, 8, ... layers), with FFN 4 and all channels first. How many are left out is said.
"""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
import yaml
from tqdm import tqdm

from ..checkpoints.reading import load_encoder
from ..encoder.model import SpeechEncoder
from ..encoder.size import Size, count_size
from ..errors import UserError
from ..shapes.budget import Budget, format_amount, parse_amount, parse_depths, parse_tolerance
from ..shapes.grid import Shape, find_shapes, make_kind
from ..shapes.measure import RUNS, measure_real_time_factor
from ..shapes.overrides import list_overrides
from ..shapes.published import add_published
from ..shapes.selection import select_shapes
from ..shapes.stacks import list_stacks
from .configs import find_recipes
from .formatting import align, describe_extractor, describe_norm, describe_threads
from .numbers import check_seconds

HELP = "student shapes that fit a budget of parameters or MACs, from deep and thin to shallow and wide"
RECIPES = ("deep_12x384", "wide_3x768")  # both have the same keys of the shape
DEEPEST = 24

EPILOG = """\
Parameters are the encoder's, without heads, as DistilHuBERT and Deep versus Wide count. MACs are those of convolutions,
linear layers and attention for one wave of --seconds, divided by its length.

examples:
  fairseq-distill shapes --params 25M
  fairseq-distill shapes --params 25% --macs 50% --teacher hubert_base_ls960.pt --measure
  fairseq-distill shapes --params 12M --layers 12 --limit 0 --json
  fairseq-distill shapes --params 25M --overrides 3       # what row 3 adds to fairseq-hydra-train

Overrides are for the recipes deep_12x384 and wide_3x768. A shape with the teacher's stack starts from the teacher's
convolutions; one with another stack starts from scratch (model.init= is then empty).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and its help."""
    parser.add_argument("--params", metavar="N", help="encoder parameters, such as 25M; 25%% is of the teacher's")
    parser.add_argument("--macs", metavar="N", help="multiply-accumulates per second of audio, such as 1.5G, or 25%%")
    parser.add_argument("--teacher", metavar="CKPT", type=Path, help="any checkpoint that fairseq-distill info reads")
    parser.add_argument(
        "--layers", metavar="A-B", help=f"fewest and most layers, or one number (default: 2-{DEEPEST} or the teacher's)"
    )
    parser.add_argument("--tolerance", metavar="T", default="5%", help="how far off the budget (default: 5%%)")
    parser.add_argument("--seconds", type=float, default=10.0, help="wave that MACs and time are of (default 10)")
    parser.add_argument("--measure", action="store_true", help="time every shape shown on this CPU (random weights)")
    parser.add_argument("--limit", metavar="N", type=int, default=24, help="rows to show, 0 = all (default: 24)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object, with the overrides of every row")
    form.add_argument("--overrides", metavar="ROW", type=int, help="print only a row's hydra overrides, for a shell")


def run(args: argparse.Namespace) -> None:
    """Search and print."""
    if args.limit < 0:
        raise UserError(f"--limit {args.limit}: give a number of rows, or 0 for all")
    if args.overrides is not None and args.measure:
        raise UserError("--overrides prints no times: leave --measure out")
    teacher = load_encoder(args.teacher) if args.teacher else None
    kind = make_kind(teacher.cfg if teacher else None)
    check_seconds(args.seconds, kind)
    whole = count_size(teacher.cfg, args.seconds) if teacher else None
    if not args.params and not args.macs:
        raise UserError("there is no budget: give --params, --macs or both, such as --params 25M")
    given = zip((args.params, args.macs), ("--params", "--macs"), whole or (None, None))
    budget = Budget(*(parse_amount(text, option, of) if text else None for text, option, of in given))
    tolerance = parse_tolerance(args.tolerance)
    deepest = teacher.depth if teacher else DEEPEST
    fewest, most = parse_depths(args.layers or f"{min(2, deepest)}-{deepest}")
    depths, head_dim = range(fewest, most + 1), (teacher.cfg if teacher else kind).attention_head_dim
    found = find_shapes(kind, head_dim, depths, budget, tolerance, args.seconds)
    fitting = add_published(found.shapes, kind, depths, budget, tolerance, args.seconds)
    if not fitting:
        c = found.nearest.config
        raise UserError(
            f"no shape is within {100 * tolerance:g} % of {budget.describe()}; the nearest has "
            f"{_describe_size(found.nearest.size)}: {c.encoder_layers} layers of {c.encoder_embed_dim}, "
            f"FFN {c.encoder_ffn_embed_dim}, {found.nearest.stack} convolutions. "
            f"Change the budget, --tolerance or --layers"
        )
    rows = select_shapes(fitting, args.limit)
    recipe = yaml.safe_load((find_recipes() / f"{RECIPES[0]}.yaml").read_text())["model"]
    if args.overrides is not None:
        if not 1 <= args.overrides <= len(rows):
            raise UserError(f"--overrides {args.overrides}: there are rows 1 to {len(rows)}")
        print(" ".join(map(shlex.quote, list_overrides(rows[args.overrides - 1], recipe))))
        return

    times: List[Optional[float]] = [None] * len(rows)
    if args.measure:
        encoders = (SpeechEncoder(row.config) for row in tqdm(rows, desc="timing", unit="shape"))
        times = [measure_real_time_factor(encoder, args.seconds) for encoder in encoders]
    time = measure_real_time_factor(teacher, args.seconds) if args.measure and teacher else None
    description = {
        "budget": budget._asdict(),
        "tolerance": tolerance,
        "layers": [fewest, most],
        "kind": {name: getattr(kind, name) for name in ("family", "sample_rate", "layer_norm_first", "extractor_mode")},
        "macs_wave_seconds": args.seconds,
        "threads": torch.get_num_threads() if args.measure else None,
        "teacher": whole and {"path": str(args.teacher), **whole._asdict(), "real_time_factor": time},
        "stacks": list_stacks(kind.conv_feature_layers),
        "fitting": len(fitting),
        "left_out": len(fitting) - len(rows),
        "shapes": [_describe_row(*row, recipe) for row in zip(range(1, len(rows) + 1), rows, times)],
    }
    print(json.dumps(description, indent=2) if args.json else _format_table(description, budget))


def _describe_size(size: Size) -> str:
    return f"{format_amount(size.parameters)} parameters, {format_amount(size.macs_per_second)} MACs per second"


def _describe_row(number: int, shape: Shape, time: Optional[float], recipe: Dict[str, Any]) -> Dict[str, Any]:
    c = shape.config
    return {
        "row": number,
        "layers": c.encoder_layers,
        "width": c.encoder_embed_dim,
        "ffn": c.encoder_ffn_embed_dim,
        "heads": c.encoder_attention_heads,
        "stack": shape.stack,
        "conv_feature_layers": c.conv_feature_layers,
        **shape.size._asdict(),
        "use": shape.use,
        "real_time_factor": time,
        "known_as": list(shape.known_as),
        "overrides": list_overrides(shape, recipe),
    }


def _format_table(d: Dict[str, Any], budget: Budget) -> str:
    """The description as a table for people."""
    fewest, most = d["layers"]
    depths = f"{fewest} to {most} layers" if most > fewest else f"{most} layers"
    facts = {"budget": f"{budget.describe()}, within {100 * d['tolerance']:g} %; {depths}"}
    if d["teacher"]:
        t, kind = d["teacher"], d["kind"]
        time = f", real-time factor {t['real_time_factor']:.4f}" if t["real_time_factor"] else ""
        facts["teacher"] = f"{t['path']}: {_describe_size(Size(t['parameters'], t['macs_per_second']))}{time}"
        norm, extractor = describe_norm(kind["layer_norm_first"]), describe_extractor(kind["extractor_mode"])
        facts["kind"] = f"the teacher's: {kind['family']}, {norm}, {extractor} extractor, {kind['sample_rate']} Hz"
    else:
        facts["kind"] = "HuBERT Base's: convolutions, norms and positions (--teacher gives another)"
    facts["MACs"] = f"of one wave of {d['macs_wave_seconds']:g} s, divided by its length"
    row_format = "{row:>4}{layers:>7}{width:>6}{ffn:>6}{heads:>6}  {stack:<12}{parameters:>12}{macs_per_second:>11}"
    head = dict(row="row", layers="layers", width="width", ffn="FFN", heads="heads", stack="convolutions")
    head.update(parameters="parameters", macs_per_second="MACs/s", real_time_factor="RTF", known_as="known as")
    if d["threads"] is not None:
        facts["RTF"] = "seconds of computation per second of audio: a wave of that length, random weights,"
        facts[""] = f"{describe_threads(d['threads'])} of torch, median of {RUNS} runs"
        row_format += "{real_time_factor:>9}"
    lines = [*align(facts), "", f"{row_format}  {{known_as}}".format(**head)]
    for row in d["shapes"]:
        amounts = {name: format_amount(row[name]) for name in ("parameters", "macs_per_second")}
        time = f"{row['real_time_factor']:.4f}" if row["real_time_factor"] else ""
        cells = {**row, **amounts, "real_time_factor": time, "known_as": ", ".join(row["known_as"])}
        lines.append(f"{row_format}  {{known_as}}".format(**cells).rstrip())
    shown = len(d["shapes"])
    left_out = f"; {d['left_out']} more are left out, --limit 0 shows all" if d["left_out"] else ""
    lines += ["", f"{shown} of {d['fitting']} shapes that fit{left_out}"]
    lines += [f"{name:<12}{spec}" for name, spec in d["stacks"].items()]
    return "\n".join(lines)
