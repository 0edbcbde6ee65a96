"""Print, in Markdown, what run.sh measured, and draw accuracy over depth: python3 print_table.py WORK."""

import sys
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import format_accuracy, load, percent, print_rows

SHAPES = ("16x128", "8x160", "4x224", "2x288", "1x384")
WAYS = {"layers": "layer to layer", "last": "from the last layer"}
OBJECTIVES = {
    "layers_8x160": "every layer, L1 - log sigmoid cosine",
    "last_8x160": "layers 4, 8, 12 from the last, split heads",
    "linear_heads": "the same, a Linear for each",
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
PROBES: Dict[str, str] = {  # result -> title of its axis
    "wakeword": "six wake words, accuracy, %",
    "digits": "ten digits, accuracy, %",
    "digits.speaker": "six speakers, accuracy, %",
    "librispeech.speaker": "unseen speakers, EER, %",
}


def measure_loss(work: Path, name: str) -> str:
    """Mean over the teacher's layers of the loss of least-squares maps from the student's; none where frames differ."""
    if not (work / "results" / f"{name}.layers.json").exists():
        return "-"
    losses = [layer["loss"] for layer in load(work, f"{name}.layers").values()]
    return f"{sum(losses) / len(losses):.4f}"


def describe(work: Path, name: str, probes: Sequence[str]) -> List[str]:
    """Cells that all tables share: size, speed, probes."""
    info = load(work, f"{name}.info")
    cells = [f"{info['parameters']['encoder'] / 1e6:.2f} M", f"{info['macs_per_second'] / 1e6:.0f} M"]
    cells += [f"{info['real_time_factor']:.4f}"]
    for probe in probes:
        result = load(work, f"{name}.{probe}")
        cells.append(percent(result["eer"]) if probe == "librispeech.speaker" else format_accuracy(result))
    return cells


TITLES = {
    "wakeword": "wakeword",
    "digits": "digits",
    "digits.speaker": "digits, speaker",
    "librispeech.speaker": "unseen speakers, EER",
}
SIZES = ["parameters", "MACs per second", "RTF"]


def is_done(work: Path, name: str, probes: Sequence[str] = tuple(PROBES)) -> bool:
    """Whether all of a student's results are there."""
    return all((work / "results" / f"{name}.{result}.json").exists() for result in ("info", *probes))


def print_shapes(work: Path) -> None:
    """A row for each shape and way of distilling; the teacher first."""
    rows = [["teacher, 12x256", "", *describe(work, "teacher", list(PROBES)), ""]]
    for way, title in WAYS.items():
        for shape in (s for s in SHAPES if is_done(work, f"{way}_{s}")):
            name = f"{way}_{shape}"
            rows.append([shape, title, *describe(work, name, list(PROBES)), measure_loss(work, name)])
    print_rows(["layers x width", "distilled", *SIZES, *TITLES.values(), "held-out loss"], rows)


def print_objectives(work: Path) -> None:
    """A row for each objective at one shape."""
    probes = [probe for probe in PROBES if probe != "wakeword"]  # which tells students apart least, and takes longest
    names = [name for name in OBJECTIVES if is_done(work, name, probes)]
    rows = [[OBJECTIVES[name], *describe(work, name, probes), measure_loss(work, name)] for name in names]
    print_rows(["objective", *SIZES, *(TITLES[probe] for probe in probes), "held-out loss"], rows)


def read_point(work: Path, name: str, probe: str) -> Tuple[float, float, float]:
    """(value, below, above) in percent: an accuracy with its interval's arms; an equal error rate with none."""
    result = load(work, f"{name}.{probe}")
    if probe.startswith("librispeech"):
        return 100 * result["eer"], 0.0, 0.0
    low, high = result["accuracy_interval"]
    return 100 * result["accuracy"], 100 * (result["accuracy"] - low), 100 * (high - result["accuracy"])


def draw(work: Path, path: Path) -> None:
    """Each probe over the number of layers, a line for each way of distilling, the teacher as a dashed line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(9, 6.5), sharex=True, layout="constrained")
    for axes, (probe, title) in zip(panels.flat, PROBES.items()):
        for offset, (way, label) in zip((0.97, 1.03), WAYS.items()):
            shapes = [s for s in SHAPES if is_done(work, f"{way}_{s}")]
            values, below, above = zip(*(read_point(work, f"{way}_{s}", probe) for s in shapes))
            depths = [offset * int(s.split("x")[0]) for s in shapes]
            axes.errorbar(depths, values, (below, above), marker="o", capsize=3, label=label)
        axes.axhline(
            read_point(work, "teacher", probe)[0], color="0.4", linestyle="--", label="teacher, 4 times as large"
        )
        axes.set_title(title)
        axes.set_xscale("log", base=2)
        label_depths(axes, SHAPES)
        axes.grid(alpha=0.3)
    for axes in panels[1]:
        axes.set_xlabel("layers x width, all 2.6 M parameters")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=110)


def label_depths(axes, shapes: Sequence[str]) -> None:
    """Ticks at the depths, named by their shapes."""
    axes.set_xticks([int(s.split("x")[0]) for s in shapes], shapes)
    axes.minorticks_off()


def main(work: Path) -> None:
    """Print the tables that there are results for; draw once all shapes are there."""
    print_shapes(work)
    print_objectives(work)
    if all(is_done(work, f"{way}_{shape}") for way in WAYS for shape in SHAPES):
        draw(work, work / "depth.png")
        print(f"picture: {work / 'depth.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
