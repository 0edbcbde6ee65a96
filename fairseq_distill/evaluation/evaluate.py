"""The whole evaluation: manifests and labels of three splits in, accuracy and equal error rate out."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ..data.manifest import read_manifest
from ..errors import UserError
from .features import FeatureStore
from .labels import read_labels
from .probe import Probe, Standardiser, accuracy_interval, choose_probe
from .verification import count_pairs, verify

SPLITS = ("train", "valid", "test")
LABELS = ("keyword", "speaker")


@dataclass
class Split:
    """The utterances of one split that have both a label and features.

    Attributes:
        features: (utterances, layers + 1, width).
        labels: one an utterance.
        skipped: rows of the manifest that were left out: how many for which reason.
    """

    features: np.ndarray
    labels: List[str]
    skipped: Dict[str, int]


def evaluate(
    checkpoint: Path, data: Path, label: str, cache: Path, random_seed: Optional[int] = None
) -> Dict[str, Any]:
    """Evaluate a frozen encoder on labelled speech.

    Args:
        checkpoint: anything that `load_encoder` reads.
        data: folder with train, valid and test, each as SPLIT.tsv and SPLIT.LABEL.
        label: "keyword" or "speaker"; only the latter has equal error rates.
        cache: folder where pooled features are kept.
        random_seed: evaluate the same network with random weights under this seed.

    Returns:
        what `--json` prints: always the same keys; a figure that does not exist is None, and "accuracy_reason" or
        "eer_reason" says why.

    Raises:
        UserError: a file is missing or wrong, or the labels do not make a task.
    """
    start = time.monotonic()
    data = Path(data)
    labels = read_all_labels(data, label)
    # told now, not after minutes of computing features
    check_task({name: [text for text in texts if text] for name, texts in labels.items()}, label, data)
    store = FeatureStore(checkpoint, cache, random_seed)
    splits = {name: read_split(store, data / f"{name}.tsv", labels[name]) for name in SPLITS}
    reasons = check_task({name: split.labels for name, split in splits.items()}, label, data)
    standardise = Standardiser.fit(splits["train"].features)
    for split in splits.values():
        split.features = standardise(split.features)

    result: Dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "random_weights": random_seed,
        "data": str(data),
        "label": label,
        "classes": len(set(splits["train"].labels)),
        **{name: len(split.labels) for name, split in splits.items()},
        "skipped": {name: split.skipped for name, split in splits.items()},
        **dict.fromkeys(["accuracy", "accuracy_interval", "chance", "valid_accuracy", "l2", "layer_weights"]),
        **dict.fromkeys(["eer", "eer_layers", "eer_per_layer", "same_pairs", "different_pairs"]),
        **reasons,
    }
    probe = None
    if reasons["accuracy_reason"] is None:
        probe, figures = classify(splits)
        result.update(figures)
    if reasons["eer_reason"] is None:
        result.update(verify_speakers(splits["valid"], splits["test"], probe))
    result["seconds"] = round(time.monotonic() - start, 1)
    return result


def read_all_labels(data: Path, label: str) -> Dict[str, List[str]]:
    """Labels of every split, "" where a row has none.

    Raises:
        UserError: a manifest or a label file is missing, or one does not fit the other.
    """
    if not data.is_dir():
        raise UserError(f"{data} is no folder; --data must be the one that holds train.tsv, valid.tsv and test.tsv")
    missing = [f for name in SPLITS for f in (f"{name}.tsv", f"{name}.{label}") if not (data / f).is_file()]
    if missing:
        raise UserError(
            f"{data} lacks {', '.join(missing)}: evaluation on {label}s trains on train, chooses on valid and reports "
            f"on test, each with a manifest SPLIT.tsv and one label a line in SPLIT.{label}"
        )
    return {
        name: read_labels(data / f"{name}.{label}", len(read_manifest(data / f"{name}.tsv").paths)) for name in SPLITS
    }


def check_task(labels: Dict[str, List[str]], label: str, data: Path) -> Dict[str, Optional[str]]:
    """Why there can be no accuracy or no equal error rate, each None where there can.

    Raises:
        UserError: no labels in a split, keywords that cannot be classified, or speakers that allow neither figure.
    """
    for name in SPLITS:
        if not labels[name]:
            raise UserError(f"{data}/{name}.tsv has no utterance with both usable audio and a label in {name}.{label}")
    accuracy = _find_obstacle(labels, label)
    if label == "keyword":
        if accuracy:
            raise UserError(f"{data}/{accuracy}; add utterances to train, or empty the lines of those without a match")
        return {"accuracy_reason": None, "eer_reason": "equal error rates are for speakers"}
    same, different = count_pairs(labels["test"])
    eer = None
    if not (same and different):
        eer = f"test.speaker makes {same} pairs of the same and {different} of different speakers; both are needed"
    if accuracy and eer:
        raise UserError(f"{data} allows neither accuracy nor equal error rate: {accuracy}; {eer}")
    return {"accuracy_reason": accuracy, "eer_reason": eer}


def _find_obstacle(labels: Dict[str, List[str]], label: str) -> Optional[str]:
    """Why these labels cannot be classified, or None."""
    known = set(labels["train"])
    if len(known) < 2:
        return f"train.{label} holds only the class {min(known)!r}, and a classifier needs two"
    for name in ("valid", "test"):
        unseen = Counter(text for text in labels[name] if text not in known)
        if unseen:
            return (
                f"{name}.{label} has {len(unseen)} of its {len(set(labels[name]))} classes, {sum(unseen.values())} of "
                f"its {len(labels[name])} utterances, that train.{label} lacks ({', '.join(sorted(unseen)[:5])}"
                f"{', ...' if len(unseen) > 5 else ''})"
            )
    return None


def read_split(store: FeatureStore, manifest: Path, labels: List[str]) -> Split:
    """Features and labels of one split, without the rows that lack one of them; those are counted."""
    pooled = store.pool(manifest)
    rows = [row for row, text in enumerate(labels) if text and row not in pooled.unreadable]
    skipped = {"unreadable": len(pooled.unreadable), "unlabelled": sum(not text for text in labels)}
    return Split(pooled.features[rows], [labels[row] for row in rows], skipped)


def classify(splits: Dict[str, Split]) -> Tuple[Probe, Dict[str, Any]]:
    """Train the probe, choose it on valid and measure it on test: (probe, its figures)."""
    numbers = {text: number for number, text in enumerate(sorted(set(splits["train"].labels)))}
    train, valid, test = (
        (splits[name].features, np.array([numbers[text] for text in splits[name].labels], dtype=np.int64))
        for name in SPLITS
    )
    probe, valid_accuracy = choose_probe(train, valid, len(numbers))
    right, _ = probe.score(*test)
    commonest = np.bincount(train[1]).argmax()
    return probe, {
        "accuracy": right / len(test[1]),
        "accuracy_interval": list(accuracy_interval(right, len(test[1]))),
        "chance": float((test[1] == commonest).mean()),
        "valid_accuracy": valid_accuracy,
        "l2": probe.l2,
        "layer_weights": probe.layer_weights.tolist(),
    }


def verify_speakers(valid: Split, test: Split, probe: Optional[Probe]) -> Dict[str, Any]:
    """Equal error rate on test, of a sum of layers that test had no part in choosing, and of each layer alone.

    Where valid has pairs of both kinds, the sum is the one with the lowest equal error rate there: of the equal-weight
    average, the probe's sum if there is a probe, and each layer alone; the first of equals. Otherwise it is the
    equal-weight average.
    """
    layers = test.features.shape[1]
    single = np.eye(layers)
    candidates = [("equal weights", np.full(layers, 1 / layers))]
    if probe is not None:
        candidates.append(("the probe's weights", probe.layer_weights))
    candidates += [(f"layer {number}", weights) for number, weights in enumerate(single)]
    if all(count_pairs(valid.labels)):
        name, weights = min(candidates, key=lambda candidate: verify(valid.features, candidate[1], valid.labels))
        choice = f"{name}, lowest on valid"
    else:
        name, weights = candidates[0]
        choice = f"{name}, as valid has no pairs of the same and of different speakers to choose by"
    same, different = count_pairs(test.labels)
    return {
        "eer": verify(test.features, weights, test.labels),
        "eer_layers": choice,
        "eer_per_layer": [verify(test.features, weights, test.labels) for weights in single],
        "same_pairs": same,
        "different_pairs": different,
    }
