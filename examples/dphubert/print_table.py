"""Print, in Markdown, what run.sh measured: python3 print_table.py WORK."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import exists, find_probes, format_probes, load, name_probes, print_rows, read_log

RUNS = {"params75": "75 % of parameters", "macs50": "50 % of MACs"}
STAGES = ("stage1", "pruned", "stage2")


def read_loss(work: Path, name: str) -> float:
    """Held-out loss that fairseq-validate printed."""
    lines = (work / "results" / f"{name}.valid.txt").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if "| valid | {" in line)
    return float(json.loads(line[line.index("{") :])["valid_loss"])


def print_sizes(work: Path) -> None:
    """What was to go, and what went."""
    teacher = load(work, "teacher.info")
    before, macs_before = teacher["parameters"]["encoder"], teacher["macs_per_second"]
    rows = []
    for name, target in RUNS.items():
        if exists(work, f"{name}.info"):
            info, step = (
                load(work, f"{name}.info"),
                read_log(work / f"{name}.stage1" / "hydra_train.log", "train_inner"),
            )
            left, macs = info["parameters"]["encoder"], info["macs_per_second"]
            sizes = [f"{before / 1e6:.2f} M", f"{left / 1e6:.2f} M", f"{1 - left / before:.3f}"]
            sizes += [f"{macs_before / 1e9:.3f} G", f"{macs / 1e9:.3f} G", f"{1 - macs / macs_before:.3f}"]
            rows.append([target, f"{float(step[-1]['sparsity']):.3f}", *sizes])
    titles = ["parameters", "left", "sparsity", "MACs per second", "left", "sparsity"]
    print_rows(["what should go", "expected sparsity at the end", *titles], rows)


def print_qualities(work: Path) -> None:
    """Held-out losses before and after the cut and after stage 2, and probes."""
    probes = find_probes(work)
    rows = []
    for name, target in RUNS.items():
        if exists(work, f"{name}.info"):
            losses = [f"{read_loss(work, f'{name}.{stage}'):.4f}" for stage in STAGES]
            rows.append([target, *losses, *format_probes(work, name, probes)])
    titles = ["held-out loss, stage 1", "pruned", "stage 2"]
    print_rows(["what should go", *titles, *name_probes(probes)], rows)


if __name__ == "__main__":
    print_sizes(Path(sys.argv[1]))
    print_qualities(Path(sys.argv[1]))
