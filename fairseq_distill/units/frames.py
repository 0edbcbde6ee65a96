"""Hidden states of one layer, for waves of any length."""

from typing import Iterator

import numpy as np
import torch
from torch import Tensor

from ..data.audio_file import BrokenAudio, Fault
from ..encoder.model import SpeechEncoder, normalize_wave, require
from ..encoder.pieces import cut_wave


class LayerFrames:
    """Call it with a wave (samples,) for its frames at one layer, chunk by chunk, each (frames, width) float32.

    All chunks together have as many frames as the whole wave has. Frames of one chunk see nothing of another one, and
    those of a wave nothing of other waves: each goes alone, in full single precision.

    Args:
        encoder: as `load_encoder` gives it; moved to the GPU where there is one.
        layer: 0 = what enters the first transformer layer, l = layer l's output.
    """

    def __init__(self, encoder: SpeechEncoder, layer: int):
        self.layer = layer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = encoder.to(self.device)
        self.normalize = encoder.normalize_input
        encoder.normalize_input = False  # a wave is normalised whole, before it is cut into chunks

    @torch.inference_mode()
    def __call__(self, wave: Tensor) -> Iterator[np.ndarray]:
        """Raises BrokenAudio where the layer's output is not finite."""
        if self.normalize:
            wave = normalize_wave(wave.unsqueeze(0)).squeeze(0)
        for start, stop in cut_wave(len(wave), self.encoder.cfg):
            hidden = self._encode(wave[start:stop])
            if not torch.isfinite(hidden).all():
                raise BrokenAudio(Fault.NOT_FINITE, f"the teacher makes hidden state {self.layer} of it not finite")
            yield hidden.cpu().numpy()

    def _encode(self, chunk: Tensor) -> Tensor:
        """The layer's frames (frames, width) of a chunk (samples,)."""
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):  # as the CPU computes
            output = self.encoder.encode(chunk.unsqueeze(0).to(self.device), layers=[self.layer])
        return require(output.hidden[self.layer])[0]
