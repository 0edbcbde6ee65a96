"""Write a student as a file or folder that other tools open without this package."""

import argparse
import json
from pathlib import Path
from typing import Any, Dict

from ..export.comparison import TOLERANCE
from ..export.source import Options, read_source
from ..export.writing import FORMATS, export
from .formatting import align

HELP = "a student for tools that do not know this package: stock fairseq, transformers, ONNX, plain torch and others"
_FORMATS = "\n".join(f"  {name:<13}{module.HELP}" for name, module in FORMATS.items())
EPILOG = f"""formats:
{_FORMATS}

examples:
  fairseq-distill export student.pt hubert_small.pt --format fairseq
  fairseq-distill export small_wavlm.pt WavLM-Small.pt --format wavlm
  fairseq-distill export student.pt student.onnx --format onnx
  fairseq-distill export student.pt student_int8.onnx --format onnx --quantize int8
  fairseq-distill export pruned.pt pruned_folder --format transformers

The encoder alone is written, of a fine-tuned model too; transformers gets a CTC model whole. Before it is put in
place, the other code runs it: waves of several lengths and a padded batch, every layer; nothing is written if one
differs by more than {TOLERANCE:g} of its size, or by what the format says. A student with a shape that the format has
no setting for is refused with that setting. A teacher may be given too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fairseq-distill export`."""
    parser.add_argument("checkpoint", metavar="STUDENT", help="any checkpoint that fairseq-distill info reads")
    parser.add_argument("output", metavar="OUT", type=Path, help="file or folder to write, by the format")
    parser.add_argument("--format", choices=FORMATS, required=True, help="what to write, see below")
    parser.add_argument(
        "--hidden-states", action="store_true", help="write every layer's output too (onnx, pt2, torchscript)"
    )
    parser.add_argument("--quantize", choices=["int8"], default="", help="weights of linear layers in 8 bits (onnx)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def run(args: argparse.Namespace) -> None:
    """Write, and print what was written."""
    source = read_source(args.checkpoint, Options(args.hidden_states, args.quantize))
    differences = export(source, args.format, args.output)
    cfg = source.config
    found: Dict[str, Any] = {
        "checkpoint": str(args.checkpoint),
        "output": str(args.output),
        "bytes": sum(file.stat().st_size for file in (args.output, *args.output.glob("**/*")) if file.is_file()),
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
    padded = "no padded batches" if difference["padded"] is None else f"{difference['padded']:.1e} in a padded batch"
    facts["difference"] = f"{difference['alone']:.1e} of the features' size in {found['compared_with']}, {padded}"
    facts["size"] = f"{found['bytes'] / 1e6:.1f} MB"
    return "\n".join([*align(facts), "", f"written to {found['output']}"])
