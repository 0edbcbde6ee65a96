"""torch.export's program (.pt2): batch and samples of any size, padded batches too; opens with torch alone."""

import inspect
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from torch import Tensor

from .comparison import Promise, Reader
from .source import Source, refuse_gates
from .wave_encoder import WaveEncoder, measure_lengths, separate

HELP = "torch.export's program, any shape: waves (batch, samples), lengths (batch,) to the final output; torch"
READER = "torch.export"
OPTIONS = ("hidden_states",)
# time reduction divides frames, about which no guard can be proven; older torch has no such option
_DEFERRED: Any = {
    name: True
    for name in inspect.signature(torch.export.export).parameters
    if name == "prefer_deferred_runtime_asserts_over_guards"
}
FEWEST_FRAMES = 2  # torch.export takes sizes of 1 for constants, so frames are at least two


def describe(source: Source) -> Dict[str, Any]:
    """What is written."""
    return {"model": "torch.export program"}


def check(source: Source) -> None:
    """Refuse, with a UserError, gates that are not cut."""
    refuse_gates(source)


def promise(source: Source) -> Promise:
    """Sums may run in another order than in modules; padding is exact."""
    return Promise(all_states=source.options.hidden_states, normalizes=True, exact_padding=True, shortest=FEWEST_FRAMES)


def write(source: Source, path: Path) -> None:
    """Export and save."""
    torch.export.save(make_program(source), str(path))


@torch.no_grad()
def make_program(source: Source) -> "torch.export.ExportedProgram":
    """The graph of waves (batch, samples) and lengths (batch,), of any sizes."""
    encoder, cfg = source.encoder, source.encoder.cfg
    samples = cfg.shortest_wave + 9 * cfg.frame_stride
    example = torch.randn(3, samples, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([samples, samples - cfg.frame_stride, cfg.shortest_wave])
    batch = torch.export.Dim("batch", min=1)
    time = torch.export.Dim("samples", min=cfg.shortest_wave + (FEWEST_FRAMES - 1) * cfg.frame_stride)
    exact, encoder.exact_padding = encoder.exact_padding, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own plans
            return torch.export.export(
                WaveEncoder(encoder, source.options.hidden_states),
                (example, lengths),
                dynamic_shapes=({0: batch, 1: time}, {0: batch}),
                strict=False,
                **_DEFERRED,
            )
    finally:
        encoder.exact_padding = exact


def open_file(path: Path, source: Source) -> Reader:
    """The program as torch runs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(str(path)).module()

    def read(waves: Tensor, padding_mask: Optional[Tensor]) -> List[Tensor]:
        if padding_mask is None:
            padding_mask = torch.zeros_like(waves, dtype=torch.bool)
        return separate(program(waves, measure_lengths(waves, padding_mask)))

    return read
