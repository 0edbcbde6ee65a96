"""Programs that open exported folders where neither fairseq nor this package can be imported."""

import importlib.util

import pytest
import torch

from fairseq_distill.encoder.model import SpeechEncoder

from .students import run_without_plugin

_BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq", "fairseq_distill", "omegaconf", "hydra"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
"""
_CHECK = "\nassert 'fairseq' not in sys.modules\n"


def run_without_fairseq(program, *arguments):
    """What a program prints."""
    return run_without_plugin(_BLOCK + program + _CHECK, *arguments)


def need(*names):
    """Skip where a library is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@torch.no_grad()
def save_what_it_says(path, encoder: SpeechEncoder, normalized=False):
    """Waves and what the encoder says of them: three alone, and a padded batch; as they are, or normalised before."""
    generator = torch.Generator().manual_seed(5)
    waves = [0.2 + 1.5 * torch.randn(length, generator=generator) for length in (4000, 2283, 977)]
    if normalized and encoder.normalize_input:
        waves = [torch.nn.functional.layer_norm(wave, wave.shape) for wave in waves]
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    mask = torch.arange(4000) >= torch.tensor([[len(wave)] for wave in waves])
    normalize, encoder.normalize_input = encoder.normalize_input, encoder.normalize_input and not normalized
    alone = [encoder(wave[None]) for wave in waves]
    padded = encoder(batch, padding_mask=mask)
    encoder.normalize_input = normalize
    say = [[*output.hidden, output.x] for output in (*alone, padded)]
    torch.save({"waves": waves, "batch": batch, "mask": mask, "say": say, "frame_mask": padded.padding_mask}, path)
