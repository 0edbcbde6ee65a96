"""The gates of an encoder: one for each conv channel, head, FFN neuron or whole part, as `cfg.prune` says."""

from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..encoder.anatomy import Axis, GateValues, list_gated_axes
from ..encoder.config import PRUNABLE, EncoderConfig, count_places
from ..encoder.model import EncoderGates, SpeechEncoder
from ..errors import UserError
from .hard_concrete import HardConcrete

# DPHuBERT, 2305.17651 (its code): initial drop rates
INITIAL_DROP = {"conv": 0.01, "heads": 0.01, "ffn": 0.5, "attention_layers": 0.01, "ffn_layers": 0.01}


class Expected(NamedTuple):
    """What the gates expect to be left, by the names of axes, each (convolutions or layers,), differentiable.

    Attributes:
        counts: expected numbers of channels, heads and neurons.
        any: probabilities that any of them is left.
    """

    counts: Dict[str, Tensor]
    any: Dict[str, Tensor]


class Gates(EncoderGates):
    """Gates of an encoder; see `SpeechEncoder.attach_gates` for how they reach what reads them.

    The gate of a conv channel, a head or an FFN neuron scales the weights that read it: the next convolution's,
    out_proj's, fc2's. Channels of the last convolution are read by a LayerNorm, which no factor passes through: there,
    and in every LayerNorm over the channels of a "layer_norm" extractor (Large), mean and variance are those of the
    open channels (gate > 0), and the gate scales what reads the normalised channel: the next convolution, or after the
    last the projection. So a closed channel adds nothing anywhere, and the network without it has plain LayerNorms of
    fewer channels. (The reference implementation multiplies before that LayerNorm and keeps its statistics over all
    channels; cutting then changes the function.)

    The gate of a whole part is a factor on all its heads or neurons. The bias of a part's output is not gated: it
    stays. A model without projection (as wide as its convolutions) has no gates on its last convolution.
    """

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        self.frozen = False
        self._moment: Optional[List[int]] = None
        self.full = count_places(cfg)
        self.axes = {name: list_gated_axes(cfg, name) for name in PRUNABLE}
        sizes = {
            name: [self.axes[name].get(Axis(name, i), 0) for i in range(len(self.full[name]))] for name in cfg.prune
        }
        kinds = nn.ModuleDict({n: HardConcrete(s, INITIAL_DROP[n]) for n, s in sizes.items() if sum(s)})
        self.kinds = cast(Mapping[str, HardConcrete], kinds)  # torch's type does not say of what

    def freeze(self) -> None:
        """Keep the gates as they are in evaluation, whatever the mode of the model around them."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Gates":
        """Sampling with True, unless frozen."""
        return super().train(mode and not self.frozen)

    def begin_update(self, seed: int, update: int, micro_batch: int = 0) -> None:
        """Let what is drawn next follow from these numbers: alike on all workers, and in a run that was resumed.

        Without it, gates come from torch's own generator, of which dropout takes more or less with the batch's size.

        Args:
            seed: of the run.
            update: number of updates done before.
            micro_batch: number of the batch within the update, from 0.
        """
        self._moment = [seed, update, micro_batch, 0]

    def _make_generator(self) -> Optional[torch.Generator]:
        """Of the next pass, the generator that its moment asks for; kept as numbers, for copies of the model."""
        if self._moment is None or not self.training:
            return None
        seed = np.random.SeedSequence(self._moment).generate_state(1, np.uint64)[0] >> np.uint64(1)
        self._moment[-1] += 1
        return torch.Generator(self.device).manual_seed(int(seed))

    def draw(self) -> GateValues:
        """Gates for one forward pass: sampled in training, else fixed; those of whole parts are factors on others."""
        generator = self._make_generator()
        drawn = {
            Axis(name, index): values
            for name, kind in self.kinds.items()
            for index, values in enumerate(kind(generator))
            if len(values)
        }
        for part, within in _list_parts():
            for axis, size in self.axes[within].items():
                of_part = drawn.pop(Axis(part, axis.index), None)
                if of_part is not None:
                    drawn[axis] = drawn[axis] * of_part if axis in drawn else of_part.expand(size)
        return drawn

    def expect(self) -> Expected:
        """What is expected to be left of all that can have gates."""
        counts, some = {}, {}
        for name, kind in PRUNABLE.items():
            if not kind.whole:
                counts[name] = self._expect(name)
                some[name] = self.kinds[name].expect_any() if name in self.kinds else counts[name].clamp(max=1)
        for part, within in _list_parts():
            chance = self._expect(part)
            counts[within], some[within] = counts[within] * chance, some[within] * chance
        return Expected(counts, some)

    def _expect(self, name: str) -> Tensor:
        expected = self.kinds[name].expect_open() if name in self.kinds else None
        if expected is not None and self.kinds[name].sizes == self.full[name]:
            return expected
        whole = torch.tensor(self.full[name], dtype=torch.float32, device=self.device)
        if expected is None:
            return whole
        gated = torch.tensor(self.kinds[name].sizes, device=self.device) > 0
        return torch.where(gated, expected, whole)

    @property
    def device(self) -> torch.device:
        """Where the gates are."""
        return next(self.parameters()).device


def add_gates(encoder: SpeechEncoder) -> None:
    """Give `encoder` the gates that its settings ask for, if any; UserError where layers are tied to the same heads."""
    tied = [name for name in encoder.cfg.prune if name in ("heads", "attention_layers")]
    if tied and encoder.cfg.reuse_attention:
        raise UserError(
            f"model.prune={list(encoder.cfg.prune)} with model.reuse_attention={list(encoder.cfg.reuse_attention)}: "
            f"layers that share an attention map need the same heads, so leave {' and '.join(tied)} out of model.prune"
        )
    if encoder.cfg.prune:
        encoder.attach_gates(Gates(encoder.cfg))


def get_gates(encoder: SpeechEncoder) -> Gates:
    """The gates of an encoder that has some; ValueError if it has none."""
    if not isinstance(encoder.gates, Gates):
        raise ValueError("this encoder has no gates")
    return encoder.gates


def _list_parts() -> List[Tuple[str, str]]:
    """(name of a part with a gate of its own, name of what is within)."""
    return [(name, kind.whole) for name, kind in PRUNABLE.items() if kind.whole]
