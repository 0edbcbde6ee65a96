"""What the examples' print_table.py share: results of a work folder, cells, Markdown tables."""

import json
from pathlib import Path
from typing import Dict, List, Tuple


def load(work: Path, name: str) -> Dict:
    """One JSON result."""
    return json.loads((work / "results" / f"{name}.json").read_text())


def percent(value: float, interval: Tuple[float, float] = None) -> str:
    """A fraction in percent, with its interval."""
    text = f"{100 * value:.1f} %"
    return f"{text} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})" if interval else text


def format_accuracy(result: Dict) -> str:
    """A probe's accuracy with its interval."""
    return percent(result["accuracy"], result["accuracy_interval"])


def print_rows(title: List[str], rows: List[List[str]]) -> None:
    """A Markdown table."""
    for row in (title, ["---"] * len(title), *rows):
        print("| " + " | ".join(row) + " |")
    print()
