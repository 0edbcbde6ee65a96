"""Clusters on disk: a JSON file that holds all that led to them."""

import json
from pathlib import Path
from typing import List, Union

import numpy as np
from scipy.cluster import hierarchy

from ..errors import UserError
from ..output.files import write_whole
from .clustering import LayerClusters
from .similarity import Similarity

FORMAT = 1


def write_clusters(path: Union[str, Path], clusters: LayerClusters) -> None:
    """Write a file that `read_clusters` reads; it appears whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    plain = {**vars(clusters), "tree": clusters.tree.tolist()}
    plain["similarity"] = {**vars(clusters.similarity), "values": clusters.similarity.values.tolist()}
    plain = {"format": FORMAT, "groups": plain.pop("groups"), **plain}  # a line each, the groups first
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in plain.items()]
    write_whole(path, lambda partial: partial.write_text("{\n" + ",\n".join(lines) + "\n}\n"))


def read_clusters(path: Union[str, Path]) -> LayerClusters:
    """Read what `write_clusters` wrote.

    Raises:
        UserError: the file is missing, broken or something else.
    """
    try:
        plain = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        if plain.pop("format") != FORMAT:
            raise ValueError("another version wrote it")
        similarity = plain.pop("similarity")
        similarity["values"] = np.array(similarity["values"], dtype=np.float64)
        plain["tree"] = np.array(plain["tree"], dtype=np.float64).reshape(-1, 4)
        found = LayerClusters(similarity=Similarity(**similarity), **plain)
        _check(found)
        return found
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} is no file of clusters ({type(error).__name__}: {error}): fairseq-distill clusters --out makes one"
        ) from error


def read_groups(path: Union[str, Path]) -> List[List[int]]:
    """The groups of a file of clusters, for `criterion.groups`.

    Raises:
        UserError: as `read_clusters`; and it holds a tree that was not cut.
    """
    groups = read_clusters(path).groups
    if groups is None:
        raise UserError(f"{path} holds no groups, its tree was not cut: fairseq-distill clusters --clusters K does so")
    return groups


def _check(found: LayerClusters) -> None:
    """Raise ValueError where a file that was changed by hand holds what no clustering gives."""
    values, layers = found.similarity.values, found.layers
    if values.ndim != 2 or len(set(values.shape)) != 1 or not np.isfinite(values).all():
        raise ValueError("its similarities are no square of numbers")
    for numbers in [layers, *(found.groups or [])]:
        whole = isinstance(numbers, list) and all(type(number) is int for number in numbers)
        if not whole or not numbers or not set(numbers) <= set(range(len(values))):
            raise ValueError(f"{numbers!r:.80} is no list of layers from 0 to {len(values) - 1}")
    members = [number for group in found.groups or [layers] for number in group]
    if sorted(members) != sorted(set(layers)):
        raise ValueError("its groups are not its layers, each once")
    if found.tree.shape != (len(layers) - 1, 4) or (len(layers) > 1 and not hierarchy.is_valid_linkage(found.tree)):
        raise ValueError("its tree is none over its layers")
