"""Print, in Markdown, what run.sh measured: python3 print_table.py WORK."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tables import exists, load, percent, print_rows

ENCODERS = ("teacher", "distilled", "pruned", "skill")


def main(work: Path) -> None:
    """Error rates of each model, and what it makes of three utterances drawn at random."""
    found = {name: load(work, name) for name in ENCODERS if exists(work, name)}
    rows = []
    for name, result in found.items():
        rates = [percent(result[rate], result[f"{rate}_interval"]) for rate in ("wer", "cer")]
        rows.append([name, str(result["utterances"]), str(result["words"]), *rates])
    print_rows(["encoder", "utterances", "words", "word errors", "character errors"], rows)
    for name, result in found.items():
        print(
            f"{name}: "
            + "; ".join(f"{u['reference']} heard as {u['hypothesis'] or 'nothing'}" for u in result["random"])
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
