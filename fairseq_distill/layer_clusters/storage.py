"""Clusters on disk: a JSON file that holds all that led to them."""

import json
from pathlib import Path
from typing import List, Union

import numpy as np

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
        plain = json.loads(Path(path).read_text())
        if plain.pop("format") != FORMAT:
            raise ValueError("another version wrote it")
        similarity = plain.pop("similarity")
        similarity["values"] = np.array(similarity["values"], dtype=np.float64)
        plain["tree"] = np.array(plain["tree"], dtype=np.float64).reshape(-1, 4)
        return LayerClusters(similarity=Similarity(**similarity), **plain)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
