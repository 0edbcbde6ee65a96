"""What the examples' print_table.py share: results of a work folder, cells, Markdown tables."""

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple


class Probe(NamedTuple):
    """A corpus and the label that is read from it: keyword or speaker."""

    corpus: str
    label: str


def load(work: Path, name: str) -> Dict[str, Any]:
    """One JSON result."""
    return json.loads((work / "results" / f"{name}.json").read_text(encoding="utf-8"))


def exists(work: Path, name: str) -> bool:
    """Whether a result is there."""
    return (work / "results" / f"{name}.json").exists()


def find_probes(work: Path) -> List[Probe]:
    """All that any network was probed for (results NAME.CORPUS.LABEL.json): keywords first, corpora by name."""
    parts = [file.name.rsplit(".", 3) for file in (work / "results").glob("*.*.*.json")]
    found = {Probe(corpus, label) for _, corpus, label, _ in parts if label in ("keyword", "speaker")}
    return sorted(found, key=lambda probe: (probe.label, probe.corpus))


def name_probes(probes: Sequence[Probe]) -> List[str]:
    """A column's title for each."""
    return [f"{probe.corpus}, {probe.label}s" for probe in probes]


def read_probe(work: Path, name: str, probe: Probe) -> Optional[Tuple[str, float, Optional[Tuple[float, float]]]]:
    """("accuracy" or "EER", value, interval) of a network; None where it was not measured.

    Speakers who are not in the training split have no accuracy, but an equal error rate.
    """
    result = f"{name}.{probe.corpus}.{probe.label}"
    if not exists(work, result):
        return None
    found = load(work, result)
    if found["accuracy"] is not None:
        return "accuracy", found["accuracy"], tuple(found["accuracy_interval"])
    return None if found.get("eer") is None else ("EER", found["eer"], None)


def format_probes(work: Path, name: str, probes: Sequence[Probe]) -> List[str]:
    """A cell for each: accuracy with its interval, equal error rate, or - where it was not measured."""
    cells = []
    for probe in probes:
        found = read_probe(work, name, probe)
        cells.append("-" if found is None else percent(*found[1:]) + (" EER" if found[0] == "EER" else ""))
    return cells


def format_size(work: Path, name: str) -> List[str]:
    """Parameters, MACs per second of audio, and seconds that a second of audio takes: the cells for SIZE_TITLES."""
    info = load(work, f"{name}.info")
    parameters, macs = info["parameters"]["encoder"], info["macs_per_second"]
    return [f"{parameters / 1e6:.2f} M", f"{macs / 1e6:.0f} M", f"{info['real_time_factor']:.4f}"]


SIZE_TITLES = ["parameters", "MACs per second", "RTF"]


def read_log(log: Path, kind: str) -> List[Dict[str, Any]]:
    """The entries `train_inner` or `valid` of fairseq's JSON log, in order."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line[line.index("{") :]) for line in lines if f"][{kind}][" in line]


def percent(value: float, interval: Optional[Tuple[float, float]] = None) -> str:
    """A fraction in percent, with its interval."""
    text = f"{100 * value:.1f} %"
    return f"{text} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})" if interval else text


def print_rows(title: List[str], rows: List[List[str]]) -> None:
    """A Markdown table; nothing if there are no rows."""
    if rows:
        for row in (title, ["---"] * len(title), *rows):
            print("| " + " | ".join(row) + " |")
        print()


def choose_thirds(layers: int) -> List[int]:
    """The layers that DistilHuBERT's and DPHuBERT's recipes distil: of 12, layers 4, 8 and 12."""
    return [layers * third // 3 for third in (1, 2, 3)]
