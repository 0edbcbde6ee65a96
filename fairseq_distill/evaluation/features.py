"""Mean over time of every hidden state of a frozen encoder, for each utterance of a manifest, kept on disk.

A softmax-weighted sum over layers, a mean over time and a linear classifier commute, so these means, one
(layers + 1, width) for each utterance, are all that the probe needs. Utterances go through the encoder one at a time:
in an encoder with a group-norm extractor (HuBERT Base) padding would change the statistics of every frame of a wave.
"""

import hashlib
import json
import logging
import os
import zipfile
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import numpy as np
import torch

from ..checkpoints.reading import load_encoder
from ..data.audio_file import BrokenAudio, Fault
from ..data.manifest import Manifest, read_manifest
from ..data.unreadable import UnreadableFiles, UnreadableLimit
from ..data.waves import process_waves
from ..encoder.model import SpeechEncoder, require
from ..encoder.pieces import encode_pieces
from ..errors import UserError
from ..output.files import write_whole

logger = logging.getLogger(__name__)

FORMAT = 2  # part of every cache key; raise it when the same file and manifest would give other features


@dataclass
class PooledSplit:
    """Pooled features of one manifest.

    Attributes:
        features: (utterances, layers + 1, width) float32, in the manifest's order; NaN where a file could not be used.
        unreadable: row -> why its file could not be used.
    """

    features: np.ndarray
    unreadable: Dict[int, str]


class FeatureStore:
    """Pooled features of one checkpoint: computed when first asked for, read from the cache folder afterwards.

    A file in the cache is named by a hash of the checkpoint's content, the seed, the manifest's root, paths and sizes,
    and each audio file's size and time of change: what any change in these concerns is computed anew.

    Args:
        checkpoint: anything that `load_encoder` reads.
        cache: folder, made when needed.
        random_seed: give the encoder random weights under this seed instead of its own; None keeps its own.
    """

    def __init__(self, checkpoint: Path, cache: Path, random_seed: Optional[int] = None):
        self.checkpoint = Path(checkpoint)
        self.cache = Path(cache)
        self.random_seed = random_seed

    def pool(self, manifest_path: Path) -> PooledSplit:
        """Pooled features of a manifest's utterances.

        Raises:
            UserError: the checkpoint or the manifest cannot be read, or over 1 % of the manifest's files.
        """
        manifest = read_manifest(manifest_path)
        file = self.cache / f"{self._key(manifest)}.npz"
        pooled = _read_cache(file)
        if pooled is None:
            try:  # before the work: it may not be possible
                self.cache.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = f"cannot make the folder {self.cache}: {error.strerror}; choose another by --cache"
                raise UserError(message) from error
            pooled = pool_manifest(self._encoder, manifest)
            _write_cache(file, pooled)
        UnreadableFiles(manifest, UnreadableLimit(len(manifest.paths)), pooled.unreadable).log()
        return pooled

    @cached_property
    def _encoder(self) -> SpeechEncoder:
        encoder = load_encoder(self.checkpoint)
        return encoder if self.random_seed is None else randomise_weights(encoder, self.random_seed)

    @cached_property
    def _checkpoint_hash(self) -> str:
        digest = hashlib.sha256()
        try:
            with open(self.checkpoint, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 22), b""):
                    digest.update(block)
        except OSError as error:
            raise UserError(f"cannot read the checkpoint {self.checkpoint}: {error.strerror}") from error
        return digest.hexdigest()

    def _key(self, manifest: Manifest) -> str:
        audio = [_stat(manifest.path(row)) for row in range(len(manifest.paths))]
        facts = [FORMAT, self._checkpoint_hash, self.random_seed, manifest.root, manifest.paths, manifest.sizes, audio]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def pool_manifest(encoder: SpeechEncoder, manifest: Manifest) -> PooledSplit:
    """Run a frozen encoder over a manifest, one utterance at a time, with a progress bar on stderr.

    Raises:
        UserError: over 1 % of the files cannot be used (one file never stops it); the message shows the first few.
    """
    shape = (len(manifest.paths), encoder.cfg.encoder_layers + 1, encoder.cfg.encoder_embed_dim)
    features = np.full(shape, np.nan, dtype=np.float32)

    cfg, pool, rows = encoder.cfg, partial(pool_wave, encoder), range(len(features))
    pooled, unreadable = process_waves(manifest, rows, cfg.sample_rate, cfg.shortest_wave, pool, "features of")
    for row, values in pooled.items():
        features[row] = values
    return PooledSplit(features, unreadable.reasons)


@torch.inference_mode()
def pool_wave(encoder: SpeechEncoder, wave: torch.Tensor) -> np.ndarray:
    """Mean over time of each hidden state: (samples,) -> (layers + 1, width) float32.

    Raises:
        BrokenAudio: a hidden state is not finite.
    """
    means, frames = [], []
    for output in encode_pieces(encoder, wave):  # of a long wave, hidden states of all layers need gigabytes
        hidden = [require(state)[0] for state in output.hidden]
        means.append(torch.stack([state.mean(0) for state in hidden]))
        frames.append(len(hidden[0]))
    share = torch.tensor(frames) / sum(frames)
    pooled = (torch.stack(means) * share[:, None, None]).sum(0).numpy()
    bad = ~np.isfinite(pooled).all(axis=1)
    if bad.any():
        raise BrokenAudio(Fault.NOT_FINITE, f"the encoder makes hidden state {int(bad.argmax())} of it not finite")
    return pooled


def randomise_weights(encoder: SpeechEncoder, seed: int) -> SpeechEncoder:
    """A freshly initialised encoder of the same shape, in evaluation mode; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = SpeechEncoder(encoder.cfg)
    fresh.normalize_input = encoder.normalize_input
    return fresh.eval()


def _stat(path: str) -> Sequence[Optional[int]]:
    """Size and time of change of an audio file, or of the ZIP file in ZIP:OFFSET:LENGTH; None for both without one."""
    files = filter(os.path.isfile, (path, path.rsplit(":", 2)[0]))
    facts = next(map(os.stat, files), None)
    return (None, None) if facts is None else (facts.st_size, facts.st_mtime_ns)


def _read_cache(file: Path) -> Optional[PooledSplit]:
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            return PooledSplit(stored["features"], dict(zip(stored["rows"].tolist(), stored["reasons"].tolist())))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning(f"{file} is damaged ({error}); computing its features again")
        return None


def _write_cache(file: Path, pooled: PooledSplit) -> None:
    arrays: Dict[str, Any] = {
        "features": pooled.features,
        "rows": np.array(list(pooled.unreadable), dtype=np.int64),
        "reasons": np.array(list(pooled.unreadable.values()), dtype=str),
    }
    try:
        write_whole(file, lambda path: np.savez(path, **arrays))
    except UserError as error:
        raise UserError(f"{error}; choose another folder by --cache") from error
