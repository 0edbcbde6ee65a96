"""Waves of any length through an encoder, in pieces: attention's memory grows with the square of the length."""

from typing import Collection, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .config import EncoderConfig
from .conv_spec import count_frames
from .model import EncoderOutput, SpeechEncoder, normalize_wave

LONGEST = 40  # seconds; the longest utterance of LibriSpeech (35 s) stays whole


def cut_wave(samples: int, cfg: EncoderConfig) -> List[Tuple[int, int]]:
    """Where the pieces of a wave of so many samples start and stop; none if it makes no frame.

    All pieces together have as many frames as the whole wave, and are about equal. The last one has the wave's rest,
    which makes no frame but counts in a group norm.

    Args:
        samples: of the wave; up to `LONGEST` seconds it is one piece.
        cfg: of the encoder: what makes frames of samples, and samples a second.
    """
    frames, stride, shortest = count_frames(samples, cfg.frame_layers), cfg.frame_stride, cfg.shortest_wave
    pieces = -(-frames // max(int(LONGEST * cfg.sample_rate / stride), 1))
    bounds = [frames * piece // pieces for piece in range(pieces + 1)] if pieces else []
    return [
        (start * stride, samples if end == frames else (end - 1) * stride + shortest)
        for start, end in zip(bounds, bounds[1:])
    ]


def encode_pieces(
    encoder: SpeechEncoder, wave: Tensor, layers: Optional[Collection[int]] = None
) -> Iterator[EncoderOutput]:
    """What `encode` gives of each piece of a wave (samples,), batches of one; normalised whole, before it is cut."""
    pieces = cut_wave(len(wave), encoder.cfg)
    if len(pieces) < 2:
        yield encoder.encode(wave.unsqueeze(0), layers=layers)
        return
    if encoder.normalize_input:
        wave = normalize_wave(wave.unsqueeze(0)).squeeze(0)
    for start, stop in pieces:
        normalize, encoder.normalize_input = encoder.normalize_input, False
        try:
            output = encoder.encode(wave[start:stop].unsqueeze(0), layers=layers)
        finally:
            encoder.normalize_input = normalize
        yield output


def join_pieces(outputs: Sequence[EncoderOutput]) -> EncoderOutput:
    """Outputs for the pieces of a wave as one: their frames behind one another."""
    if len(outputs) == 1:
        return outputs[0]
    x = _join([output.x for output in outputs])
    hidden = tuple(_join(states) for states in zip(*(output.hidden for output in outputs)))
    return EncoderOutput(x, hidden, torch.cat([output.features for output in outputs], 1), None)


def _join(states: Sequence[Optional[Tensor]]) -> Optional[Tensor]:
    """A state of all pieces, or None where it was not asked for."""
    found = [state for state in states if state is not None]
    return torch.cat(found, 1) if found else None
