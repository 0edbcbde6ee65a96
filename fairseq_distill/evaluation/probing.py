"""The whole evaluation of a frozen encoder by a probe: manifests and labels of three splits in, figures out."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ..data.labels import read_labels
from ..data.manifest import read_manifest
from ..errors import UserError
from .bootstrap import DRAWS, SEED
from .classification import measure_classes
from .features import FeatureStore
from .probe import Probe, Standardiser, accuracy_interval, choose_probe
from .trials import Trials, find_trials
from .verification import count_pairs, measure_verification, verify

SPLITS = ("train", "valid", "test")
LABEL_KINDS = ("keyword", "speaker")


@dataclass
class Split:
    """The utterances of one split that have both a label and features.

    Attributes:
        features: (utterances, layers + 1, width).
        labels: one an utterance.
        rows: of the manifest, that they come from.
        skipped: rows of the manifest that were left out: how many for which reason.
    """

    features: np.ndarray
    labels: List[str]
    rows: List[int]
    skipped: Dict[str, int]


def evaluate_probe(
    checkpoint: Path,
    data: Path,
    label: str,
    cache: Path,
    random_seed: Optional[int] = None,
    trials_file: Optional[Path] = None,
) -> Dict[str, Any]:
    """Evaluate a frozen encoder on labelled speech.

    Args:
        checkpoint: anything that `load_encoder` reads.
        data: folder with train, valid and test, each as SPLIT.tsv and SPLIT.LABEL.
        label: "keyword" or "speaker"; only the latter has equal error rates.
        cache: folder where pooled features are kept.
        random_seed: evaluate the same network with random weights under this seed.
        trials_file: pairs of test utterances to compare, see `read_trials`; None = all pairs.

    Returns:
        what `--json` prints: always the same keys; a figure that does not exist is None, and "accuracy_reason" or
        "eer_reason" says why.

    Raises:
        UserError: a file is missing or wrong, or the labels do not make a task.
    """
    start = time.monotonic()
    data = Path(data)
    labels = read_all_labels(data, label)
    listed = None
    if trials_file is not None:
        if label != "speaker":
            raise UserError(f"--trials {trials_file} compares speakers: give --label speaker")
        listed = find_trials(trials_file, data, read_manifest(data / "test.tsv"), labels["test"])
    # told now, not after minutes of computing features
    rows = {name: [row for row, text in enumerate(texts) if text] for name, texts in labels.items()}
    trials = listed and listed.keep(rows["test"])
    check_task({name: [labels[name][row] for row in rows[name]] for name in SPLITS}, label, data, trials)
    store = FeatureStore(checkpoint, cache, random_seed)
    splits = {name: read_split(store, data / f"{name}.tsv", labels[name]) for name in SPLITS}
    trials = listed and listed.keep(splits["test"].rows)
    reasons = check_task({name: split.labels for name, split in splits.items()}, label, data, trials)
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
        **dict.fromkeys(["accuracy_bootstrap", "macro_f1", "macro_f1_interval"]),
        **dict.fromkeys(["eer", "eer_layers", "eer_per_layer", "same_pairs", "different_pairs"]),
        **dict.fromkeys(["eer_interval", "min_dcf", "min_dcf_interval", "eer_speakers", "draws_left_out"]),
        "trials": trials_file and str(trials_file),
        "trials_skipped": None if listed is None or trials is None else len(listed.same) - len(trials.same),
        "bootstrap": {"draws": DRAWS, "seed": SEED},
        **reasons,
    }
    probe = None
    if reasons["accuracy_reason"] is None:
        probe, figures = classify(splits)
        result.update(figures)
    if reasons["eer_reason"] is None:
        result.update(verify_speakers(splits["valid"], splits["test"], probe, trials))
    result["seconds"] = round(time.monotonic() - start, 1)
    return result


def read_all_labels(data: Path, label: str) -> Dict[str, List[str]]:
    """Labels of every split, "" where a row has none; UserError where a file is missing or does not fit the others."""
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


def check_task(
    labels: Dict[str, List[str]], label: str, data: Path, trials: Optional[Trials] = None
) -> Dict[str, Optional[str]]:
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
    same, different = count_pairs(labels["test"]) if trials is None else trials.count()
    eer = None
    if not (same and different):
        source = "test.speaker" if trials is None else "the list of trials"
        eer = f"{source} makes {same} pairs of the same and {different} of different speakers; both are needed"
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
    return Split(pooled.features[rows], [labels[row] for row in rows], rows, skipped)


def classify(splits: Dict[str, Split]) -> Tuple[Probe, Dict[str, Any]]:
    """Train the probe, choose it on valid and measure it on test: (probe, its figures)."""
    numbers = {text: number for number, text in enumerate(sorted(set(splits["train"].labels)))}
    train, valid, test = (
        (splits[name].features, np.array([numbers[text] for text in splits[name].labels], dtype=np.int64))
        for name in SPLITS
    )
    probe, valid_accuracy = choose_probe(train, valid, len(numbers))
    right, _ = probe.score(*test)
    return probe, {
        **measure_classes(probe.logits(test[0]).argmax(axis=1), test[1]),
        "accuracy_interval": list(accuracy_interval(right, len(test[1]))),
        "chance": float((test[1] == np.bincount(train[1]).argmax()).mean()),
        "valid_accuracy": valid_accuracy,
        "l2": probe.l2,
        "layer_weights": probe.layer_weights.tolist(),
    }


def verify_speakers(
    valid: Split, test: Split, probe: Optional[Probe], trials: Optional[Trials] = None
) -> Dict[str, Any]:
    """Error rates on test, of a sum of layers that test had no part in choosing, and of each layer alone.

    Pairs of test are those of `trials`, or all. Where valid has pairs of both kinds, the sum is the one with the lowest
    equal error rate there: of the equal-weight average, the probe's sum if there is a probe, and each layer alone; the
    first of equals. Otherwise it is the equal-weight average.
    """
    layers = test.features.shape[1]
    single = np.eye(layers)
    name, choice = "equal weights", "as valid has no pairs of the same and of different speakers to choose by"
    candidates = {name: np.full(layers, 1 / layers)}
    if all(count_pairs(valid.labels)):
        if probe is not None:
            candidates["the probe's weights"] = probe.layer_weights
        candidates.update((f"layer {number}", weights) for number, weights in enumerate(single))
        name = min(candidates, key=lambda name: verify(valid.features, candidates[name], valid.labels))
        choice = "lowest on valid"
    same, different = count_pairs(test.labels) if trials is None else trials.count()
    return {
        **measure_verification(test.features, candidates[name], test.labels, trials),
        "eer_layers": f"{name}, {choice}",
        "eer_per_layer": [verify(test.features, weights, test.labels, trials) for weights in single],
        "same_pairs": same,
        "different_pairs": different,
    }
