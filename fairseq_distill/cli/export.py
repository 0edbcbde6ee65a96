"""Write a student as a file or folder that other tools open without this package."""

import argparse
import json
from pathlib import Path
from typing import Any, Dict

from ..export.comparison import TOLERANCE
from ..export.source import read_source
from ..export.writing import FORMATS, export
from .formatting import align

HELP = "a student for tools that do not know this package: stock fairseq, transformers, plain torch"
_FORMATS = "\n".join(f"  {name:<13}{module.HELP}" for name, module in FORMATS.items())
EPILOG = f"""formats:
{_FORMATS}

examples:
  fairseq-distill export student.pt hubert_small.pt --format fairseq
  fairseq-distill export small_wavlm.pt WavLM-Small.pt --format wavlm
  fairseq-distill export pruned.pt pruned_folder --format transformers

The encoder alone is written, of a fine-tuned model too; transformers gets a CTC model whole. Before it is put in
place, the other code runs it: waves of several lengths and a padded batch, every layer; nothing is written if one
differs by more than {TOLERANCE:g} of its size. A student with a shape that the format has no setting for is refused
with that setting. A teacher may be given too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fairseq-distill export`."""
    parser.add_argument("checkpoint", metavar="STUDENT", help="any checkpoint that fairseq-distill info reads")
    parser.add_argument("output", metavar="OUT", type=Path, help="file or folder to write, by the format")
    parser.add_argument("--format", choices=FORMATS, required=True, help="what to write, see below")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def run(args: argparse.Namespace) -> None:
    """Write, and print what was written."""
    source = read_source(args.checkpoint)
    differences = export(source, args.format, args.output)
    cfg = source.config
    found: Dict[str, Any] = {
        "checkpoint": str(args.checkpoint),
        "output": str(args.output),
        "format": args.format,
        "layers": cfg.encoder_layers,
        "width": cfg.encoder_embed_dim,
        "sample_rate": source.checkpoint.sample_rate,
        "normalize": cfg.normalize,
        "left_out": source.left_out,
        **FORMATS[args.format].describe(source),
        "compared_with": FORMATS[args.format].READER,
        "largest_difference": differences._asdict(),
    }
    print(json.dumps(found, indent=2) if args.json else format_table(found))


def format_table(found: Dict[str, Any]) -> str:
    """What was written, for people."""
    waves = "normalised" if found["normalize"] else "not normalised"
    shape = f"{found['layers']} layers x {found['width']}"
    facts = {"encoder": f"{found['model']}, {shape}, waves at {found['sample_rate']} Hz, {waves}"}
    if "final_proj" in found:
        facts["final_proj"] = found["final_proj"]
    facts["left out"] = ", ".join(found["left_out"]) or "nothing"
    difference = found["largest_difference"]
    facts["difference"] = (
        f"{difference['alone']:.1e} of the features' size in {found['compared_with']}, {difference['padded']:.1e} in a "
        "padded batch"
    )
    return "\n".join([*align(facts), "", f"written to {found['output']}"])
