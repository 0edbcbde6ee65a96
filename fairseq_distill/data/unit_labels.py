"""Frame labels beside the waves of a manifest: `<split>.km` and `dict.km.txt`, as fairseq-distill units writes them."""

import codecs
import logging
import os
from pathlib import Path
from typing import FrozenSet, List, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import Dictionary, data_utils
from torch import Tensor

from ..encoder.conv_spec import ConvLayer, count_frames, total_stride
from ..errors import UserError
from .token_dictionary import load_dictionary
from .unreadable import UnreadableLimit

logger = logging.getLogger(__name__)

_TOLERANCE = 0.1  # seconds between a wave's length and its labels', as in fairseq's verify_label_lengths
_SHOWN_ROWS = 3


def read_dictionary(folder: str, labels: str = "km") -> Dictionary:
    """The units of a folder of labels, as stock fairseq reads dict.<labels>.txt: unit u is symbol u + 4."""
    path = os.path.join(folder, f"dict.{labels}.txt")
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such dictionary; fairseq-distill units writes it beside the labels")
    dictionary = load_dictionary(Path(path))
    if len(dictionary) == dictionary.nspecial:
        raise UserError(f"{path}: it holds no units")
    return dictionary


class UnitLabels:
    """Labels of a manifest's rows, read from the file line by line when asked for.

    Args:
        path: the file, a line of space-separated units for each row of the manifest.
        dictionary: its units.
        frame_layers: what makes frames of samples in the model that learns the labels (`EncoderConfig.frame_layers`).
        sample_rate: of the waves, samples a second.
    """

    def __init__(self, path: str, dictionary: Dictionary, frame_layers: Sequence[ConvLayer], sample_rate: int):
        self.path = str(path)
        self.dictionary = dictionary
        self.frame_layers: List[ConvLayer] = list(frame_layers)
        self.stride = total_stride(self.frame_layers)
        self.rate = sample_rate / self.stride
        self.sample_rate = sample_rate
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file of labels; fairseq-distill units makes one for each manifest")
        try:
            with open(path, "rb") as lines:
                mark = len(codecs.BOM_UTF8) if lines.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
                lines.seek(mark)
                facts = np.array([(len(line), len(line.split())) for line in lines], dtype=np.int64).reshape(-1, 2)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        self._offsets = mark + np.concatenate([[0], facts[:, 0].cumsum()])
        self.lengths = facts[:, 1]
        self._left_out: FrozenSet[int] = frozenset()  # rows whose labels are another wave's

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> Tensor:
        """Labels (frames,) of a row of the manifest, counted from 0, as long integers: symbols of the dictionary.

        There are none of a row that `check` left out.
        """
        if row in self._left_out:
            return torch.zeros(0, dtype=torch.long)
        with open(self.path, "rb") as file:
            file.seek(self._offsets[row])
            line = file.read(self._offsets[row + 1] - self._offsets[row]).decode("utf-8", "replace").strip()
        labels = self.dictionary.encode_line(line, append_eos=False, add_if_not_exist=False).long()
        if (labels == self.dictionary.unk()).any():
            unknown = line.split()[int((labels == self.dictionary.unk()).nonzero()[0])]
            raise UserError(
                f"{self.path}, line {row + 1}: {unknown!r:.40} is no unit of the dictionary that came with it"
            )
        return labels

    def cut(self, labels: Tensor, start: int, samples: int) -> Tensor:
        """Labels of the frames that `samples` samples of a wave make from sample `start`, a multiple of the stride."""
        first = start // self.stride
        return labels[first : first + count_frames(samples, self.frame_layers)]

    def collate(self, labels: Sequence[Tensor], samples: int) -> Tensor:
        """(batch, frames that `samples` samples make) long, filled up with the dictionary's pad."""
        frames = count_frames(samples, self.frame_layers)
        return data_utils.collate_tokens(labels, self.dictionary.pad(), pad_to_length=frames)[:, :frames]

    def check(
        self, manifest_path: str, num_rows: int, rows: Sequence[int], sizes: Sequence[int], max_broken: float
    ) -> None:
        """Compare with the manifest: `num_rows` in all, of which `rows`, of `sizes` samples, are used.

        Raises:
            UserError: another number of rows; what is no unit of the dictionary; or over `max_broken` of the rows'
                labels are longer or shorter than their waves by more than 0.1 s. Fewer are logged, and left out: their
                waves have no labels.
        """
        if len(self) != num_rows:
            raise UserError(
                f"{self.path} has {len(self)} lines, {manifest_path} {num_rows} rows: label this manifest anew"
            )
        self._compare_lengths(rows, sizes, max_broken)
        self._check_units()

    def _compare_lengths(self, rows: Sequence[int], sizes: Sequence[int], max_broken: float) -> None:
        difference = np.abs(self.lengths[rows] / self.rate - np.asarray(sizes) / self.sample_rate)
        wrong = [(int(rows[i]), int(sizes[i])) for i in np.flatnonzero(difference > _TOLERANCE).tolist()]
        if not wrong:
            return
        shown = "; ".join(f"line {r + 1}: {self.lengths[r]} labels, {size} samples" for r, size in wrong[:_SHOWN_ROWS])
        message = (
            f"{self.path}: {len(wrong)} of {len(rows)} rows do not have {self.rate:g} labels a second, one for each of "
            f"the student's frames ({shown})"
        )
        if UnreadableLimit(len(rows), max_broken).is_exceeded(len(wrong)):
            raise UserError(f"{message}: label this manifest anew, with a teacher of the student's frame rate")
        self._left_out = frozenset(row for row, _ in wrong)
        logger.warning(f"{message}: these rows' labels are left out")

    def _check_units(self) -> None:
        """Before training rather than in the middle of it: 0.15 s for a million frames."""
        known = {symbol.encode() for symbol in self.dictionary.symbols[self.dictionary.nspecial :]}
        found: List[Tuple[int, bytes]] = []
        with open(self.path, "rb") as lines:
            lines.seek(self._offsets[0])
            for number, line in enumerate(lines, start=1):
                units = line.split()
                if not known.issuperset(units):
                    found.append((number, next(unit for unit in units if unit not in known)))
        if found:
            shown = "; ".join(f"line {n}: {unit.decode('utf-8', 'replace')!r:.40}" for n, unit in found[:_SHOWN_ROWS])
            raise UserError(
                f"{self.path}: {len(found)} of {len(self)} lines hold what is no unit of the dictionary that came with "
                f"it ({shown}): give the folder's own dictionary, or label this manifest anew"
            )
