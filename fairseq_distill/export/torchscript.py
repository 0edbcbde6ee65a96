"""TorchScript: the trace of the encoder on waves without padding, which torch and libtorch run without any package."""

import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from torch import Tensor

from .comparison import Promise, Reader
from .source import Source, refuse_gates
from .wave_encoder import WaveEncoder, separate

HELP = "TorchScript, any shape: waves (batch, samples) of equal lengths to the final output; torch, libtorch, phones"
READER = "torch.jit"
OPTIONS = ("hidden_states",)


def describe(source: Source) -> Dict[str, Any]:
    """What is written."""
    return {"model": "TorchScript"}


def check(source: Source) -> None:
    """Refuse, with a UserError, gates that are not cut."""
    refuse_gates(source)


def promise(source: Source) -> Promise:
    """The same operations in the same order: the same bits, at every length."""
    return Promise(tolerance=0.0, all_states=source.options.hidden_states, normalizes=True, padded=False)


@torch.no_grad()
def write(source: Source, path: Path) -> None:
    """Trace on noise; what the encoder does depends on no value of it."""
    cfg = source.encoder.cfg
    example = torch.randn(2, cfg.shortest_wave + 9 * cfg.frame_stride, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks of the shortest wave, which become constants; and of torch's plans
        traced = torch.jit.trace(
            WaveEncoder(source.encoder, source.options.hidden_states), (example,), check_trace=False
        )
        torch.jit.save(traced, str(path))


def open_file(path: Path, source: Source) -> Reader:
    """The program as torch runs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.load(str(path))

    def read(waves: Tensor, padding_mask: Optional[Tensor]) -> List[Tensor]:
        return separate(program(waves))

    return read
