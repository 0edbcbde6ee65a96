"""The encoder as one function of tensors, which graphs are made of: waves and lengths to the final output."""

from typing import List, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from ..encoder.model import SpeechEncoder, require
from ..encoder.padding import mark_padding
from .comparison import list_states

States = Union[Tensor, Tuple[Tensor, Tensor]]


class WaveEncoder(nn.Module):
    """Waves to the final output, or to a pair with all hidden states; normalises waves where the encoder does.

    Args:
        encoder: in evaluation mode; its padding is made exact.
        hidden_states: give the pair.
    """

    def __init__(self, encoder: SpeechEncoder, hidden_states: bool):
        super().__init__()
        self.encoder, self.hidden_states = encoder, hidden_states

    def forward(self, waves: Tensor, lengths: Optional[Tensor] = None) -> States:
        """The final output (batch, frames, width); hidden states are (layers + 1, batch, frames, width).

        Args:
            waves: (batch, samples).
            lengths: (batch,) samples of each wave, the rest is padding; None = all are whole.
        """
        padding_mask = None if lengths is None else mark_padding(lengths, waves.size(1))
        output = self.encoder.encode(waves, padding_mask)
        x = require(output.x)
        return (x, torch.stack([require(hidden) for hidden in output.hidden])) if self.hidden_states else x


def separate(states: Union[Tensor, List[Tensor], Tuple[Tensor, ...]]) -> List[Tensor]:
    """What a `WaveEncoder` returned as `compare` takes it."""
    if isinstance(states, Tensor):
        return [states]
    x, *hidden = states
    return list_states(list(hidden[0]), x) if hidden else [x]


def measure_lengths(waves: Tensor, padding_mask: Tensor) -> Tensor:
    """Samples of each wave, (batch,) int64."""
    return (~padding_mask).sum(1)
