"""Draw docs/overview.png (for the README) and docs/architecture.png: python docs/draw_diagrams.py.

Both stand on a light card of their own, so that they are as legible on a dark page as on a light one.
"""

from pathlib import Path
from typing import Any, List, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

HERE = Path(__file__).parent
CARD, EDGE, INK, SOFT = "#fbfaf7", "#c9c4b8", "#1f2328", "#57606a"
GROUPS = ["#4c78a8", "#59a14f", "#e08214", "#b35c9e"]
PLAIN, GHOST = "#8295a8", "#e4e1d8"


def start(width: float, height: float) -> Any:
    """A figure of inches that are also its units, with the card."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    box(axes, 0.06, 0.06, width - 0.12, height - 0.12, CARD, EDGE, 0.15)
    return axes


def box(
    axes: Any, x: float, y: float, width: float, height: float, face: str, edge: str = EDGE, round_: float = 0.08
) -> None:
    """A box with round corners, by its lower left one."""
    style = f"round,pad=0,rounding_size={round_}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=1.2))


def write(
    axes: Any,
    x: float,
    y: float,
    text: str,
    size: float = 10.5,
    bold: bool = False,
    color: str = INK,
    align: str = "center",
):
    """Text around a point."""
    axes.text(
        x,
        y,
        text,
        fontsize=size,
        color=color,
        ha=align,
        va="center",
        linespacing=1.35,
        weight="bold" if bold else "normal",
    )


def arrow(axes: Any, begin: Sequence[float], end: Sequence[float], bend: float = 0.0, dashed: bool = False) -> None:
    """An arrow from one point to another."""
    style = f"arc3,rad={bend}"
    patch = FancyArrowPatch(
        begin,
        end,
        arrowstyle="-|>",
        mutation_scale=13,
        linewidth=1.6,
        color=SOFT,
        connectionstyle=style,
        linestyle="--" if dashed else "-",
    )
    axes.add_patch(patch)


def layers(
    axes: Any, x: float, y: float, widths: Sequence[float], height: float, colors: List[str], full: float = 0.0
) -> float:
    """Draw a stack centred on x, the first layer at the bottom, what `full` has more as gone; returns its top."""
    for width, color in zip(widths, colors):
        if full:
            axes.add_patch(Rectangle((x - full / 2, y), full, height * 0.78, facecolor=GHOST, edgecolor="none"))
        axes.add_patch(Rectangle((x - width / 2, y), width, height * 0.78, facecolor=color, edgecolor="none"))
        y += height
    return y


def convolutions(axes: Any, x: float, y: float, width: float, height: float) -> None:
    """The convolution stack below the layers."""
    corners = [(x - width / 2, y), (x + width / 2, y), (x + width * 0.36, y + height), (x - width * 0.36, y + height)]
    axes.add_patch(Polygon(corners, closed=True, facecolor="#c3ccd6", edgecolor="none"))


def draw_overview() -> None:
    """What the project does: a teacher, three ways to a student, and what the student is."""
    axes = start(10.4, 5.0)
    by_cluster = [GROUPS[0]] * 4 + [GROUPS[1]] * 4 + [GROUPS[2]] * 2 + [GROUPS[3]] * 2

    write(axes, 1.5, 4.6, "teacher", 14, bold=True)
    write(axes, 1.5, 4.22, "HuBERT, wav2vec 2.0,\ndata2vec, WavLM", 10.5, color=SOFT)
    convolutions(axes, 1.5, 0.72, 1.8, 0.4)
    layers(axes, 1.5, 1.18, [1.8] * 12, 0.225, by_cluster)
    write(axes, 1.5, 0.42, "released file, as it is", 10.5, color=SOFT)

    rows = [
        (3.72, "distil", "into a shape of your choice:\ndeep and thin, wide and shallow"),
        (2.32, "cluster", "layers that say the same\nbecome one target"),
        (0.92, "prune", "channels, heads, FFN neurons\nclose while it learns, then are cut"),
    ]
    for y, title, text in rows:
        arrow(axes, (2.55, 2.32 + (y - 2.32) * 0.4), (3.2, y), bend=0.0)
        box(axes, 3.25, y - 0.6, 4.35, 1.2, "#ffffff")
        write(axes, 3.42, y + 0.34, title, 13, bold=True, align="left")
        write(axes, 3.42, y - 0.16, text, 10.5, color=SOFT, align="left")
        arrow(axes, (7.65, y), (8.05, 2.32 + (y - 2.32) * 0.4), bend=0.0)
    layers(axes, 6.42, 3.22, [0.3] * 12, 0.083, [PLAIN] * 12)
    layers(axes, 7.12, 3.22, [0.62] * 3, 0.2, [PLAIN] * 3)
    top = layers(axes, 6.42, 1.84, [0.55] * 12, 0.083, by_cluster)
    for color, begin, end in zip(GROUPS, (0, 4, 8, 10), (4, 8, 10, 12)):
        middle = 1.84 + 0.083 * (begin + end) / 2 - 0.01
        axes.plot([6.74, 6.96], [middle, middle], color=SOFT, linewidth=1.2)
        axes.add_patch(Rectangle((7.0, middle - 0.06), 0.4, 0.12, facecolor=color, edgecolor="none"))
    assert top < 2.92
    left = [0.62, 0.52, 0.6, 0.42, 0.5, 0.34, 0.42, 0.28, 0.2, 0.12, 0.3, 0.38]
    layers(axes, 6.92, 0.44, left, 0.083, [PLAIN] * 12, full=0.95)

    box(axes, 8.1, 0.82, 2.1, 3.0, "#ffffff")
    write(axes, 9.15, 3.44, "student", 14, bold=True)
    write(axes, 9.15, 3.0, "a quarter of the size,\na fairseq HubertModel", 10.5, color=SOFT)
    write(axes, 9.15, 1.95, "pretrain on\nfine-tune: keywords,\nspeakers, letters\nload in Python\nprune again", 10.5)
    write(axes, 9.15, 1.06, "needs no teacher", 10.5, color=SOFT)
    save(axes, "overview.png")


def draw_architecture() -> None:
    """The way of the data, with the folder that holds each step."""
    axes = start(10.4, 7.5)

    def step(
        x: float, y: float, width: float, title: str, text: str, place: str, height: float = 0.98, face: str = "#ffffff"
    ):
        box(axes, x - width / 2, y - height / 2, width, height, face)
        write(axes, x, y + height / 2 - 0.2, title, 11.5, bold=True)
        write(axes, x, y - 0.04, text, 10)
        write(axes, x, y - height / 2 + 0.16, place, 9.5, color="#4c78a8")

    step(2.2, 6.8, 3.6, "manifest and audio", "train.tsv: folder, then path and samples", "data/")
    step(8.0, 6.8, 4.2, "checkpoint of the teacher", "settings and weights, no code is run", "checkpoints/")
    step(2.2, 5.2, 3.6, "batch of waves", "padded and masked, or cropped", "tasks/, data/")
    step(8.0, 5.2, 4.2, "where the student starts", "layers, channels, heads of the teacher", "initialization/")
    step(2.2, 3.55, 3.6, "teacher, frozen", "runs as far as a group needs it", "encoder/")
    step(
        8.0,
        3.55,
        4.2,
        "student, with gates and heads",
        "any shape; a gate scales the weights that read it",
        "models/, encoder/, pruning/",
    )
    step(
        5.1,
        1.95,
        9.2,
        "one objective",
        "align frames, mask padding, a distance for each group, weigh, sum, log; and the size loss of pruning",
        "criterions/, distillation/",
        face="#eef3f8",
    )
    step(2.2, 0.68, 3.6, "checkpoint of the run", "no teacher inside", "fairseq's trainer", height=0.9)
    step(
        8.0,
        0.68,
        4.2,
        "smaller student",
        "cut, then distilled again or fine-tuned",
        "pruning/, fairseq-distill prune",
        height=0.9,
    )

    arrow(axes, (2.2, 6.3), (2.2, 5.71))
    arrow(axes, (8.0, 6.3), (8.0, 5.71))
    arrow(axes, (2.2, 4.7), (2.2, 4.06))
    arrow(axes, (4.02, 5.0), (5.88, 3.85))
    arrow(axes, (5.88, 6.5), (4.02, 3.85))
    arrow(axes, (8.0, 4.7), (8.0, 4.06))
    arrow(axes, (2.2, 3.05), (2.2, 2.46))
    write(axes, 2.32, 2.76, "targets: mean over each group of layers", 9.5, color=SOFT, align="left")
    arrow(axes, (8.0, 3.05), (8.0, 2.46))
    write(axes, 7.88, 2.76, "predictions: one for each group", 9.5, color=SOFT, align="right")
    arrow(axes, (2.2, 1.45), (2.2, 1.14))
    arrow(axes, (4.02, 0.68), (5.88, 0.68))
    save(axes, "architecture.png")


def save(axes: Any, name: str) -> None:
    """Write a drawing beside this script."""
    axes.figure.savefig(HERE / name, dpi=150, transparent=True, metadata={"Software": None})
    plt.close(axes.figure)


if __name__ == "__main__":
    draw_overview()
    draw_architecture()
