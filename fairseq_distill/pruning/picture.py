"""A picture of what pruning left: channels of each convolution, heads and feed-forward units of each layer."""

from pathlib import Path

from ..encoder.config import EncoderConfig
from ..output.figures import make_figure, save_figure


def draw_units(before: EncoderConfig, after: EncoderConfig, path: Path) -> None:
    """Draw bars of what is left over outlines of what there was, into `path`, in the format that its ending names.

    Raises:
        UserError: matplotlib is missing, or the file cannot be written.
    """
    figure = make_figure(11, 3.6)
    convolutions = [[channels for channels, _, _ in cfg.conv_layers] for cfg in (before, after)]
    panels = [
        ("conv channels", "convolution", 0, convolutions),
        ("attention heads", "layer", 1, [before.heads, after.heads]),
        ("feed-forward units", "layer", 1, [before.ffn_dims, after.ffn_dims]),
    ]
    for axes, (title, label, first, (was, left)) in zip(figure.subplots(1, 3), panels):
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
