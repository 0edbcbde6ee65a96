"""Print, in Markdown, what run.sh's recipes ended with: python3 print_table.py WORK."""

import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import exists, load, percent, print_rows

ENCODERS = ("teacher", "distilled", "pruned", "skill")
RECIPES = {"SuperbKS": "KS, accuracy", "SuperbSID": "SID, accuracy"}


def read_accuracy(work: Path, name: str, recipe: str) -> str:
    """The accuracy on the recipe's test set, or - where it was not run."""
    path = work / name / recipe / "evaluate" / "valid_best" / "test" / "result.yaml"
    return percent(yaml.safe_load(path.read_text(encoding="utf-8"))["accuracy"]) if path.exists() else "-"


def main(work: Path) -> None:
    """A row for each encoder."""
    rows = []
    for name in (name for name in ENCODERS if exists(work, f"{name}.macs")):
        macs = f"{load(work, f'{name}.macs')['superb_macs'] / 1e9:.1f} G"
        rows.append([name, macs, *(read_accuracy(work, name, recipe) for recipe in RECIPES)])
    print_rows(["encoder", "MACs as SUPERB counts", *RECIPES.values()], rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
