"""The hard concrete distribution of gates from 0 to 1 (Louizos et al., 1712.01312; used by DPHuBERT, 2305.17651)."""

import math
from typing import Optional, Sequence

import torch
import torch.nn as nn
from torch import Tensor

TEMPERATURE = 2 / 3
STRETCH = 0.1  # samples are stretched from (0, 1) to (-STRETCH, 1 + STRETCH), then cut to [0, 1]
EPSILON = 1e-6
# log-odds added to log_alpha where a gate's probability of being more than 0 is asked for: 1.5986
OPEN_BIAS = -TEMPERATURE * math.log(STRETCH / (1 + STRETCH))
EVALUATION_SLOPE = 0.8


def sample_gates(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Gates in [0, 1] from uniform random numbers in (0, 1) of the same shape."""
    logits = uniform.log() - (-uniform).log1p()
    stretched = torch.sigmoid((logits + log_alpha) / TEMPERATURE) * (1 + 2 * STRETCH) - STRETCH
    return stretched.clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Probability that a sampled gate is more than 0; their sum is the expected number of open gates."""
    return torch.sigmoid(log_alpha + OPEN_BIAS)


def closed_log_probability(log_alpha: Tensor) -> Tensor:
    """Logarithm of the probability that a sampled gate is 0, exact also where it is tiny."""
    return nn.functional.logsigmoid(-(log_alpha + OPEN_BIAS))


def evaluation_gates(log_alpha: Tensor) -> Tensor:
    """Fixed gates of one layer (places,): as many zeros as expected, where log_alpha is least; the rest soft."""
    soft = torch.sigmoid(EVALUATION_SLOPE * log_alpha / TEMPERATURE)
    # in float64: the same count on every device, whose sums run in another order
    zeros = (log_alpha.numel() - open_probability(log_alpha).sum(dtype=torch.float64)).round()
    rank = soft.argsort(stable=True).argsort()
    return soft * (rank >= zeros)


class Float32Module(nn.Module):
    """A module whose parameters stay in float32 when the model around it goes to half precision."""

    def _apply(self, fn, *args, **kwargs):
        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_precision, *args, **kwargs)


class HardConcrete(Float32Module):
    """Gates on one kind of axis in all layers, in one parameter: sampled in training, deterministic in evaluation.

    Args:
        sizes: number of gates in each layer, 0 = none.
        drop: the probability that DPHuBERT's initialisation is named after: log_alpha starts at logit(1 - drop), with
            normal noise of 0.01.
    """

    def __init__(self, sizes: Sequence[int], drop: float):
        super().__init__()
        self.sizes = list(sizes)
        mean = math.log(1 - drop) - math.log(drop)
        # drawn in place: on the meta device torch.randn imports the compiler, a second and 100 MB for every file read
        self.log_alpha = nn.Parameter(torch.empty(sum(self.sizes)).normal_().mul_(0.01).add_(mean))
        self.log_alpha.param_group = "gates"  # type: ignore[attr-defined]  # for fairseq's composite optimizer

    def forward(self, generator: Optional[torch.Generator] = None) -> Sequence[Tensor]:
        """The gates of each layer, (places,): a new sample in training, the same every time in evaluation."""
        if self.training:
            uniform = torch.empty_like(self.log_alpha).uniform_(EPSILON, 1 - EPSILON, generator=generator)
            return sample_gates(self.log_alpha, uniform).split(self.sizes)
        return [evaluation_gates(log_alpha) for log_alpha in self.log_alpha.split(self.sizes)]

    def expect_open(self) -> Tensor:
        """Expected number of open gates in each layer, (layers,)."""
        return self._sum(open_probability(self.log_alpha))

    def expect_any(self) -> Tensor:
        """Probability that any gate of a layer is open, (layers,)."""
        return -torch.expm1(self._sum(closed_log_probability(self.log_alpha)))

    def _sum(self, values: Tensor) -> Tensor:
        if len(set(self.sizes)) == 1:
            return values.view(len(self.sizes), -1).sum(1)
        return torch.stack([part.sum() for part in values.split(self.sizes)])
