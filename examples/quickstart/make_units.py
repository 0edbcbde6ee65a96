"""Make the labels of HuBERT's first pretraining, k-means units of cepstra: train.km, valid.km and dict.km.txt."""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch
from sklearn.cluster import MiniBatchKMeans
from torchaudio.compliance.kaldi import mfcc
from torchaudio.functional import compute_deltas
from tqdm import tqdm

SAMPLE_RATE = 16000
LABEL_RATE = 100  # kaldi's frame shift of 10 ms
MAX_FIT_FRAMES = 300_000


def read_manifest(path: Path) -> list:
    """Paths of the audio files in a fairseq manifest, in its order."""
    root, *lines = path.read_text(encoding="utf-8").splitlines()
    return [Path(root) / line.split("\t")[0] for line in lines]


def cepstra(path: Path) -> np.ndarray:
    """13 MFCC with first and second differences, float32 (frames, 39), 100 frames a second, the first at sample 0."""
    wave, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE or wave.ndim != 1:
        raise SystemExit(f"{path}: {rate} Hz with shape {wave.shape}, but units need 16 kHz mono; convert it first")
    static = mfcc(torch.from_numpy(wave)[None], sample_frequency=SAMPLE_RATE, use_energy=False).T
    first = compute_deltas(static)
    return torch.cat([static, first, compute_deltas(first)]).T.contiguous().numpy()


def fit(features: list, clusters: int, seed: int = 0) -> MiniBatchKMeans:
    """K-means on at most `MAX_FIT_FRAMES` random frames of `features`, a list of (frames, 39)."""
    frames = np.concatenate(features)
    if len(frames) < clusters:
        raise SystemExit(f"{len(frames)} frames of speech cannot make {clusters} units; give more speech")
    if len(frames) > MAX_FIT_FRAMES:
        frames = frames[np.random.default_rng(seed).choice(len(frames), MAX_FIT_FRAMES, replace=False)]
    kmeans = MiniBatchKMeans(n_clusters=clusters, batch_size=10_000, n_init=5, max_no_improvement=50, random_state=seed)
    return kmeans.fit(frames)


def make_units(data: Path, out: Path, clusters: int) -> int:
    """Write labels of the train and valid manifests in `data` to `out`, which appears only when complete.

    Returns:
        number of frames labelled.
    """
    features = {}
    for split in ("train", "valid"):
        paths = read_manifest(data / f"{split}.tsv")
        features[split] = [cepstra(path) for path in tqdm(paths, desc=f"cepstra {split}", unit="utt", mininterval=1)]
    kmeans = fit(features["train"], clusters)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    counts = np.zeros(clusters, dtype=int)
    for split, utterances in features.items():
        with open(partial / f"{split}.km", "w", encoding="utf-8") as file:
            for utterance in utterances:
                units = kmeans.predict(utterance)
                counts += np.bincount(units, minlength=clusters)
                file.write(" ".join(map(str, units)) + "\n")
    with open(partial / "dict.km.txt", "w", encoding="utf-8") as file:
        file.writelines(f"{unit} {count}\n" for unit, count in enumerate(counts))
    os.replace(partial, out)
    return int(counts.sum())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with train.tsv and valid.tsv")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--clusters", type=int, default=50, help="number of units")
    args = parser.parse_args()
    frames = make_units(args.data, args.out, args.clusters)
    print(f"{frames} frames in {args.clusters} units")


if __name__ == "__main__":
    main()
