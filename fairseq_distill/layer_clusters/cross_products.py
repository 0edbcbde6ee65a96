"""Linear CKA, plain and debiased, and the mean cosine of many hidden states, from sums over frames.

    CKA(X, Y) = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y))        Kornblith et al., arXiv 1905.00414
    HSIC(X, Y) = |Xc' Yc|^2 (Frobenius)                         X (frames, width), Xc: each feature without its mean

is the similarity that SKILL (arXiv 2402.16830) clusters layers by; that its CKA is the linear one, over frames, is our
reading. HSIC is biased upwards where frames are few for the width: independent states of 768 features look alike. The
debiased form puts the unbiased estimator of Song et al. (JMLR 2012), as in Nguyen et al. (arXiv 2010.15327), for HSIC:

    HSIC1(X, Y) = [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 / (n-2) 1'KL1] / (n (n-3))
                                                                K = XX', L = YY', both with 0 on the diagonal

Written out for K = XX', all of it needs only sums over frames of the products of (x, |x|^2, 1) with (y, |y|^2, 1). So
one matrix of (width + 2)^2 is accumulated for each pair of states, and both measures come out of the same pass.

Exact: nothing is approximated; up to rounding, the result is that of the definition on all frames at once. Products
within a chunk of frames are in float32, the sums over chunks and everything after them in float64. Taking the same
vector off all frames of a state changes neither measure, so each state's mean over its first chunk is taken off: the
products stay small, and float32 suffices. The centring by the mean over all frames is done at the end, from the sums.

Cost: width^2 multiplications a frame and pair. By symmetry, 13 states of 768 are 91 pairs, 54 million a frame, a third
of HuBERT Base's own 153 million; hence the drawing of frames in `similarity.py`. Matrices over frames (n x n for n
frames) would take fewer for up to 13 x 768 frames, but their memory grows with the audio, or they leave most of it out.

Memory: 8 bytes x (width + 2)^2 x pairs, 0.43 GB for HuBERT Base and 2.7 GB for a Large model (25 states of 1024),
however long the audio is.
"""

from typing import Dict, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

MIN_FRAMES = 4  # of HSIC1
ROUNDING = 1e-12  # a variance of so much of the squared mean is float32's rounding

Pair = Tuple[int, int]


class CrossProducts:
    """Sums over frames for the pairs of states asked for, and of each state with itself.

    Args:
        pairs: pairs of states, by number.
    """

    def __init__(self, pairs: Sequence[Pair]):
        alone = {(state, state) for pair in pairs for state in pair}
        self.sums: Dict[Pair, Optional[Tensor]] = dict.fromkeys(sorted({*pairs} | alone))
        self.shifts: Sequence[Tensor] = ()

    def add(self, states: Sequence[Tensor]) -> None:
        """Add a chunk of frames: the same frames in every state, each (frames, width) float32, width may differ."""
        if not self.shifts:
            self.shifts = [state.mean(0) for state in states]
        rows = [_extend(state - shift) for state, shift in zip(states, self.shifts)]
        for (one, other), total in self.sums.items():
            product = rows[one].T @ rows[other]
            if total is None:
                self.sums[one, other] = product.double()
            else:
                total += product

    def compute(self, rows: Sequence[int], columns: Sequence[int], debiased: bool) -> np.ndarray:
        """CKA of the states `rows` with the states `columns`, float64; each pair must be among those asked for.

        Raises:
            UserError: too few frames, or a state that is not finite or does not vary: h[number in rows or columns].
        """
        for states, whose in ((rows, "first"), (columns, "second")):
            for number, state in enumerate(states):
                self._check_varies(state, f"h[{number}]" + (f" of the {whose} encoder" if rows != columns else ""))
        estimate = estimate_hsic if debiased else sum_hsic
        hsic = {pair: estimate(total) for pair, total in self.sums.items() if total is not None}
        hsic.update({(other, one): value for (one, other), value in hsic.items()})
        return np.array([[hsic[i, j] / np.sqrt(hsic[i, i] * hsic[j, j]) for j in columns] for i in rows])

    def _check_varies(self, state: int, name: str) -> None:
        """Refuse a state that has no similarity with anything, not even with itself."""
        total = self.sums[state, state]
        frames = 0 if total is None else int(total[-1, -1])
        if total is None or frames < MIN_FRAMES:
            raise UserError(f"{frames} frames are too few to compare layers by: give more audio")
        variance = float(total[-2, -1] - total[:-2, -1].square().sum() / frames) / frames
        if not np.isfinite(variance):
            raise UserError(f"{name} is not finite for this audio: its similarity to others is undefined")
        if variance <= ROUNDING * float(self.shifts[state].double().square().sum()):
            raise UserError(f"{name} is the same in all {frames} frames: its similarity to others is undefined")


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

    def compute(self, rows: Sequence[int], columns: Sequence[int], debiased: bool = False) -> np.ndarray:
        """Mean cosines of the states `rows` with the states `columns`, float64; they have no bias to take off."""
        if self.total is None:
            raise UserError("there is no frame to compare layers by: give more audio")
        values = (self.total / self.frames).cpu().numpy()[np.ix_(rows, columns)]
        if not np.isfinite(values).all():
            raise UserError("hidden states are not finite for this audio: their cosines are undefined")
        return values


def sum_hsic(total: Tensor) -> float:
    """|Xc' Yc|^2 from the sums of a pair."""
    products, _, _, sums_x, sums_y = _split(total)
    return float((products - torch.outer(sums_x, sums_y) / total[-1, -1]).square().sum())


def estimate_hsic(total: Tensor) -> float:
    """HSIC1 from the sums of a pair; needs MIN_FRAMES frames."""
    products, by_norms_y, by_norms_x, sums_x, sums_y = _split(total)
    norms, norms_x, norms_y, frames = total[-2, -2], total[-2, -1], total[-1, -2], float(total[-1, -1])
    trace = products.square().sum() - norms
    total_x = sums_x @ sums_x - norms_x
    total_y = sums_y @ sums_y - norms_y
    middle = sums_x @ products @ sums_y - sums_x @ by_norms_y - sums_y @ by_norms_x + norms
    value = trace + total_x * total_y / ((frames - 1) * (frames - 2)) - 2 / (frames - 2) * middle
    return float(value) / (frames * (frames - 3))


def _extend(state: Tensor) -> Tensor:
    """Append |x|^2 and 1 to every frame: (frames, width) -> (frames, width + 2)."""
    return torch.cat([state, state.square().sum(1, keepdim=True), state.new_ones(len(state), 1)], 1)


def _split(total: Tensor) -> Tuple[Tensor, ...]:
    """Sums of x y', x |y|^2, y |x|^2, x and y."""
    return total[:-2, :-2], total[:-2, -2], total[-2, :-2], total[:-2, -1], total[-1, :-2]
