"""Pictures of layer similarities: an encoder's matrix beside its tree of clusters, and the map between two encoders."""

from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
from scipy.cluster import hierarchy

from ..output.figures import make_figure, save_figure
from .clustering import LayerClusters
from .similarity import Similarity

TITLES = {"cka": "linear CKA", "debiased_cka": "debiased linear CKA", "cosine": "mean cosine"}
MOST_NUMBERED = 16  # states; with more, numbers in the cells are too small to read
_GREY = "0.5"


def draw_clusters(clusters: LayerClusters, path: Path) -> None:
    """Draw the similarities of all hidden states beside the tree of those that were clustered, each group in a colour.

    The format is the one that the path's ending names.

    Raises:
        UserError: matplotlib is missing, or the file cannot be written.
    """
    states = len(clusters.similarity.values)
    side = 2.2 + (0.36 if states <= MOST_NUMBERED else 0.2) * states
    figure = make_figure(1.9 * side, side)
    matrix, tree = figure.subplots(1, 2, width_ratios=[1.25, 1])
    _draw_matrix(matrix, clusters.similarity, "layer", "layer")
    colours = _choose_colours(clusters)
    for group in clusters.groups or []:
        _outline(matrix, group, colours[group[0]])
    _draw_tree(tree, clusters, colours)
    save_figure(figure, path)


def draw_similarity(similarity: Similarity, path: Path, rows: str, columns: str) -> None:
    """Draw the map between two encoders' hidden states; a ring in each row marks its highest value. Errors as above.

    `rows` and `columns` are the names of the axes.
    """
    height, width = similarity.values.shape
    figure = make_figure(3 + 0.45 * width, 2 + 0.4 * height)
    axes = figure.subplots()
    _draw_matrix(axes, similarity, rows, columns)
    best = similarity.values.argmax(axis=1)
    axes.scatter(best, range(height), s=420, facecolors="none", edgecolors="tab:red", linewidths=1.5)
    axes.set_title(f"{axes.get_title()}\nringed: the highest of each row", fontsize=11)
    save_figure(figure, path)


def _draw_matrix(axes: Any, similarity: Similarity, rows: str, columns: str) -> None:
    """Cells in colours from the lowest value to 1, with two decimals where they fit."""
    values = similarity.values
    lowest = min(values.min(), 0.99)
    image = axes.imshow(values, cmap="viridis", vmin=lowest, vmax=max(values.max(), lowest + 0.01))
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_title(f"{TITLES[similarity.measure]}, {similarity.frames:,} frames", fontsize=11)
    axes.set_xlabel(columns)
    axes.set_ylabel(rows)
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(values.shape[0]))
    axes.tick_params(labelsize=9 if max(values.shape) <= MOST_NUMBERED else 7)
    if max(values.shape) > MOST_NUMBERED:
        return
    dark = image.norm(values) < 0.55
    for (row, column), value in np.ndenumerate(np.round(values, 2) + 0.0):  # not -0.00
        text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.0f}"
        colour = "white" if dark[row, column] else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)


def _choose_colours(clusters: LayerClusters) -> Dict[int, str]:
    """A colour for each layer, the same within a group; groups of one layer, and a tree that was not cut, are grey."""
    groups = clusters.groups or []
    large = [group for group in groups if len(group) > 1]
    colours = {layer: f"C{number % 10}" for number, group in enumerate(large) for layer in group}
    return {layer: colours.get(layer, _GREY) for group in groups for layer in group}


def _outline(axes: Any, group: List[int], colour: str) -> None:
    """Frame the cells of every two layers of a group."""
    from matplotlib.patches import Rectangle

    runs = np.split(group, np.flatnonzero(np.diff(group) > 1) + 1)
    for one in runs:
        for other in runs:
            corner, size = (other[0] - 0.5, one[0] - 0.5), (len(other), len(one))
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=4))
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2))


def _draw_tree(axes: Any, clusters: LayerClusters, colours: Dict[int, str]) -> None:
    """The tree with layers downwards and distance to the right, the cut as a dashed line."""
    axes.set_title(f"{clusters.linkage} linkage" + (", neighbours only" if clusters.adjacent else ""), fontsize=11)
    axes.set_xlabel("Ward's distance" if clusters.linkage == "ward" else "1 - similarity")
    if len(clusters.layers) < 2:
        axes.text(0.5, 0.5, "one layer only", ha="center", transform=axes.transAxes)
        return
    tree, members = _order(clusters.tree, len(clusters.layers))

    def colour_of(number: int) -> str:
        layers = {clusters.layers[item] for item in members[number]}
        in_a_group = any(layers <= set(group) for group in clusters.groups or [])
        return colours[min(layers)] if in_a_group else _GREY

    names = [str(layer) for layer in clusters.layers]
    hierarchy.dendrogram(tree, ax=axes, orientation="right", labels=names, link_color_func=colour_of, leaf_font_size=9)
    # layers downwards, ten units each, beside the matrix's rows: an empty place on top where layer 0 is not in the tree
    axes.set_ylim(10 * len(clusters.layers), -10 * clusters.layers[0])
    axes.set_ylabel("layer")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlim(0, 1.05 * tree[-1, 2] or 1)
    if clusters.groups and len(clusters.groups) > 1:
        heights = np.append(0, tree[:, 2])
        merges = len(clusters.layers) - len(clusters.groups)
        at = clusters.height if clusters.height is not None else heights[merges : merges + 2].mean()
        axes.axvline(at, color="black", linestyle="--", linewidth=1)
        axes.set_title(f"{axes.get_title()}, {len(clusters.groups)} groups", fontsize=11)


def _order(tree: np.ndarray, items: int) -> Tuple[np.ndarray, List[List[int]]]:
    """The tree with the branch of the lower layers first, and the items under each of its nodes."""
    tree, members = tree.copy(), [[item] for item in range(items)]
    for merge in tree:
        branches = sorted((int(branch) for branch in merge[:2]), key=lambda branch: np.mean(members[branch]))
        merge[:2] = branches
        members.append([item for branch in branches for item in members[branch]])
    return tree, members
