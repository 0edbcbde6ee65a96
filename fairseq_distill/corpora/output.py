"""The folder that a corpus is written to, whole or not at all, and the report of what is in it."""

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Sequence

import soundfile

from ..errors import UserError
from .utterances import LeftOut, Utterance


@dataclass
class NewFolder:
    """A folder in the making: files are written under `partial`, and will be found under `final`."""

    partial: Path
    final: Path

    def write_text(self, name: str, lines: Sequence[str]) -> None:
        """Write a text file, each line with its end."""
        (self.partial / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@contextlib.contextmanager
def make_folder(out: Path) -> Iterator[NewFolder]:
    """A folder that appears as `out` when the block ends, by one rename, and not at all if it raises.

    Raises:
        UserError: `out` is something else than an empty folder, or a file cannot be read or written.
    """
    final = Path(out).resolve()
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    if final.is_mount() or (final.exists() and not final.is_dir()):
        raise UserError(f"{out} cannot be replaced by a new folder: give the name of one that does not exist by --out")
    try:
        if final.exists() and any(final.iterdir()):
            raise UserError(f"{out} is not empty ({min(final.iterdir()).name} is there): give a new folder by --out")
        partial.mkdir(parents=True)
        try:
            yield NewFolder(partial, final)
            os.rename(partial, final)  # an empty folder gives way
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except BrokenPipeError:  # of the progress bar: what reads it has gone
        raise
    except (OSError, soundfile.LibsndfileError) as error:  # the second where there is no room for audio
        raise UserError(f"{out} cannot be made: {error}") from error


@dataclass
class Report:
    """What was written: samples a second, a row of the table for each split, what was left out, notes for the user."""

    rate: int
    rows: List[Dict[str, str]] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: List[str] = field(default_factory=list)

    def write_splits(self, folder: NewFolder, root: Path, splits: Mapping[str, Sequence[Utterance]]) -> None:
        """Write SPLIT.tsv and SPLIT.<ending> for each label, which all utterances must have, be it empty."""
        for split, utterances in splits.items():
            rows = [f"{utterance.path}\t{utterance.samples}" for utterance in utterances]
            folder.write_text(f"{split}.tsv", [str(root), *rows])
            hours = sum(utterance.samples for utterance in utterances) / self.rate / 3600
            row = {"split": split, "utterances": f"{len(utterances):,}", "hours": f"{hours:.2f}"}
            for ending in utterances[0].labels:
                labels = [utterance.labels[ending] for utterance in utterances]
                folder.write_text(f"{split}.{ending}", labels)
                if ending in ("keyword", "speaker"):
                    row[f"{ending}s"] = f"{len(set(labels) - {''}):,}"
            self.rows.append(row)

    def describe(self) -> str:
        """The table and, below it, what was left out and the notes."""
        table = [list(self.rows[0]), *(list(row.values()) for row in self.rows)]
        lines = ["".join(f"{cell:>12}" for cell in cells) for cells in table]
        left_out = [f"  {line}" for line in self.left_out.describe()]
        return "\n".join([*lines, "left out:" if left_out else "left out: nothing", *left_out, *self.notes])
