"""Print, in Markdown, what run.sh measured: python3 print_table.py WORK."""

import sys
from pathlib import Path
from typing import Dict, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import load, percent, print_rows

ENCODERS = ("teacher", "distilled", "pruned", "skill")
MODES = {"frozen": "frozen", "padded": "frozen, padding as in stock fairseq", "tuned": "fine-tuned"}
CORPORA = {"wakeword": "keyword", "digits": "keyword", "librispeech": "speaker"}


def read_head(work: Path, name: str, corpus: str) -> Optional[Dict]:
    """What `evaluate --heads` printed of the corpus' task; None where it was not run."""
    if not (work / "results" / f"{name}.{corpus}.json").exists():
        return None
    return load(work, f"{name}.{corpus}")["tasks"][CORPORA[corpus]]


def format_head(found: Optional[Dict]) -> str:
    """Accuracy or equal error rate with its interval."""
    if found is None:
        return "-"
    if found["kind"] == "classification":
        return percent(found["accuracy"], found["accuracy_bootstrap"])
    return percent(found["eer"], found["eer_interval"])


def print_accuracies(work: Path) -> None:
    """A row for each encoder, mode and way; single tasks are two models in one row."""
    rows: List[List[str]] = []
    for encoder in ENCODERS:
        for mode, title in MODES.items():
            joint = [read_head(work, f"{encoder}.{mode}.joint", corpus) for corpus in CORPORA]
            single = [read_head(work, f"{encoder}.{mode}.{task}", corpus) for corpus, task in CORPORA.items()]
            for way, found in (("single", single), ("joint", joint)):
                if any(found):
                    rows.append([encoder, title, way, *map(format_head, found)])
    print_rows(["encoder", "", "tasks", "wakeword", "digits", "unseen speakers, EER"], rows)


def print_sizes(work: Path) -> None:
    """Parameters, MACs and real-time factor of each encoder."""
    rows = []
    for encoder in (e for e in ENCODERS if (work / "results" / f"{e}.info.json").exists()):
        info = load(work, f"{encoder}.info")
        sizes = [f"{info['parameters']['encoder'] / 1e6:.2f} M", f"{info['macs_per_second'] / 1e6:.0f} M"]
        rows.append([encoder, *sizes, f"{info['real_time_factor']:.4f}"])
    print_rows(["encoder", "parameters", "MACs per second", "RTF"], rows)


def print_differences(work: Path) -> None:
    """The paper's two differences for each student: joint and fine-tuned against the teacher's, in points."""
    rows = []
    for encoder in ENCODERS[1:]:
        cells = []
        for corpus in CORPORA:
            pair = [read_head(work, f"{name}.tuned.joint", corpus) for name in (encoder, "teacher")]
            key = "eer" if CORPORA[corpus] == "speaker" else "accuracy"
            cells.append(f"{100 * (pair[0][key] - pair[1][key]):+.1f}" if all(pair) else "-")
        rows.append([encoder, *cells])
    print_rows(["against the teacher, points", "wakeword, accuracy", "digits, accuracy", "unseen speakers, EER"], rows)


def main(work: Path) -> None:
    """Print all tables that there are results for."""
    print_sizes(work)
    print_accuracies(work)
    print_differences(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
