"""What the tests of gates do to gated encoders, and read from them."""

import math
from dataclasses import replace
from typing import Dict, Iterable, List, Tuple

import torch

from fairseq_distill.encoder.model import SpeechEncoder


def build_plain(gated: SpeechEncoder) -> SpeechEncoder:
    """An encoder without gates that has the weights of `gated`."""
    plain = SpeechEncoder(replace(gated.cfg, prune=[])).eval()
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if not key.startswith("gates.")})
    return plain


def open_all(encoder) -> None:
    """Soft gates from 0.86 to 0.99, none so low that evaluation closes it."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for log_alpha in encoder.gates.parameters():
            log_alpha.copy_(1.5 + 2.5 * torch.rand(log_alpha.shape, generator=generator))


def set_gate(encoder: SpeechEncoder, kind: str, layer: int, values: Iterable[float]) -> None:
    """log_alpha of one layer's gates of one kind."""
    gates = encoder.gates.kinds[kind]
    with torch.no_grad():
        gates.log_alpha.split(gates.sizes)[layer].copy_(torch.as_tensor(values))


def list_units(encoder: SpeechEncoder) -> List[Tuple[str, int, int]]:
    """(kind, layer, index) of every gate."""
    kinds = encoder.gates.kinds.items()
    return [
        (name, layer, unit) for name, kind in kinds for layer, size in enumerate(kind.sizes) for unit in range(size)
    ]


def by_layer(encoder: SpeechEncoder) -> Dict[str, List[List[float]]]:
    """log_alpha as plain numbers: kind -> layer -> unit."""
    kinds = encoder.gates.kinds.items()
    return {name: [part.tolist() for part in kind.log_alpha.split(kind.sizes)] for name, kind in kinds}


def sigmoid(x: float) -> float:
    """The logistic function of a number."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
