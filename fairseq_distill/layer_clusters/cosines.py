"""Mean over frames of the cosine between two hidden states of one width."""

from typing import Optional, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError


class Cosines:
    """Sums over frames of the cosine between every two states; unlike CKA it asks for the same axes in both."""

    def __init__(self):
        self.total: Optional[Tensor] = None
        self.frames = 0

    def add(self, states: Sequence[Tensor]) -> None:
        """Add a chunk of frames: the same frames in every state, each (frames, width) float32, all of one width."""
        units = F.normalize(torch.stack(list(states), 1), dim=-1)
        cosines = torch.bmm(units, units.transpose(1, 2)).sum(0, dtype=torch.float64)
        self.total = cosines if self.total is None else self.total + cosines
        self.frames += len(units)

    def compute(self, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
        """Mean cosines of the states `rows` with the states `columns`, float64."""
        if self.total is None:
            raise UserError("there is no frame to compare layers by: give more audio")
        values = (self.total / self.frames).cpu().numpy()[np.ix_(rows, columns)]
        if not np.isfinite(values).all():
            raise UserError("hidden states are not finite for this audio: their cosines are undefined")
        return values
