"""K-means on a teacher's frames: of any amount of speech, within the memory of `MAX_FRAMES`."""

import logging
import time
from pathlib import Path
from typing import Any, Dict, NamedTuple, Union

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from ..data.audio_file import BrokenAudio
from ..data.speech_sample import SpeechSample
from ..encoder.size import frame_rate
from ..errors import UserError
from .frames import LayerFrames

logger = logging.getLogger(__name__)

MAX_FRAMES = 300_000  # ours: 600 for each of 500 clusters; 0.9 GB for HuBERT Base
# As HuBERT's own units were made (examples/hubert/simple_kmeans of fairseq).
_SETTINGS = dict(batch_size=10_000, max_iter=100, n_init=20, tol=0.0, max_no_improvement=100, reassignment_ratio=0.0)


class Fit(NamedTuple):
    """Centroids (clusters, width) float32, and "fit" in units.json: frames, their mean squared distance, the speech."""

    centroids: np.ndarray
    facts: Dict[str, Any]


def fit_units(layer_frames: LayerFrames, manifest: Union[str, Path], seconds: float, clusters: int, seed: int) -> Fit:
    """Cluster the frames of so many seconds of a manifest's speech, drawn at random.

    Raises:
        UserError: fewer frames than clusters, a layer that is not finite, and as `SpeechSample`.
    """
    sample = SpeechSample(manifest, seconds, seed, layer_frames.encoder.cfg)
    frames = _gather_frames(layer_frames, sample, seconds, seed)
    if len(frames) < clusters:
        raise UserError(
            f"{manifest}: {sample.seconds:.1f} s of it make {len(frames)} frames, too few for {clusters} clusters: "
            "give more speech (--seconds, or a larger manifest), or ask for fewer (--clusters)"
        )
    logger.info(f"k-means: {clusters} clusters of {len(frames):,} frames ...")
    started = time.time()
    kmeans = MiniBatchKMeans(clusters, random_state=seed, **_SETTINGS).fit(frames)
    logger.info(f"k-means: done after {time.time() - started:.0f} s")
    inertia = float(kmeans.inertia_) / len(frames)
    centroids = np.asarray(kmeans.cluster_centers_, dtype=np.float32)
    return Fit(centroids, {"frames": len(frames), "inertia_per_frame": inertia, **sample.describe()})


def _gather_frames(layer_frames: LayerFrames, sample: SpeechSample, seconds: float, seed: int) -> np.ndarray:
    """(frames, width) float32, at most `MAX_FRAMES`: of a larger sample, each with the same chance."""
    cfg = layer_frames.encoder.cfg
    available = min(seconds, sum(sample.manifest.sizes) / cfg.sample_rate) * frame_rate(cfg)
    share = min(1.0, MAX_FRAMES / max(available, 1.0))
    random = np.random.default_rng([seed, 1])  # another stream than the sample's own
    kept = np.empty((min(MAX_FRAMES, int(available) + 1), cfg.encoder_embed_dim), dtype=np.float32)
    count = 0
    for wave, _ in sample:
        try:
            for frames in layer_frames(wave[0]):
                frames = frames[random.random(len(frames)) < share][: len(kept) - count]
                kept[count : count + len(frames)] = frames
                count += len(frames)
        except BrokenAudio as problem:
            raise UserError(
                f"{sample.manifest.file}: a wave cannot be used: {problem}; choose another --layer"
            ) from problem
    return kept[:count]
