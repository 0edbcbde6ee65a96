"""Print, in Markdown, what run.sh measured: python3 print_table.py WORK."""

import json
import sys
from pathlib import Path
from typing import Dict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import format_accuracy, load, percent, print_rows

RUNS = {"params75": "75 % of parameters", "macs50": "50 % of MACs"}


def read_loss(work: Path, name: str) -> float:
    """Held-out loss that fairseq-validate printed."""
    lines = (work / "results" / f"{name}.valid.txt").read_text().splitlines()
    line = next(line for line in lines if "| valid | {" in line)
    return float(json.loads(line[line.index("{") :])["valid_loss"])


def read_last_step(work: Path, name: str) -> Dict[str, str]:
    """The last training line of fairseq's JSON log of a stage."""
    lines = (work / name / "hydra_train.log").read_text().splitlines()
    line = [line for line in lines if "][train_inner][" in line][-1]
    return json.loads(line[line.index("{") :])


def main(work: Path) -> None:
    """Print both tables."""
    teacher = load(work, "teacher.info")
    before, macs_before = teacher["parameters"]["encoder"], teacher["macs_per_second"]
    sizes, qualities = [], []
    for name, target in RUNS.items():
        if not (work / "results" / f"{name}.speakers.json").exists():
            continue
        info, step = load(work, f"{name}.info"), read_last_step(work, f"{name}.stage1")
        left, macs = info["parameters"]["encoder"], info["macs_per_second"]
        sizes.append(
            [
                target,
                f"{float(step['sparsity']):.3f}",
                f"{before / 1e6:.2f} M",
                f"{left / 1e6:.2f} M",
                f"{1 - left / before:.3f}",
            ]
            + [f"{macs_before / 1e9:.3f} G", f"{macs / 1e9:.3f} G", f"{1 - macs / macs_before:.3f}"]
        )
        losses = [f"{read_loss(work, f'{name}.{stage}'):.4f}" for stage in ("stage1", "pruned", "stage2")]
        probes = [format_accuracy(load(work, f"{name}.{corpus}")) for corpus in ("wakeword", "digits")]
        qualities.append([target, *losses, *probes, percent(load(work, f"{name}.speakers")["eer"])])
    print_rows(
        [
            "what should go",
            "expected sparsity at the end",
            "parameters",
            "left",
            "sparsity",
            "MACs per second",
            "left",
            "sparsity",
        ],
        sizes,
    )
    titles = ["what should go", "held-out loss, stage 1", "pruned", "stage 2", "wakeword", "digits", "speakers, EER"]
    print_rows(titles, qualities)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
