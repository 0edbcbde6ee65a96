"""Print a student beside its teacher: parameters, MACs, keyword accuracy and distillation loss, as run.sh left them."""

import argparse
import json
import re
from pathlib import Path
from typing import List, Optional, Tuple

VALID_LINE = re.compile(r"\[valid\]\[INFO\] - (\{.*\})$")
ROWS = {
    "teacher": "teacher",
    "student": "student",
    "start": "student before distillation",  # what it copied from the teacher is already there
    "random": "student, random weights",
}


def read_losses(log: Path) -> List[Tuple[int, float]]:
    """(update, loss) of every validation in fairseq's log, which must be written with common.log_format=json."""
    losses = []
    for line in log.read_text(encoding="utf-8").splitlines():
        match = VALID_LINE.search(line)
        if match:
            entry = json.loads(match.group(1))
            losses.append((int(entry["valid_num_updates"]), float(entry["valid_loss"])))
    if not losses:
        raise SystemExit(f"{log} holds no validation: was it written with another common.log_format than json?")
    return losses


def read_json(path: Path) -> Optional[dict]:
    """What a `fairseq-distill ... --json` printed into `path`, or None where it was not run."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def make_row(results: Path, name: str, title: str) -> List[str]:
    """Cells of one line: title, parameters, MACs, accuracy with its 95 % interval; "-" for what was not measured."""
    info = read_json(results / f"{'teacher' if name == 'teacher' else 'student'}.info.json")
    keyword = read_json(results / f"{name}.keyword.json")
    accuracy = "-"
    if keyword:
        low, high = keyword["accuracy_interval"]
        accuracy = f"{keyword['accuracy']:.1%} ({100 * low:.1f} to {100 * high:.1f})"
    parameters, macs = info["parameters"]["encoder"], info["macs_per_second"]
    return [title, f"{parameters / 1e6:.2f} M", f"{macs / 1e9:.3f} G", accuracy]


def format_table(rows: List[List[str]]) -> str:
    """Rows of cells as aligned text, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:])]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder with {teacher,student}.info.json and *.keyword.json")
    parser.add_argument("log", type=Path, help="fairseq's log of the distillation")
    args = parser.parse_args()

    measured = (args.results / "random.keyword.json").exists()
    rows = [["", "parameters", "MACs per second of audio", "held-out keywords (95 % interval)"]]
    names = ROWS if measured else ("teacher", "student")
    rows += [make_row(args.results, name, ROWS[name]) for name in names]
    print(format_table(rows))
    if measured:
        print(f"chance on keywords: {read_json(args.results / 'student.keyword.json')['chance']:.1%}")
    losses = read_losses(args.log)
    (first, start), (last, end) = losses[0], losses[-1]
    print(f"distillation loss on valid: {start:.3f} after update {first}, {end:.3f} after update {last}")


if __name__ == "__main__":
    main()
