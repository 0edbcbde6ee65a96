"""The layers of an encoder once more, written out with plain torch operations on its weights."""

from typing import List, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_distill.encoder.model import SpeechEncoder


class PlainRun(NamedTuple):
    """Hidden states h[0], h[1], ... (batch, frames, width); maps of layers 1, 2, ... (batch, heads, frames, frames)."""

    hidden: List[Tensor]
    maps: List[Tensor]


def run_plain(encoder: SpeechEncoder, x: Tensor, padding_mask: Optional[Tensor] = None) -> PlainRun:
    """All layers on x = h[0], without dropout; a layer without queries of its own takes the map of the layer before."""
    cfg, weights = encoder.cfg, dict(encoder.named_parameters())
    hidden, maps = [x], []
    for number in range(cfg.encoder_layers):
        own = {
            key.split(".", 3)[3]: value for key, value in weights.items() if key.startswith(f"encoder.layers.{number}.")
        }

        def linear(name, y, own=own):
            return torch.einsum("btd,ed->bte", y, own[f"{name}.weight"]) + own[f"{name}.bias"]

        def norm(name, y, own=own):
            return F.layer_norm(y, y.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"])

        def split(y, heads=cfg.heads[number]):
            return y.reshape(*y.shape[:2], heads, cfg.attention_head_dim)

        y = norm("self_attn_layer_norm", x) if cfg.layer_norm_first else x
        if "self_attn.q_proj.weight" in own:
            q, k = split(linear("self_attn.q_proj", y)), split(linear("self_attn.k_proj", y))
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / cfg.attention_head_dim**0.5
            if cfg.relative_position_embedding:
                scores = scores + gate_bias(encoder, own, y)
            if padding_mask is not None:
                scores = scores.masked_fill(padding_mask[:, None, None, :], float("-inf"))
            maps.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
        else:
            maps.append(maps[-1])
        context = torch.einsum("bhqk,bkhd->bqhd", maps[-1], split(linear("self_attn.v_proj", y))).flatten(2)
        x = x + linear("self_attn.out_proj", context)
        x = x if cfg.layer_norm_first else norm("self_attn_layer_norm", x)
        y = norm("final_layer_norm", x) if cfg.layer_norm_first else x
        x = x + linear("fc2", F.gelu(linear("fc1", y)))
        x = x if cfg.layer_norm_first else norm("final_layer_norm", x)
        hidden.append(x)
    return PlainRun(hidden, maps)


def gate_bias(encoder: SpeechEncoder, own, y: Tensor) -> Tensor:
    """WavLM's position bias of a layer with input y, each query's gated by its own frame (2110.13900, eq. 5-7)."""
    bias = encoder.encoder.relative_attention_bias(y.size(1))
    gated = []
    for head in range(bias.size(0)):
        part = y.chunk(bias.size(0), dim=-1)[head]
        update, reset = (
            torch.einsum("btd,ged->gbt", part, own["self_attn.grep_linear.weight"].view(2, 4, -1))
            + own["self_attn.grep_linear.bias"].view(2, 4).sum(1)[:, None, None]
        )
        update, reset = update.sigmoid(), reset.sigmoid()
        scale = update * (reset * own["self_attn.grep_a"].flatten()[head] - 1) + 2
        gated.append(scale[:, :, None] * bias[head])
    return torch.stack(gated, dim=1)
