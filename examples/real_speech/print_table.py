"""Print, in Markdown, what run.sh measured: python3 print_table.py WORK."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import SIZE_TITLES, find_probes, format_probes, format_size, name_probes, print_rows, read_log

STUDENTS = ("deep", "wide")


def print_networks(work: Path) -> None:
    """Size and probes of the teacher and of each student, trained and as it was before any training."""
    probes = find_probes(work)
    rows = []
    for name in ("teacher", *STUDENTS):
        size = format_size(work, name)
        for weights in ("trained",) if name == "teacher" else ("trained", "random"):
            label = name if weights == "trained" else f"{name}'s shape, random weights"
            rows.append([label, *size, *format_probes(work, f"{name}_{weights}", probes)])
    print_rows(["network", *SIZE_TITLES, *name_probes(probes)], rows)


def print_losses(work: Path) -> None:
    """Held-out losses at every validation, and those of the teacher's layers that both students predict."""
    logs = {}
    for name in STUDENTS:
        entries = read_log(work / name / "hydra_train.log", "valid")
        logs[name] = {int(entry["valid_num_updates"]): entry for entry in entries}  # the last of each counts
    measured = [{key for entry in log.values() for key in entry} for log in logs.values()]
    shared = [key[len("valid_l1_") :] for key in set.intersection(*measured) if key.startswith("valid_l1_")]
    shared.sort(key=lambda group: [int(number) for number in group.split("_")])
    rows = []
    for name, log in logs.items():
        for updates, entry in sorted(log.items()):
            losses = [
                f"{float(entry[f'valid_l1_{layer}']):.3f} / {float(entry[f'valid_log_sigmoid_cosine_{layer}']):.3f}"
                for layer in shared
            ]
            rows.append([name, str(updates), f"{float(entry['valid_loss']):.4f}", *losses])
    titles = [f"layer {layer}: L1 / -log sigmoid cos" for layer in shared]
    print_rows(["student", "updates", "held-out loss", *titles], rows)


if __name__ == "__main__":
    print_networks(Path(sys.argv[1]))
    print_losses(Path(sys.argv[1]))
