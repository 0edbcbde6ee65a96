"""Label files of fairseq's `hubert_pretraining`: the unit of every frame, a line for each row of a manifest."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Tuple, Union

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.audio_file import BrokenAudio, read_wave
from ..data.manifest import Manifest
from ..data.unreadable import UnreadableFiles, UnreadableLimit
from ..encoder.conv_spec import count_frames
from .frames import LayerFrames
from .kmeans import NearestUnit

_THREADS = 4  # decode waves while the encoder computes
_AHEAD = 8  # waves that wait for it


@dataclass
class Labelled:
    """What was written for one manifest.

    Attributes:
        rows: lines of the label file, one for each row of the manifest.
        counts: (clusters,) frames of each unit, those of unreadable rows left out.
        unreadable: rows whose files could not be used; their lines have the unit of silence throughout.
        too_short: rows too short for a frame; their lines are empty.
    """

    rows: int
    counts: np.ndarray
    unreadable: UnreadableFiles
    too_short: int = 0

    def describe(self) -> Dict[str, int]:
        """Its figures, as plain values."""
        return {
            "rows": self.rows,
            "frames": int(self.counts.sum()),
            "unreadable": len(self.unreadable),
            "too_short": self.too_short,
        }


class Labeller:
    """Writes label files.

    A row whose file cannot be used keeps its line, of the length that the manifest promises: stock fairseq reads labels
    by the row's number, and reads silent files that we count as broken. Its unit is that of silence.

    Args:
        layer_frames: the teacher's layer.
        centroids: (units, width) float32, of frames of that layer.
    """

    def __init__(self, layer_frames: LayerFrames, centroids: np.ndarray):
        self.layer_frames = layer_frames
        self.nearest = NearestUnit(centroids)
        self.cfg = layer_frames.encoder.cfg
        second = max(self.cfg.sample_rate, self.cfg.shortest_wave)
        self.silence = int(np.bincount(self.label(torch.zeros(second))).argmax())

    def label(self, wave: Tensor) -> np.ndarray:
        """Units (frames,) of a wave (samples,); raises BrokenAudio where the layer is not finite."""
        return np.concatenate([self.nearest(frames) for frames in self.layer_frames(wave)])

    def write(self, manifest: Manifest, path: Path) -> Labelled:
        """Label every row of a manifest; progress is on stderr.

        Raises:
            UserError: over 1 % of the files cannot be used (one file never stops it).
        """
        rows = len(manifest.paths)
        unreadable = UnreadableFiles(manifest, UnreadableLimit(rows))
        done = Labelled(rows, np.zeros(self.nearest.units, dtype=np.int64), unreadable)
        waves = self._read_ahead(manifest)
        with open(path, "w") as file:
            for row, wave in tqdm(waves, total=rows, desc=f"units of {manifest.file}", unit="utterance", mininterval=1):
                file.write(" ".join(map(str, self._label_row(manifest, row, wave, done))) + "\n")
        return done

    def _label_row(
        self, manifest: Manifest, row: int, wave: Union[Tensor, BrokenAudio], done: Labelled
    ) -> Union[np.ndarray, List[int]]:
        if manifest.sizes[row] < self.cfg.shortest_wave:
            done.too_short += 1
            return []
        try:
            if isinstance(wave, BrokenAudio):
                raise wave
            units = self.label(wave)
        except BrokenAudio as problem:
            done.unreadable.add(row, str(problem))
            return [self.silence] * count_frames(manifest.sizes[row], self.cfg.frame_layers)
        done.counts += np.bincount(units, minlength=len(done.counts))
        return units

    def _read_ahead(self, manifest: Manifest) -> Iterator[Tuple[int, Union[Tensor, BrokenAudio]]]:
        """Rows in order, each with its wave or why there is none."""

        def read(row: int) -> Union[Tensor, BrokenAudio]:
            try:
                return read_wave(manifest.path(row), self.cfg.sample_rate, manifest.sizes[row], self.cfg.shortest_wave)
            except BrokenAudio as problem:
                return problem

        rows = range(len(manifest.paths))
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting = deque(pool.submit(read, row) for row in rows[:_AHEAD])
            for row in rows:
                yield row, waiting.popleft().result()
                if row + _AHEAD < len(rows):
                    waiting.append(pool.submit(read, row + _AHEAD))
