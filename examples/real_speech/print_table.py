"""Print, in Markdown, what run.sh measured: python3 print_table.py WORK."""

import json
import sys
from pathlib import Path
from typing import Dict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import format_accuracy, load, percent, print_rows

NAMES = ("teacher", "deep", "wide")
SHARED_LAYERS = (4, 8, 12)  # teacher layers that both students predict


def read_validations(log: Path) -> Dict[int, Dict[str, float]]:
    """{number of updates: metrics} of every validation in fairseq's JSON log."""
    found = {}
    for line in log.read_text().splitlines():
        if "][valid][" in line:
            values = json.loads(line[line.index("{") :])
            found[int(values["valid_num_updates"])] = {
                k[len("valid_") :]: float(v) for k, v in values.items() if k.startswith("valid_")
            }
    return found


def main(work: Path) -> None:
    """Print both tables."""
    rows = []
    for name in NAMES:
        info = load(work, f"{name}.info")
        size = [f"{info['parameters']['encoder'] / 1e6:.2f} M", f"{info['macs_per_second'] / 1e9:.2f} G"]
        for weights in ("trained",) if name == "teacher" else ("trained", "random"):
            keywords = [load(work, f"{name}.{weights}.{corpus}") for corpus in ("wakeword", "digits")]
            speakers = load(work, f"{name}.{weights}.speakers")
            accuracy = [format_accuracy(k) for k in keywords]
            label = name if weights == "trained" else f"{name}'s shape, random weights"
            rows.append([label, *size, *accuracy, percent(speakers["eer"])])
    print_rows(["network", "parameters", "MACs per second", "wakeword", "digits", "speakers, EER"], rows)

    rows = []
    for name in NAMES[1:]:
        validations = read_validations(work / name / "hydra_train.log")
        for updates in sorted(validations):
            values = validations[updates]
            layers = [
                f"{values[f'l1_{layer}']:.3f} / {values[f'log_sigmoid_cosine_{layer}']:.3f}" for layer in SHARED_LAYERS
            ]
            rows.append([name, str(updates), f"{values['loss']:.4f}", *layers])
    titles = [f"layer {layer}: L1 / -log sigmoid cos" for layer in SHARED_LAYERS]
    print_rows(["student", "updates", "held-out loss", *titles], rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
