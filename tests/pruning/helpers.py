"""Gated encoders small enough to close every unit in turn, with weights that make every branch matter."""

import math
from dataclasses import replace
from typing import Dict, Iterable, List, Tuple

import torch
from torch import Tensor

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.pruning.gates import add_gates

from ..encoder.builders import make_waves, randomize
from ..encoder.test_shapes import WAVLM

UNITS = ["conv", "heads", "ffn"]
PARTS = ["attention_layers", "ffn_layers"]
TINY = dict(
    encoder_layers=2,
    encoder_embed_dim=12,
    encoder_ffn_embed_dim=5,
    encoder_attention_heads=3,
    conv_feature_layers="[(6,10,5), (5,3,2), (7,2,2)]",
    conv_pos=8,
    conv_pos_groups=4,
    dropout=0.0,
    attention_dropout=0.0,
    final_dim=10,
    prune=UNITS,
)
# every way in which encoders differ where gates act
KINDS = {
    "hubert": {},
    "pre-norm": dict(layer_norm_first=True),
    "layer-norm extractor": dict(extractor_mode="layer_norm", conv_bias=True),
    "large": dict(layer_norm_first=True, extractor_mode="layer_norm", conv_bias=True),
    "wav2vec2": dict(family="wav2vec2", conv_bias=True),
    "data2vec": dict(family="data2vec", pos_conv_depth=3, extractor_mode="layer_norm"),
    "wavlm": WAVLM,
    "wavlm large": dict(WAVLM, layer_norm_first=True, extractor_mode="layer_norm"),
    "no projection": dict(encoder_embed_dim=12, conv_feature_layers="[(6,10,5), (5,3,2), (12,2,2)]"),
}


def build_gated(seed: int = 0, **settings) -> SpeechEncoder:
    """An encoder of TINY shape with `settings` changed and with gates, in evaluation mode."""
    torch.manual_seed(seed)
    encoder = SpeechEncoder(EncoderConfig.from_settings({**TINY, **settings}))
    add_gates(encoder)
    return randomize(encoder, seed)


def build_plain(gated: SpeechEncoder) -> SpeechEncoder:
    """An encoder without gates that has the weights of `gated`."""
    plain = SpeechEncoder(replace(gated.cfg, prune=[])).eval()
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if not key.startswith("gates.")})
    return plain


def spread_gates(encoder: SpeechEncoder, mean: float = 0.5, std: float = 2.0, seed: int = 3) -> None:
    """Random log_alpha: some gates closed in evaluation, the others soft."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for log_alpha in encoder.gates.parameters():
            log_alpha.copy_(mean + std * torch.randn(log_alpha.shape, generator=generator))


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


@torch.no_grad()
def relative_error(one: SpeechEncoder, other: SpeechEncoder, samples: int = 1200) -> float:
    """Largest difference of features, hidden states and output on padded waves, as a fraction of their norm."""
    waves, mask = make_waves(batch=2, samples=samples, padded=True)
    outputs = [encoder(waves, padding_mask=mask) for encoder in (one, other)]
    valid = ~outputs[0].padding_mask
    assert torch.equal(outputs[0].padding_mask, outputs[1].padding_mask) and 0 < valid.sum() < valid.numel()
    pairs: List[Tuple[Tensor, Tensor]] = list(zip(*((*out.hidden, out.x, out.features) for out in outputs)))
    return max(float((a[valid] - b[valid]).norm() / a[valid].norm()) for a, b in pairs)
