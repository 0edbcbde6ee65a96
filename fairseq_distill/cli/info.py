"""Say what a checkpoint is: family, settings, parameters, multiply-accumulates, a row for each layer."""

import argparse
import json
from typing import Any, Dict

import torch

from ..checkpoints.reading import build_encoder, read_checkpoint
from ..encoder.model import SpeechEncoder
from ..encoder.size import frame_rate, measure_parts
from ..pruning.expected_size import METRICS, ExpectedSize
from ..pruning.gates import get_gates
from ..shapes.measure import RUNS, measure_real_time_factor
from .formatting import describe_extractor, describe_norm, describe_threads
from .numbers import check_seconds

HELP = "what a checkpoint is: family, parameters, MACs per second of audio, a row for each layer"
EPILOG = """example:
  fairseq-distill info hubert_base_ls960.pt

'encoder' counts convolutions, projection, positional convolution, norms and layers, as DistilHuBERT and DPHuBERT count;
'with heads' adds what the file holds besides: the mask embedding and the layers of masked prediction, distillation or
CTC.
MACs are those of convolutions, linear layers and attention for one wave of --seconds, divided by its length."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fairseq-distill info`."""
    parser.add_argument("checkpoint", help="HuBERT, wav2vec 2.0, data2vec, WavLM, a fine-tuned one, or a student")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="length of the wave that MACs are counted for (default 10)"
    )
    parser.add_argument("--measure", action="store_true", help="also time it on this CPU, on one wave of --seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def run(args: argparse.Namespace) -> None:
    """Print the description."""
    description = describe(args.checkpoint, args.seconds, args.measure)
    print(json.dumps(description, indent=2) if args.json else format_description(description))


def describe(path: str, seconds: float = 10.0, measure: bool = False) -> Dict[str, Any]:
    """Everything that `info` prints, as plain values; MACs and, if measured, time are for one wave of `seconds`."""
    checkpoint = read_checkpoint(path)
    encoder = build_encoder(checkpoint)
    cfg = checkpoint.config
    check_seconds(seconds, cfg)
    parts = measure_parts(cfg, seconds)
    # all in the file, but for what only pruning needs
    needed = [value for key, value in checkpoint.weights.items() if not key.startswith(("gates.", "size_loss."))]
    counted = [value.numel() for value in (*needed, *checkpoint.around.values())]
    return {
        "checkpoint": str(path),
        "model": checkpoint.name,
        "family": cfg.family,
        "norm": describe_norm(cfg.layer_norm_first),
        "extractor": describe_extractor(str(cfg.extractor_mode)),
        "normalize": cfg.normalize,
        "sample_rate": checkpoint.sample_rate,
        "frames_per_second": frame_rate(cfg),
        "layers": cfg.encoder_layers,
        "width": cfg.encoder_embed_dim,
        "parameters": {"encoder": sum(part.parameters for part in parts), "with_heads": sum(counted)},
        "gates": None if encoder.gates is None else _describe_gates(encoder),
        "macs_per_second": sum(part.macs for part in parts) / seconds,
        "macs_wave_seconds": seconds,
        "real_time_factor": measure_real_time_factor(encoder, seconds) if measure else None,
        "threads": torch.get_num_threads() if measure else None,
        "parts": [part._asdict() for part in parts],
    }


def _describe_gates(encoder: SpeechEncoder) -> Dict[str, Any]:
    """The kinds of units that have gates, and the sparsity that these expect."""
    gates = get_gates(encoder)
    with torch.no_grad():
        expected = gates.expect()
        sparsity = {metric: 1.0 - float(ExpectedSize(encoder.cfg, metric)(expected)) for metric in METRICS}
    return {"units": list(gates.kinds), "expected_sparsity": sparsity}


def format_description(d: Dict[str, Any]) -> str:
    """The description as a table for people."""
    lines = [
        f"{d['checkpoint']}",
        f"{d['model']} (family {d['family']}), {d['layers']} layers x {d['width']}, {d['norm']}, "
        f"{d['extractor']} extractor",
        f"waves at {d['sample_rate']} Hz, {'normalised' if d['normalize'] else 'not normalised'}, "
        f"{d['frames_per_second']:g} frames a second",
        "",
        f"{'parameters, encoder':<24}{d['parameters']['encoder'] / 1e6:>10.2f} M",
        f"{'parameters, with heads':<24}{d['parameters']['with_heads'] / 1e6:>10.2f} M",
        f"{'MACs per second':<24}{d['macs_per_second'] / 1e9:>10.2f} G   (one wave of {d['macs_wave_seconds']:g} s)",
    ]
    if d["real_time_factor"] is not None:
        how = f"that wave, {describe_threads(d['threads'])}, median of {RUNS} runs"
        lines.append(f"{'real-time factor':<24}{d['real_time_factor']:>10.4f}     ({how})")
    if d["gates"] is not None:
        left = ", ".join(
            f"{100 * value:.1f} % of {metric}" for metric, value in d["gates"]["expected_sparsity"].items()
        )
        lines.append(
            f"{'gates':<24}on {', '.join(d['gates']['units'])}; fairseq-distill prune will take away about {left}"
        )
    lines += ["", f"{'part':<16}{'shape':<36}{'parameters':>12}{'MACs/s, M':>12}"]
    for part in d["parts"]:
        macs = part["macs"] / d["macs_wave_seconds"] / 1e6
        lines.append(f"{part['name']:<16}{part['shape']:<36}{part['parameters']:>12,}{macs:>12.1f}")
    return "\n".join(lines)
