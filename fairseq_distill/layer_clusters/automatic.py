"""`criterion.groups: auto`: clusters of the teachers' layers, found once when training starts."""

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import List, Optional, Union

import numpy as np

from ..checkpoints.reading import load_encoder
from ..data.speech_sample import SpeechSample
from ..encoder.config import EncoderConfig
from ..encoder.layer_groups import format_groups
from ..errors import UserError
from ..run.workers import ask_first_worker
from .clustering import LayerClusters, cluster_layers
from .fingerprint import fingerprint_weights
from .similarity import compute_similarity
from .storage import read_clusters, write_clusters

logger = logging.getLogger(__name__)

FILE = "clusters.json"
_SEED = 0  # of the utterances and frames, not the run's: runs that differ in their seed share their groups


@dataclass
class ClusterRequest:
    """What groups are to be made of.

    Attributes:
        teachers: checkpoints; of several, the similarities are averaged over the layers that all have.
        manifest: speech to compare layers on.
        seconds: how much of it.
        clusters: number of groups.
        linkage, adjacent: see `cluster_layers`.
    """

    teachers: List[str]
    manifest: str
    seconds: float
    clusters: Optional[int]
    linkage: str = "average"
    adjacent: bool = False


def find_groups(request: ClusterRequest, folder: Union[str, Path], device: str = "cpu") -> List[List[int]]:
    """The groups of `folder`/clusters.json; in a new run, clusters are computed by the first process and written there.

    Raises:
        UserError: no number of clusters, or the file was made for something else.
    """
    if request.clusters is None:
        raise UserError(
            "criterion.groups=auto needs criterion.clusters, the number of groups: fairseq-distill clusters shows the "
            "groups for every number, with a picture"
        )
    return ask_first_worker(lambda: _read_or_compute(request, Path(folder) / FILE, device))


def _read_or_compute(request: ClusterRequest, path: Path, device: str) -> List[List[int]]:
    encoders = [load_encoder(teacher) for teacher in request.teachers]
    wanted = {
        **asdict(request),
        "weights_sha256": [fingerprint_weights(encoder) for encoder in encoders],
        "sample_rate": encoders[0].cfg.sample_rate,
    }
    depth = min(encoder.depth for encoder in encoders)
    if not 1 <= wanted["clusters"] <= depth:
        raise UserError(f"criterion.clusters={wanted['clusters']} must be from 1 to {depth}, the layers there are")
    if path.exists():
        found = read_clusters(path)
        # files from before rates were told apart are of the one that there was
        made_for = {"sample_rate": EncoderConfig.sample_rate, **(found.about.get("request") or {})}
        differs = [key for key in wanted if made_for.get(key) != wanted[key]]
        if differs:
            raise UserError(
                f"{path} was made for other settings ({', '.join(differs)} differ): remove it to find groups anew, or "
                "give another checkpoint.save_dir"
            )
        groups = _get_groups(found)
        logger.info(f"groups of {path}: {format_groups(groups)}")
        return groups
    found = compute_clusters(request, encoders, device)
    found.about["request"] = wanted
    write_clusters(path, found)
    groups = _get_groups(found)
    logger.info(f"layers clustered into {format_groups(groups)}, written to {path}")
    return groups


def _get_groups(found: LayerClusters) -> List[List[int]]:
    assert found.groups is not None, "the request has a number of clusters"
    return found.groups


def compute_clusters(request: ClusterRequest, encoders: List, device: str = "cpu") -> LayerClusters:
    """Cluster the layers of encoders, which are moved to `device`; the same waves for all of them."""
    compared = []
    for encoder in encoders:
        sample = SpeechSample(request.manifest, request.seconds, _SEED, encoder.cfg)
        compared.append(compute_similarity(encoder.to(device), sample, seed=_SEED))
        encoder.to("cpu")
    states = min(len(similarity.values) for similarity in compared)
    values = np.mean([similarity.values[:states, :states] for similarity in compared], axis=0)
    mean = replace(compared[0], values=values)
    found = cluster_layers(mean, request.clusters, None, request.linkage, request.adjacent)
    found.about["data"] = sample.describe()
    return found
