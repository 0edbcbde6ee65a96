"""An exported file, run by other code, beside the encoder that it was made of."""

from typing import Iterator, List, NamedTuple, Optional, Protocol, Sequence, Tuple

import torch
from torch import Tensor

from ..encoder.config import EncoderConfig
from ..encoder.model import EncoderOutput, normalize_wave, require

TOLERANCE = 1e-5
# frames of the waves that are compared alone, of odd and even number, and of those in a padded batch
_ALONE = (1, 2, 37, 100)
_PADDED = (75, 49, 20)


class Reader(Protocol):
    """The network of an exported file as other code runs it.

    One that has `normalizes` = True is given waves as they are, as it normalises them itself if they are to be.
    """

    def __call__(self, waves: Tensor, padding_mask: Optional[Tensor]) -> List[Tensor]:
        """Waves (batch, samples), normalised if they are to be, to the states that the format promises."""


class Reference(Protocol):
    """What an exported file has to equal: a `SpeechEncoder`, or what gives one state more."""

    cfg: EncoderConfig
    normalize_input: bool

    def encode(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> EncoderOutput:
        """See `SpeechEncoder.encode`."""


class Differences(NamedTuple):
    """Largest difference of a state over all states and waves, as a fraction of that state's norm.

    Attributes:
        alone: of waves by themselves.
        padded: of a batch of unequal waves, frames of padding aside; None where a format takes none.
    """

    alone: float
    padded: Optional[float]


class Promise(NamedTuple):
    """What a format says of its files, and so how they are compared.

    Attributes:
        tolerance: the largest difference with which a file is written.
        all_states: all of `list_states`, or only the final output.
        normalizes: the file normalises waves itself where the encoder does.
        padded: it takes padded batches.
        exact_padding: in these a wave gives what it gives alone; where the format has a get_reference, that decides.
        shortest: frames of the shortest wave that it takes.
    """

    tolerance: float = TOLERANCE
    all_states: bool = True
    normalizes: bool = False
    padded: bool = True
    exact_padding: bool = False
    shortest: int = 1


STOCK = Promise()


def list_states(hidden: List[Tensor], x: Tensor) -> List[Tensor]:
    """What readers return: what enters the first layer, each layer's output, the final output.

    Each is (batch, frames, width).
    """
    return [*hidden, x]


@torch.no_grad()
def compare(encoder: Reference, reader: Reader, promise: Promise = STOCK) -> Differences:
    """Run both on noise; not a number where either's output is."""
    frames = [max(count, promise.shortest) for count in _ALONE]
    alone = [_measure(encoder, reader, waves, None, promise) for waves in _make_waves(encoder, frames)]
    padded = _measure(encoder, reader, *_make_padded(encoder), promise) if promise.padded else None
    return Differences(_largest(alone), padded)


def _make_padded(encoder: Reference) -> Tuple[Tensor, Tensor]:
    """Waves (batch, samples) of unequal lengths, and their padding mask."""
    longest, *shorter = _make_waves(encoder, _PADDED)
    lengths = torch.tensor([wave.size(1) for wave in (longest, *shorter)])
    padding_mask = torch.arange(longest.size(1)) >= lengths.unsqueeze(1)
    return longest.repeat(len(lengths), 1).masked_fill(padding_mask, 0), padding_mask


def _make_waves(encoder: Reference, frames: Sequence[int]) -> Iterator[Tensor]:
    """Noise (1, samples) that gives so many frames, with some samples to spare."""
    shortest, stride = encoder.cfg.shortest_wave, encoder.cfg.frame_stride
    generator = torch.Generator().manual_seed(0)
    for count in frames:
        yield 0.1 + torch.randn(1, shortest + (count - 1) * stride + stride // 3, generator=generator)


def _measure(
    encoder: Reference, reader: Reader, waves: Tensor, padding_mask: Optional[Tensor], promise: Promise
) -> float:
    output = encoder.encode(waves, padding_mask)
    ours = list_states([require(hidden) for hidden in output.hidden], require(output.x))
    ours = ours if promise.all_states else ours[-1:]
    inside = promise.normalizes or getattr(reader, "normalizes", False)
    outside = encoder.normalize_input and not inside
    theirs = reader(normalize_wave(waves, padding_mask) if outside else waves, padding_mask)
    if [state.shape for state in theirs] != [state.shape for state in ours]:
        return float("inf")
    valid = torch.ones(ours[0].shape[:2], dtype=torch.bool) if output.padding_mask is None else ~output.padding_mask
    return _largest([float((a[valid] - b[valid]).norm() / a[valid].norm()) for a, b in zip(ours, theirs)])


def _largest(values: List[float]) -> float:
    return float(torch.tensor(values).max())  # not a number stays one
