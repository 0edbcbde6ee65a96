"""Print, in Markdown, what run.sh measured: python3 print_table.py WORK."""

import json
import sys
from pathlib import Path
from typing import Dict, List

from scipy.cluster.hierarchy import fcluster
from sklearn.metrics import adjusted_rand_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import choose_thirds, exists, find_probes, format_probes, load, name_probes, print_rows

SPARSITIES = ("50", "75", "85")
RECIPES = {"skill": "SKILL", "params": "DPHuBERT"}
MOST_CLUSTERS = 8


def cut(clusters: Dict, number: int) -> List[int]:
    """Each layer's cluster, when the tree is cut into so many."""
    return fcluster(clusters["tree"], number, "maxclust").tolist()


def print_stability(folder: Path) -> None:
    """The groups, and for several numbers of clusters the adjusted Rand index against those of 20 minutes, seed 0."""
    files = {
        tuple(int(part) for part in f.stem.replace("seed", "").split("s_")): f for f in folder.glob("*s_seed*.json")
    }
    found = {key: json.loads(file.read_text()) for key, file in sorted(files.items())}
    if (1200, 0) not in found or len(found) == 1:
        return
    reference = found[1200, 0]
    layers = len(cut(reference, 1))
    numbers = range(2, min(MOST_CLUSTERS, layers - 1) + 1)  # one cluster, or one for each layer, are always the same
    rows = []
    for (seconds, seed), clusters in found.items():
        groups = " ".join("{" + ",".join(map(str, group)) + "}" for group in clusters["groups"])
        scores = [adjusted_rand_score(cut(reference, k), cut(clusters, k)) for k in numbers]
        rows.append([f"{seconds // 60} min", str(seed), groups] + [f"{score:.2f}" for score in scores])
    print_rows(["speech", "seed", "groups"] + [f"K={k}" for k in numbers], rows)


def print_students(work: Path, names: List[str]) -> None:
    """Size, mean loss over distilled and other layers, probes."""
    probes = find_probes(work)
    distilled = choose_thirds(load(work, "teacher.info")["layers"])
    before = load(work, "teacher.info")["parameters"]["encoder"]
    rows = []
    for name in names:
        left, layers = load(work, f"{name}.info")["parameters"]["encoder"], load(work, f"{name}.layers")
        mine = [values["loss"] for number, values in layers.items() if int(number) in distilled]
        others = [values["loss"] for number, values in layers.items() if int(number) not in distilled]
        rows.append(
            [RECIPES[name[:-2]], f"0.{name[-2:]}", f"{left / 1e6:.2f} M", f"{1 - left / before:.3f}"]
            + [f"{sum(mine) / len(mine):.4f}", f"{sum(others) / len(others):.4f}"]
            + format_probes(work, name, probes)
        )
    titles = ["recipe", "target", "parameters", "sparsity"]
    losses = [f"loss, layers {', '.join(map(str, distilled))}", "the others"]
    print_rows([*titles, *losses, *name_probes(probes)], rows)


def print_layers(work: Path, names: List[str]) -> None:
    """Loss per layer of the teacher."""
    results = [load(work, f"{name}.layers") for name in names]
    titles = [f"{RECIPES[name[:-2]]} 0.{name[-2:]}" for name in names]
    rows = [[str(layer)] + [f"{result[layer]['loss']:.4f}" for result in results] for layer in results[0]]
    print_rows(["teacher's layer"] + titles, rows)


def main(work: Path) -> None:
    """Print all tables that there are results for."""
    print_stability(work / "clusters")
    names = [f"{recipe}{sparsity}" for sparsity in SPARSITIES for recipe in RECIPES]
    names = [name for name in names if exists(work, f"{name}.layers")]
    if names:
        print_students(work, names)
        print_layers(work, names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
