"""What pushes the expected size to its target: a Lagrangian with ascending multipliers (DPHuBERT, 2305.17651)."""

import copy
from typing import Dict

import torch
from fairseq.modules import GradMultiply
from torch import Tensor, nn

from ..encoder.anatomy import Axis
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from .expected_size import ExpectedSize
from .gates import Gates, get_gates
from .hard_concrete import Float32Module


class SizeLoss(Float32Module):
    """lambda1 (s - t) + lambda2 (s - t)^2 with sparsity s = 1 - expected size / whole size, and its target t.

    The multipliers ascend: their gradients have the sign turned, since optimizers refuse negative rates. Both start at
    0 in the paper. Over its 50,000 updates lambda2, whose gradient is never negative, grows to where it holds s at t;
    in a run of hundreds it must start there, or lambda1 alone swings s around t.

    Args:
        encoder: with gates.
        metric: "params" or "macs".
        target: sparsity to reach, from 0 to 1.
        warmup: updates over which the target rises from 0, linearly.
        lambda2: what it starts at.
    """

    def __init__(self, encoder: SpeechEncoder, metric: str, target: float, warmup: int, lambda2: float = 0.0):
        super().__init__()
        self.lambda1, self.lambda2 = nn.Parameter(torch.zeros(())), nn.Parameter(torch.tensor(float(lambda2)))
        for multiplier in (self.lambda1, self.lambda2):
            multiplier.param_group = "multipliers"  # type: ignore[attr-defined]  # for fairseq's composite optimizer
        self.size = ExpectedSize(encoder.cfg, metric)
        self.final_target, self.warmup = target, warmup
        self.num_updates = 0
        if not 0 <= target <= 1:
            raise UserError(f"model.target_sparsity={target} must be a fraction of the size, from 0 to 1")
        limit = self.find_limit(get_gates(encoder))
        if target >= limit:
            raise UserError(
                f"model.target_sparsity={target} cannot be reached: with every gate of "
                f"model.prune={list(encoder.cfg.prune)} closed, {1 - limit:.3f} of the encoder's {metric} are left"
            )

    @property
    def target(self) -> float:
        """Target of the current update."""
        return self.final_target * min(1.0, self.num_updates / max(1, self.warmup))

    def forward(self, gates: Gates) -> Tensor:
        """The loss, a scalar in float32."""
        excess = self.measure_sparsity(gates).float() - self.target
        lambda1, lambda2 = GradMultiply.apply(self.lambda1, -1.0), GradMultiply.apply(self.lambda2, -1.0)
        return lambda1 * excess + lambda2 * excess.square()

    def measure_sparsity(self, gates: Gates) -> Tensor:
        """Expected sparsity, a scalar."""
        return 1.0 - self.size(gates.expect())

    @torch.no_grad()
    def find_limit(self, gates: Gates) -> float:
        """Sparsity with every gate closed."""
        closed = copy.deepcopy(gates)
        for log_alpha in closed.parameters():
            log_alpha.fill_(-100.0)
        return float(self.measure_sparsity(closed))

    @torch.no_grad()
    def describe(self, gates: Gates) -> Dict[str, Tensor]:
        """Scalars to log: sparsity, target, multipliers, expected numbers of channels, heads and neurons left."""
        expected = gates.expect()
        values = {
            "sparsity": 1.0 - self.size(expected),
            "target_sparsity": self.lambda1.new_tensor(self.target),
            "lambda1": self.lambda1.detach(),
            "lambda2": self.lambda2.detach(),
        }
        for name, counts in expected.counts.items():
            for index, left in enumerate(counts.unbind()):
                values[Axis(name, index).label] = left
        return values
