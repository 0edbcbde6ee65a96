"""Print, in Markdown, what run.sh measured, and draw accuracy over depth: python3 print_table.py WORK."""

import sys
from pathlib import Path
from typing import List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import (
    SIZE_TITLES,
    exists,
    find_probes,
    format_probes,
    format_size,
    load,
    name_probes,
    print_rows,
    read_probe,
)

WAYS = {"layers": "layer to layer", "last": "from the last layer"}
OBJECTIVES = {
    "linear_heads": "three layers from the last, a Linear for each",
    "hints": "MSE, hints 0.1 (FitHuBERT)",
    "fithubert": "the same, time reduced by 2",
    "masking": "hints with masking (ARMHuBERT)",
    "armhubert": "the same, maps of every second layer reused",
    "attention_maps": "every layer, and 0.1 attention maps",
    "star": "temporal and layer relations (STaR)",
    "dicehubert": "masked prediction alone (DiceHuBERT)",
    "units_beside": "every layer, and 0.1 masked prediction",
    "started": "every layer, starting as cut layers of the teacher",
    "average": "every layer, mean of two teachers",
    "heads": "every layer, heads for two teachers",
}


def find_shapes(work: Path) -> List[str]:
    """LAYERSxWIDTH of all students that were measured, the deepest first."""
    names = {file.name.split(".")[0] for file in (work / "results").glob("*_*x*.info.json")}
    shapes = {name.split("_")[1] for name in names if name.split("_")[0] in WAYS}
    return sorted(shapes, key=lambda shape: -int(shape.split("x")[0]))


def measure_loss(work: Path, name: str) -> str:
    """Mean over the teacher's layers of the loss of least-squares maps from the student's; none where frames differ."""
    if not exists(work, f"{name}.layers"):
        return "-"
    losses = [layer["loss"] for layer in load(work, f"{name}.layers").values()]
    return f"{sum(losses) / len(losses):.4f}"


def print_students(work: Path) -> None:
    """A row for each shape and way of distilling, the teacher first; then one for each objective."""
    probes = find_probes(work)

    def describe(name: str) -> List[str]:
        return [*format_size(work, name), *format_probes(work, name, probes), measure_loss(work, name)]

    columns = [*SIZE_TITLES, *name_probes(probes), "held-out loss"]
    info = load(work, "teacher.info")
    rows = [[f"teacher, {info['layers']}x{info['width']}", "", *describe("teacher")]]
    for way, title in WAYS.items():
        for shape in find_shapes(work):
            if exists(work, f"{way}_{shape}.info"):
                rows.append([shape, title, *describe(f"{way}_{shape}")])
    print_rows(["layers x width", "distilled", *columns], rows)
    names = [name for name in OBJECTIVES if exists(work, f"{name}.info")]
    print_rows(["objective", *columns], [[OBJECTIVES[name], *describe(name)] for name in names])


def draw(work: Path, path: Path) -> None:
    """Each probe over the number of layers, a line for each way of distilling, the teacher as a dashed line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    probes, shapes = find_probes(work), find_shapes(work)
    columns = min(2, len(probes))
    rows = -(-len(probes) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(4.5 * columns, 1 + 2.75 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axes, probe, title in zip(panels.flat, probes, name_probes(probes)):
        for offset, (way, label) in zip((0.97, 1.03), WAYS.items()):
            points = []
            for shape in shapes:
                measure, value, interval = read_probe(work, f"{way}_{shape}", probe)
                low, high = interval or (value, value)
                points.append([100 * part for part in (value, value - low, high - value)])
            values, below, above = zip(*points)
            depths = [offset * int(shape.split("x")[0]) for shape in shapes]
            axes.errorbar(depths, values, (below, above), marker="o", capsize=3, label=label)
        axes.axhline(100 * read_probe(work, "teacher", probe)[1], color="0.4", linestyle="--", label="teacher")
        axes.set_title(f"{title}: {measure}, %")
        axes.set_xscale("log", base=2)
        axes.set_xticks([int(shape.split("x")[0]) for shape in shapes], shapes)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(probes) :]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("layers x width, all of one size")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=110)


def is_complete(work: Path) -> bool:
    """Whether several shapes, both ways, and the teacher have all probes."""
    names = [f"{way}_{shape}" for way in WAYS for shape in find_shapes(work)]
    probes = find_probes(work)
    cells = [read_probe(work, name, probe) for name in ("teacher", *names) for probe in probes]
    return len(names) > len(WAYS) and bool(probes) and None not in cells


def main(work: Path) -> None:
    """Print the tables that there are results for; draw once all shapes are there."""
    print_students(work)
    if is_complete(work):
        draw(work, work / "depth.png")
        print(f"picture: {work / 'depth.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
