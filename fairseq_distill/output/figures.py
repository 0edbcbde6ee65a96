"""matplotlib's figures, made without a display and written whole."""

from pathlib import Path
from typing import Any

from ..errors import UserError
from .files import write_whole


def make_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("--plot needs matplotlib: pip install 'fairseq-distill[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format that the ending of `path` names; UserError if that is no picture's, or it fails."""
    write_whole(path, lambda partial: figure.savefig(partial, dpi=150, bbox_inches="tight", pad_inches=0.15))
