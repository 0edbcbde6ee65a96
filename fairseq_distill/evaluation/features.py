"""Mean over time of every hidden state of a frozen encoder, for each utterance of a manifest, kept on disk.

A softmax-weighted sum over layers, a mean over time and a linear classifier commute, so these means, (layers + 1, width)
an utterance, are all that the probe needs. Utterances go through the encoder one at a time: in an encoder with a
group-norm extractor (HuBERT Base) padding changes the statistics of a wave's frames, and with them its features.
"""

import hashlib
import json
import logging
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional, Sequence

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from ..checkpoints import load_encoder
from ..data.manifest import Manifest, read_manifest
from ..encoder.conv_spec import receptive_field
from ..encoder.model import SpeechEncoder
from ..errors import UserError

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
MAX_UNREADABLE = 0.01  # share of a split's files; more than this stops the evaluation
FORMAT = 1  # part of every cache key; raise it when the same file and manifest would give other features


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

    A file in the cache is named by a hash of the checkpoint's content, the seed, and the manifest's root, paths and
    sizes with each audio file's size and time of change, so a changed checkpoint, manifest or audio file is computed anew.

    Args:
        checkpoint: anything that `load_encoder` reads.
        cache: folder, made when needed.
        random_seed: give the encoder random weights under this seed instead of its own; None keeps its own.
    """

    def __init__(self, checkpoint: Path, cache: Path, random_seed: Optional[int] = None):
        self.checkpoint = Path(checkpoint)
        self.cache = Path(cache)
        self.random_seed = random_seed
        self._encoder: Optional[SpeechEncoder] = None
        self._checkpoint_hash: Optional[str] = None

    def pool(self, manifest_path: Path) -> PooledSplit:
        """Pooled features of a manifest's utterances.

        Raises:
            UserError: the checkpoint or the manifest cannot be read, or over 1 % of the manifest's files.
        """
        manifest = read_manifest(manifest_path)
        file = self.cache / f"{self._key(manifest)}.npz"
        pooled = _read_cache(file)
        if pooled is None:
            pooled = pool_manifest(self._load(), manifest, str(manifest_path))
            _write_cache(file, pooled)
        if pooled.unreadable:
            logger.warning(f"{manifest_path}: {describe_unreadable(manifest, pooled.unreadable)}")
        return pooled

    def _load(self) -> SpeechEncoder:
        if self._encoder is None:
            self._encoder = load_encoder(self.checkpoint)
            if self.random_seed is not None:
                self._encoder = randomise_weights(self._encoder, self.random_seed)
        return self._encoder

    def _key(self, manifest: Manifest) -> str:
        if self._checkpoint_hash is None:
            self._checkpoint_hash = _hash_file(self.checkpoint)
        rows = [(str(p), int(n), *_stat(Path(manifest.root) / p)) for p, n in zip(manifest.paths, manifest.sizes)]
        facts = [FORMAT, self._checkpoint_hash, self.random_seed, str(manifest.root), rows]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def pool_manifest(encoder: SpeechEncoder, manifest: Manifest, name: str) -> PooledSplit:
    """Run the encoder over a manifest, one utterance at a time, with a progress bar on stderr.

    Args:
        encoder: frozen, in evaluation mode.
        manifest: the utterances.
        name: what to call the manifest in the progress bar and in errors.

    Raises:
        UserError: over 1 % of the files cannot be used; the message shows the first few.
    """
    shortest = receptive_field(encoder.cfg.conv_layers)
    features = np.full((len(manifest.paths), encoder.cfg.encoder_layers + 1, encoder.cfg.encoder_embed_dim), np.nan, "f4")
    unreadable: Dict[int, str] = {}
    for row, path in enumerate(tqdm(manifest.paths, desc=f"features of {name}", unit=" utterances", mininterval=1)):
        try:
            wave = _read_wave(Path(manifest.root) / path, shortest)
            features[row] = pool_wave(encoder, wave)
        except _Unusable as problem:
            unreadable[row] = str(problem)
            if len(unreadable) > MAX_UNREADABLE * len(manifest.paths):
                raise UserError(
                    f"{name}: {describe_unreadable(manifest, unreadable)}. More than {MAX_UNREADABLE:.0%} of its "
                    f"{len(manifest.paths)} files cannot be used: mend them, or take them and their labels out"
                ) from problem
    return PooledSplit(features, unreadable)


@torch.inference_mode()
def pool_wave(encoder: SpeechEncoder, wave: np.ndarray) -> np.ndarray:
    """Mean over time of each hidden state: (samples,) at 16 kHz -> (layers + 1, width) float32."""
    hidden = encoder(torch.from_numpy(wave).unsqueeze(0)).hidden
    pooled = torch.stack([h[0].mean(0) for h in hidden]).numpy()
    if not np.isfinite(pooled).all():
        layer = int(np.flatnonzero(~np.isfinite(pooled).all(axis=1))[0])
        raise _Unusable(f"hidden state {layer} is not finite")
    return pooled


def randomise_weights(encoder: SpeechEncoder, seed: int) -> SpeechEncoder:
    """A freshly initialised encoder of the same shape, in evaluation mode; torch's global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = SpeechEncoder(encoder.cfg)
    fresh.normalize_input = encoder.normalize_input
    return fresh.eval()


def describe_unreadable(manifest: Manifest, unreadable: Dict[int, str]) -> str:
    """One sentence: how many files could not be used, and the first three with the reason."""
    shown = "; ".join(f"{manifest.paths[row]} ({why})" for row, why in list(unreadable.items())[:3])
    return f"{len(unreadable)} of {len(manifest.paths)} files cannot be used, the first of them: {shown}"


class _Unusable(Exception):
    """Why one file gives no features."""


def _read_wave(path: Path, shortest: int) -> np.ndarray:
    """(samples,) float32; channels are averaged, as fairseq does."""
    if not path.is_file():
        raise _Unusable("no such file")
    try:
        wave, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise _Unusable(f"cannot be decoded: {error}") from error
    if rate != SAMPLE_RATE:
        raise _Unusable(f"{rate} Hz, not {SAMPLE_RATE}")
    if len(wave) < shortest:
        raise _Unusable(f"{len(wave)} samples, but one frame of the encoder needs {shortest}")
    return np.ascontiguousarray(wave.mean(axis=1))


def _stat(path: Path) -> Sequence[Optional[int]]:
    try:
        facts = path.stat()
    except OSError:
        return None, None  # a file that turns up later changes the key
    return facts.st_size, facts.st_mtime_ns


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 22), b""):
                digest.update(block)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    return digest.hexdigest()


def _read_cache(file: Path) -> Optional[PooledSplit]:
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            unreadable = dict(zip(stored["rows"].tolist(), stored["reasons"].tolist()))
            return PooledSplit(stored["features"], unreadable)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning(f"{file} is damaged ({error}); computing its features again")
        return None


def _write_cache(file: Path, pooled: PooledSplit) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as stream:
            np.savez(
                stream,
                features=pooled.features,
                rows=np.array(list(pooled.unreadable), dtype=np.int64),
                reasons=np.array(list(pooled.unreadable.values()), dtype=str),
            )
        os.replace(stream.name, file)
    except OSError as error:
        raise UserError(f"cannot write features to {file.parent}: {error}; choose another folder by --cache") from error
