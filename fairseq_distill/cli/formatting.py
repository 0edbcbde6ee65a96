"""Figures in words, as the tables of several commands print them."""

from typing import Any, Dict, List, Mapping, Sequence


def align(lines: Mapping[str, str]) -> List[str]:
    """Name and text of each figure, a line each."""
    return [f"{name:<12}{text}" for name, text in lines.items()]


def describe_interval(interval: Sequence[float]) -> str:
    """The two ends of an interval of rates, in percent."""
    low, high = (100 * end for end in interval)
    return f"95 % interval {low:.1f} to {high:.1f}"


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """How many rows were left out for which reason."""
    return ", ".join(f"{count} {why}" for why, count in skipped.items() if count) or "none"


def describe_pairs(found: Mapping[str, Any]) -> str:
    """Pairs of a verification."""
    return f"{found['same_pairs']} pairs of the same speaker, {found['different_pairs']} of different ones"


def describe_costs(found: Mapping[str, Any]) -> Dict[str, str]:
    """A line for each minimum detection cost of a verification."""
    lines = {}
    for p, cost in found["min_dcf"].items():
        low, high = found["min_dcf_interval"][p]
        lines[f"minDCF {p}"] = f"{cost:.3f} (95 % interval {low:.3f} to {high:.3f})"
    return lines


def describe_norm(layer_norm_first: bool) -> str:
    """Where the norms of a layer are, before its parts or behind them."""
    return "pre-norm" if layer_norm_first else "post-norm"


def describe_extractor(extractor_mode: str) -> str:
    """The norm of the convolutions."""
    return {"default": "group-norm", "layer_norm": "layer-norm"}[extractor_mode]


def describe_threads(threads: int) -> str:
    """How many threads torch computes with."""
    return f"{threads} thread{'s' if threads > 1 else ''}"
