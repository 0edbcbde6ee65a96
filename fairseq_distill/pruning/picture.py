"""A picture of what pruning left: channels of each convolution, heads and feed-forward neurons of each layer."""

from pathlib import Path

from ..encoder.config import PRUNABLE, EncoderConfig, count_places
from ..output.figures import make_figure, save_figure


def draw_shapes(before: EncoderConfig, after: EncoderConfig, path: Path) -> None:
    """Draw bars of what is left over outlines of what there was, into `path`, in the format that its ending names.

    Raises:
        UserError: matplotlib is missing, or the file cannot be written.
    """
    names = [name for name, kind in PRUNABLE.items() if not kind.whole]
    sizes = [count_places(cfg) for cfg in (before, after)]
    figure = make_figure(11, 3.6)
    for axes, name in zip(figure.subplots(1, len(names)), names):
        was, left = (counts[name] for counts in sizes)
        label, first = ("convolution", 0) if name == "conv" else ("layer", 1)
        title = PRUNABLE[name].what
        places = range(first, first + len(was))
        small = len(was) > 12
        bars = [
            axes.bar(places, was, color="none", edgecolor="0.6", label="before"),
            axes.bar(places, left, color="tab:blue", label="left"),
        ]
        axes.bar_label(bars[1], fontsize=5 if small else 7)
        axes.set_title(f"{title}: {sum(left)} of {sum(was)}", fontsize=10)
        axes.set_xlabel(label)
        axes.set_xticks(places)
        axes.tick_params(labelsize=6 if small else 9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=bars, loc="outside lower center", ncols=2, fontsize=8)
    save_figure(figure, path)
