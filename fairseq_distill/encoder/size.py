"""The size of an encoder, from its settings: parameters, and multiply-accumulates for some length of audio."""

from typing import Dict, Iterable, List, NamedTuple, Tuple

from .anatomy import EXTRAS, Row, count_uses, list_front_rows, list_layer_rows
from .config import EncoderConfig
from .model import SpeechEncoder

_BODY = ("feature_extractor.", "feature_scale", "layer_norm.", "post_extract_proj.", "encoder.")
SECONDS = 10.0  # length of the wave that multiply-accumulates are counted for where nothing else is said


class Size(NamedTuple):
    """Encoder parameters as papers count them, and multiply-accumulates per second of audio."""

    parameters: int
    macs_per_second: float


class Part(NamedTuple):
    """A part of an encoder: its name, what is in it, parameters, multiply-accumulates for some length of audio."""

    name: str
    shape: str
    parameters: int
    macs: int


def count_row_parameters(row: Row) -> int:
    """Trained numbers of a row of the anatomy; 0 for what papers leave out of an encoder's size."""
    return row.size if row.kind == "parameter" and row.part not in EXTRAS else 0


def count_row_macs(row: Row, uses: Dict[str, int], repeats: int) -> int:
    """Multiply-accumulates of a row for one wave.

    Convolutions, linear layers and the two products of attention are counted; norms, activations and softmax are left
    out, as is usual.

    Args:
        row: of the anatomy.
        uses: what `count_uses` says of the wave.
        repeats: places of `row.repeats`, 1 where it has none.
    """
    return uses[row.used_at] * repeats * row.size if row.used_at else 0


def measure_parts(cfg: EncoderConfig, seconds: float = SECONDS) -> List[Part]:
    """Parameters and multiply-accumulates of every part, in the order of the computation.

    The cost of attention grows with the square of the length, so the length must be stated with the figure.

    Args:
        cfg: the encoder's settings.
        seconds: length of the one wave that multiply-accumulates are counted for.
    """
    return [Part(name, describe_part(cfg, name), *total) for name, total in _sum_parts(cfg, seconds).items()]


def count_size(cfg: EncoderConfig, seconds: float = SECONDS) -> Size:
    """The whole encoder's size; arguments as in `measure_parts`."""
    parameters, macs = map(sum, zip(*_sum_parts(cfg, seconds).values()))
    return Size(parameters, macs / seconds)


def _sum_parts(cfg: EncoderConfig, seconds: float) -> Dict[str, List[int]]:
    """[parameters, multiply-accumulates] of each part; layers of one shape are counted once."""
    uses = count_uses(cfg, int(seconds * cfg.sample_rate))
    totals: Dict[str, List[int]] = {}

    def add(rows: Iterable[Row], heads: int = 1) -> None:
        for row in rows:
            total = totals.setdefault(row.part, [0, 0])
            total[0] += count_row_parameters(row)
            total[1] += count_row_macs(row, uses, heads if row.repeats else 1)

    add(list_front_rows(cfg))
    counted: Dict[Tuple[int, int, bool], str] = {}
    for layer, (heads, neurons) in enumerate(zip(cfg.heads, cfg.ffn_dims)):
        shape, part = (heads, neurons, layer + 1 in cfg.reuse_attention), f"layer {layer + 1}"
        if shape in counted:
            totals[part] = totals[counted[shape]]
        else:
            add(list_layer_rows(cfg, layer), heads)
            counted[shape] = part
    return totals


def describe_part(cfg: EncoderConfig, name: str) -> str:
    """What is in a part, for people."""
    kind, _, number = name.partition(" ")
    channels = [1] + [count for count, _, _ in cfg.conv_layers]
    if kind == "conv":
        index = int(number)
        _, kernel, stride = cfg.conv_layers[index]
        return f"{channels[index]}->{channels[index + 1]}, kernel {kernel}, stride {stride}"
    if kind == "layer":
        layer = int(number)
        reused = " reused" if layer in cfg.reuse_attention else ""
        heads, neurons = cfg.heads[layer - 1], cfg.ffn_dims[layer - 1]
        return f"{heads} heads x {cfg.attention_head_dim}{reused}, {neurons} FFN neurons"
    depth = f"{cfg.pos_conv_depth} x " if cfg.pos_conv_depth > 1 else ""
    return {
        "projection": f"{channels[-1]}->{cfg.encoder_embed_dim}",
        "positions": f"{depth}kernel {cfg.pos_conv_kernel}, {cfg.conv_pos_groups} groups",
        "time reduction": f"{cfg.time_reduction} frames to 1",
        "position bias": f"{cfg.num_buckets} buckets, {cfg.encoder_attention_heads} heads",
    }.get(name, "")


def count_parameters(encoder: SpeechEncoder) -> Dict[str, int]:
    """Parameters of a network, counted on it, by what papers count.

    Returns:
        "encoder": convolutions, projection, positions, norms, layers (the figure of DistilHuBERT and DPHuBERT);
        "mask_emb": the embedding of masked frames; "heads": heads of distillation and of masked prediction. Gates are
        in none of them.
    """
    counts = {name: p.numel() for name, p in encoder.named_parameters() if not name.startswith("gates.")}
    body = sum(count for name, count in counts.items() if name.startswith(_BODY))
    mask = counts["mask_emb"]
    return {"encoder": body, "mask_emb": mask, "heads": sum(counts.values()) - body - mask}


def frame_rate(cfg: EncoderConfig) -> float:
    """Frames of the hidden states per second of audio."""
    return cfg.sample_rate / cfg.frame_stride
