"""Print, in Markdown, what run.sh measured: python3 print_table.py WORK."""

import sys
from pathlib import Path
from typing import Dict, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import SIZE_TITLES, Probe, exists, format_size, load, percent, print_rows

ENCODERS = ("teacher", "distilled", "pruned", "skill")
MODES = {"frozen": "frozen", "padded": "frozen, padding as in stock fairseq", "tuned": "fine-tuned"}


def find_heads(work: Path) -> List[Probe]:
    """Corpora and tasks that any model's heads were measured on: keywords first, corpora by name."""
    found = set()
    for file in (work / "results").glob("*.heads.json"):
        name, corpus = file.name[: -len(".heads.json")].rsplit(".", 1)
        found |= {Probe(corpus, task) for task in load(work, f"{name}.{corpus}.heads")["tasks"]}
    return sorted(found, key=lambda head: (head.label, head.corpus))


def read_head(work: Path, name: str, head: Probe) -> Optional[Dict]:
    """What `evaluate heads` printed of a task on a corpus; None where it was not run."""
    result = f"{name}.{head.corpus}.heads"
    return load(work, result)["tasks"].get(head.label) if exists(work, result) else None


def format_head(found: Optional[Dict]) -> str:
    """Accuracy or equal error rate with its interval."""
    if found is None:
        return "-"
    if found["kind"] == "classification":
        return percent(found["accuracy"], found["accuracy_bootstrap"])
    return percent(found["eer"], found["eer_interval"])


def print_accuracies(work: Path, heads: List[Probe]) -> None:
    """A row for each encoder, mode and way; single tasks are two models in one row."""
    rows: List[List[str]] = []
    for encoder in ENCODERS:
        for mode, title in MODES.items():
            joint = [read_head(work, f"{encoder}.{mode}.joint", head) for head in heads]
            single = [read_head(work, f"{encoder}.{mode}.{head.label}", head) for head in heads]
            for way, found in (("single", single), ("joint", joint)):
                if any(found):
                    rows.append([encoder, title, way, *map(format_head, found)])
    print_rows(["encoder", "", "tasks", *map(name_head, heads)], rows)


def name_head(head: Probe) -> str:
    """A column's title."""
    return f"{head.corpus}, {'speakers, EER' if head.label == 'speaker' else 'keywords'}"


def print_differences(work: Path, heads: List[Probe]) -> None:
    """The paper's two differences for each student: joint and fine-tuned against the teacher's, in points."""
    rows = []
    for encoder in ENCODERS[1:]:
        cells = []
        for head in heads:
            mine, its = (read_head(work, f"{name}.tuned.joint", head) for name in (encoder, "teacher"))
            key = "eer" if head.label == "speaker" else "accuracy"
            cells.append(f"{100 * (mine[key] - its[key]):+.1f}" if mine and its else "-")
        if set(cells) != {"-"}:
            rows.append([encoder, *cells])
    print_rows(["against the teacher, points", *map(name_head, heads)], rows)


def main(work: Path) -> None:
    """Print all tables that there are results for."""
    encoders = [encoder for encoder in ENCODERS if exists(work, f"{encoder}.info")]
    print_rows(["encoder", *SIZE_TITLES], [[encoder, *format_size(work, encoder)] for encoder in encoders])
    heads = find_heads(work)
    print_accuracies(work, heads)
    print_differences(work, heads)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
