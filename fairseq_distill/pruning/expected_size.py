"""The size that gates expect: what `encoder.size` counts, as a differentiable function of the gates."""

import math
from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

from ..encoder.anatomy import Axis, count_uses, list_rows
from ..encoder.config import PRUNABLE, EncoderConfig, count_places
from ..encoder.size import SECONDS, count_row_macs, count_row_parameters
from .gates import Expected

METRICS = ("params", "macs")
# in a product: the number of places of an axis, or 1 if there is any and 0 otherwise
_COUNT, _ANY = "counts", "any"
_Variable = Tuple[str, Axis]


class ExpectedSize(nn.Module):
    """Expected size of a gated encoder, as a fraction of the whole one's.

    A sum of products of at most two expectations: gates are independent, so expectations multiply. Parameters are those
    of `info`'s "encoder"; MACs those of one wave of 10 s. DPHuBERT (2305.17651, its code) counts the same, but keeps
    the LayerNorms of pre-norm parts and WavLM's bias gates of parts that are gone.

    Args:
        cfg: settings of the encoder, with or without gates.
        metric: "params" or "macs".

    Attributes:
        total: size of the whole encoder.
    """

    pairs: Tensor
    weights: Tensor

    def __init__(self, cfg: EncoderConfig, metric: str):
        super().__init__()
        sizes = {name: sizes for name, sizes in count_places(cfg).items() if not PRUNABLE[name].whole}
        places = {Axis(name, index): count for name, counts in sizes.items() for index, count in enumerate(counts)}
        uses = count_uses(cfg, int(SECONDS * cfg.sample_rate))
        sums: Dict[Tuple[_Variable, ...], float] = {}
        self.total = 0
        for row in list_rows(cfg):
            counted = [axis for dim in row.dims for axis in dim.axes if axis in places]
            if metric == "params":
                size = count_row_parameters(row)
            else:
                size = count_row_macs(row, uses, places[row.repeats] if row.repeats else 1)
                counted += [row.repeats] if row.repeats else []
            if size:
                self.total += size
                variables = _list_variables(counted, row.needs)
                per_place = size / math.prod(places[axis] for kind, axis in variables if kind == _COUNT)
                sums[variables] = sums.get(variables, 0.0) + per_place
        # all expectations in one vector, and 1 at its end for products of fewer than two
        self.names = list(sizes)
        numbers = {variable: n for n, variable in enumerate((kind, axis) for kind in (_COUNT, _ANY) for axis in places)}
        pairs = [[numbers[v] for v in variables] + [len(numbers)] * (2 - len(variables)) for variables in sums]
        self.register_buffer("pairs", torch.tensor(pairs).t(), persistent=False)
        # float64 keeps small parts of a large total, and costs nothing for a few numbers
        weights = torch.tensor(list(sums.values()), dtype=torch.float64) / self.total
        self.register_buffer("weights", weights, persistent=False)

    def _apply(self, fn, *args, **kwargs):
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        return super()._apply(move, *args, **kwargs)

    def forward(self, expected: Expected) -> Tensor:
        """Expected fraction of the size that is left, a float64 scalar."""
        values = [getattr(expected, kind)[name].double() for kind in (_COUNT, _ANY) for name in self.names]
        every = torch.cat([*values, self.weights.new_ones(1)])
        return (self.weights * every[self.pairs[0]] * every[self.pairs[1]]).sum()


def _list_variables(counted: List[Axis], needs: Optional[Axis]) -> Tuple[_Variable, ...]:
    """What a size is a product of, besides constants."""
    variables = [(_COUNT, axis) for axis in counted]
    return tuple(variables + ([(_ANY, needs)] if needs and needs not in counted else []))
