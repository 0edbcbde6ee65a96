"""The anatomy of an encoder: from its settings alone, a row for every tensor, with a name for each of its dimensions.

Counts (`encoder.size`), expected counts (`pruning.expected_size`), the cutting of pruned students (`pruning.surgery`),
the start of narrower ones (`initialization.narrowing`) and the same cut through an optimizer's state follow from this
one table. What cannot be cut dimension by dimension has a `rule`, named here and nowhere else.
"""

import math
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .config import EncoderConfig, count_places
from .conv_spec import count_frames


class Axis(NamedTuple):
    """What several tensors count alike, so that all of them are cut together.

    Attributes:
        name: "conv" (channels of a convolution), "heads" or "ffn" (attention heads, FFN neurons of a layer), "width"
            (channels of the layers), "bias_heads" (of WavLM's shared position bias), or a whole part that has a gate
            ("attention_layers", "ffn_layers").
        index: of the convolution or the layer, from 0.
    """

    name: str
    index: int = 0  # type: ignore[assignment]  # tuples have a method of that name

    @property
    def place(self) -> str:
        """The convolution or layer in words; layers count from 1, convolutions from 0."""
        return f"conv {self.index}" if self.name == "conv" else f"layer {self.index + 1}"

    @property
    def label(self) -> str:
        """Name in logs: "conv_0", "heads_12"."""
        return f"{self.name}_{self.place.split()[1]}"


WIDTH = Axis("width")
BIAS_HEADS = Axis("bias_heads")

# rules: what cannot be cut dimension by dimension
GROUPED = "grouped"  # (width, width / groups, kernel): an output channel reads those of its own group
NORM_OF_V = "norm of weight_v"  # weight norm: what it scales has that norm
STRETCHES = "stretches"  # WavLM's gate: head h of the shared bias reads the h-th stretch of width / bias_heads channels


class Dim(NamedTuple):
    """One dimension of a tensor.

    Attributes:
        counts: places of each of its axes, one after the other (mostly one); of a dimension without axes, its size.
        axes: what it counts; empty for what is never cut (kernels, buckets).
        step: consecutive elements for each place (the width of a head).
    """

    counts: Tuple[int, ...]
    axes: Tuple[Axis, ...] = ()
    step: int = 1

    @property
    def length(self) -> int:
        """Its size."""
        return sum(self.counts) * self.step


class Row(NamedTuple):
    """A tensor, or a product of activations in attention.

    Attributes:
        name: the tensor's in the encoder's state dict.
        part: the part of the network that it belongs to, as `info` lists them.
        dims: its dimensions.
        used_at: the place, see `count_uses`, whose frames each multiply all of its numbers once; "" = no multiplication
            counts.
        repeats: an axis each of whose places uses it anew.
        reads: the dimension that reads what can have gates, which are factors on it.
        needs: an axis without whose places the tensor is not there.
        kind: "parameter", "buffer" (in the state dict, not trained), or "product" (of activations, no tensor).
        rule: GROUPED, NORM_OF_V, STRETCHES, or "" for a tensor whose dimensions are cut one by one.
    """

    name: str
    part: str
    dims: Tuple[Dim, ...]
    used_at: str = ""
    repeats: Optional[Axis] = None
    reads: Optional[int] = None
    needs: Optional[Axis] = None
    kind: str = "parameter"
    rule: str = ""

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod([sum(dim.counts) * dim.step for dim in self.dims])


# parts that papers leave out of an encoder's size
EXTRAS = ("mask embedding", "masked prediction", "gates")
Keep = Mapping[Axis, Tensor]  # places of an axis that stay, (places left,), ascending
GateValues = Mapping[Axis, Tensor]  # the gates of one forward pass, (places,) each, of the axes that have any
NO_GATES: GateValues = {}


def list_rows(cfg: EncoderConfig, classes: Sequence[int] = ()) -> List[Row]:
    """Every tensor of a `SpeechEncoder` with these settings, in the order of the computation.

    Args:
        cfg: the encoder's settings; with `prune`, gates are rows too.
        classes: sizes of the dictionaries of masked prediction, if any.
    """
    rows = list(list_front_rows(cfg))
    for layer in range(cfg.encoder_layers):
        rows += list_layer_rows(cfg, layer)
    rows.append(Row("mask_emb", EXTRAS[0], (_count_width(cfg),)))
    return rows + _list_masked_prediction(cfg, classes) + _list_gates(cfg)


def find_conv_axis(cfg: EncoderConfig, index: int) -> Axis:
    """The axis of a convolution's channels: those of the last are the layers' own where nothing projects them."""
    return WIDTH if index == len(cfg.conv_layers) - 1 and not cfg.has_projection else Axis("conv", index)


def list_gated_axes(cfg: EncoderConfig, name: str) -> Dict[Axis, int]:
    """The axes of one kind that can have gates, and their places, in the order of the one parameter that holds them."""
    sizes = count_places(cfg)[name]
    last = len(sizes) - 1 if name == "conv" and not cfg.has_projection else -1  # the layers' own channels
    return {Axis(name, i): size for i, size in enumerate(sizes) if i != last}


def count_uses(cfg: EncoderConfig, samples: int) -> Dict[str, int]:
    """How many frames of a wave of so many samples use what stands at each place; "pairs" of frames are attention's."""
    convs = cfg.conv_layers
    uses = {f"conv {i}": count_frames(samples, convs[: i + 1]) for i in range(len(convs))}
    features = uses[f"conv {len(convs) - 1}"]
    frames = features // cfg.time_reduction
    # an even kernel computes one frame more than is kept
    positions = features + 1 - cfg.pos_conv_kernel % 2
    return {**uses, "features": features, "positions": positions, "frames": frames, "pairs": frames * frames}


def select_tensors(
    rows: Sequence[Row], tensors: Mapping[str, Tensor], keep: Keep, factors: Optional[Mapping[Axis, Tensor]] = None
) -> Dict[str, Tensor]:
    """Cut tensors, of weights or of an optimizer's state, along the axes that `keep` names.

    Args:
        rows: the anatomy of the encoder that they belong to.
        tensors: by the names of the rows; a row without a tensor is passed over.
        keep: which places of the axes stay; of axes that it lacks, all do.
        factors: (places,) each, multiplied into what reads the axis: gates become part of the weights. None = nothing.

    Returns:
        New tensors, in their own memory, of the rows that are left: what is there only with an axis goes with its last
        place.

    Raises:
        ValueError: a tensor has no row.
    """
    unknown = sorted(tensors.keys() - {row.name for row in rows})
    if unknown:
        raise ValueError(f"the anatomy has no row for {', '.join(unknown[:5])}")
    selected = {}
    for row in (row for row in rows if row.name in tensors):
        value = tensors[row.name]
        if factors and row.reads is not None:
            value = _scale(value, row.dims[row.reads], factors, row.reads)
        value = select_places(value, row, keep)
        gone = row.needs is not None and row.needs in keep and not len(keep[row.needs])
        if value.numel() and not gone:
            selected[row.name] = value.clone(memory_format=torch.contiguous_format)
    return selected


def select_places(tensor: Tensor, row: Row, keep: Keep) -> Tensor:
    """A row's tensor without the places of its axes that do not stay."""
    for number, dim in enumerate(row.dims):
        if any(axis in keep for axis in dim.axes):
            tensor = tensor.index_select(number, expand_places(dim, keep).to(tensor.device))
    return tensor


def expand_places(dim: Dim, keep: Keep) -> Tensor:
    """Elements of a dimension that stay, (elements left,)."""
    parts, start, within = [], 0, torch.arange(dim.step)
    for axis, count in zip(dim.axes, dim.counts):
        kept = keep[axis].cpu() if axis in keep else torch.arange(count)
        parts.append((start + kept[:, None] * dim.step + within).flatten())
        start += count * dim.step
    return torch.cat(parts)


def _scale(tensor: Tensor, dim: Dim, factors: Mapping[Axis, Tensor], number: int) -> Tensor:
    """The tensor times the factors of its dimension `number`."""
    (axis,) = dim.axes
    if axis not in factors:
        return tensor
    shape = [1] * tensor.dim()
    shape[number] = -1
    return tensor * factors[axis].to(tensor).repeat_interleave(dim.step).view(shape)


def _count_width(cfg: EncoderConfig) -> Dim:
    return Dim((cfg.encoder_embed_dim,), (WIDTH,))


def _fix(*lengths: int) -> Tuple[Dim, ...]:
    """Dimensions that are never cut."""
    return tuple(Dim((length,)) for length in lengths)


def _list_linear(name: str, part: str, out: Dim, into: Dim, used_at: str, reads: bool = False) -> List[Row]:
    weight = Row(f"{name}.weight", part, (out, into), used_at, reads=1 if reads else None)
    return [weight, Row(f"{name}.bias", part, (out,))]


def _list_norm(name: str, part: str, channels: Dim, needs: Optional[Axis] = None) -> List[Row]:
    return [Row(f"{name}.{kind}", part, (channels,), needs=needs) for kind in ("weight", "bias")]


def list_front_rows(cfg: EncoderConfig) -> Iterator[Row]:
    """What lies outside the layers: convolutions, projection, positions, time reduction, position bias, the norm."""
    before, width = _fix(1)[0], _count_width(cfg)
    for index, (channels, kernel, _) in enumerate(cfg.conv_layers):
        part, block = f"conv {index}", f"feature_extractor.conv_layers.{index}"
        own = Dim((channels,), (find_conv_axis(cfg, index),))
        reads = 1 if index else None
        yield Row(f"{block}.0.weight", part, (own, before, *_fix(kernel)), part, reads=reads)
        if cfg.conv_bias:
            yield Row(f"{block}.0.bias", part, (own,))
        if cfg.extractor_mode == "layer_norm":
            yield from _list_norm(f"{block}.2.1", part, own)
        elif not index:
            yield from _list_norm(f"{block}.2", part, own)
        before = own
    if cfg.scale_features:
        yield Row("feature_scale", "projection", (before,))
    yield from _list_norm("layer_norm", "projection", before)
    if cfg.has_projection:
        yield from _list_linear("post_extract_proj", "projection", width, before, "features", reads=True)
    yield from _list_positions(cfg)
    if cfg.time_reduction > 1:
        name, part = "encoder.time_reduction", "time reduction"
        yield Row(f"{name}.weight", part, (width, width, *_fix(cfg.time_reduction)), "frames")
        yield Row(f"{name}.bias", part, (width,))
    if cfg.relative_position_embedding:
        heads = Dim((cfg.encoder_attention_heads,), (BIAS_HEADS,))
        yield Row("encoder.relative_attention_bias.weight", "position bias", (*_fix(cfg.num_buckets), heads))
    yield from _list_norm("encoder.layer_norm", "final norm" if cfg.layer_norm_first else "first norm", width)


def list_layer_rows(cfg: EncoderConfig, layer: int) -> List[Row]:
    """One layer, from 0; layers with as many heads and neurons differ in nothing but names, unless one reuses a map."""
    return [*_list_attention(cfg, layer), *_list_feed_forward(cfg, layer)]


def _list_positions(cfg: EncoderConfig) -> Iterator[Row]:
    """The positional convolution in its three forms: with weight norm, with batch norm, stacked."""
    width, part, kernel = _count_width(cfg), "positions", cfg.pos_conv_kernel
    grouped = (width, *_fix(cfg.encoder_embed_dim // cfg.conv_pos_groups, kernel))
    if cfg.pos_conv_depth > 1:
        names = [(f"encoder.pos_conv.{i}.0", "weight") for i in range(cfg.pos_conv_depth)]
    elif cfg.conv_pos_batch_norm:
        names = [("encoder.pos_conv.1", "weight")]
        norm = "encoder.pos_conv.0"
        yield from _list_norm(norm, part, width)
        for statistic in ("running_mean", "running_var"):
            yield Row(f"{norm}.{statistic}", part, (width,), kind="buffer")
        yield Row(f"{norm}.num_batches_tracked", part, (), kind="buffer")
    else:
        names = [("encoder.pos_conv.0", "weight_v")]
        yield Row("encoder.pos_conv.0.weight_g", part, _fix(1, 1, kernel), rule=NORM_OF_V)
    for name, weight in names:
        yield Row(f"{name}.{weight}", part, grouped, "positions", rule=GROUPED)
        yield Row(f"{name}.bias", part, (width,))


def _list_attention(cfg: EncoderConfig, layer: int) -> Iterator[Row]:
    """Without heads the bias of the output is left, and in a post-norm model the norm, which is the residual path's."""
    part, name, width = f"layer {layer + 1}", f"encoder.layers.{layer}.self_attn", _count_width(cfg)
    count, axis = cfg.heads[layer], Axis("heads", layer)
    inner, heads = Dim((count,), (axis,), cfg.attention_head_dim), Dim((count,), (axis,))
    reuses = layer + 1 in cfg.reuse_attention
    if count:
        for projection in ("v",) if reuses else ("k", "v", "q"):
            yield from _list_linear(f"{name}.{projection}_proj", part, inner, width, "frames")
        for product in ("context",) if reuses else ("scores", "context"):
            yield Row(f"{name}: {product}", part, (inner,), "pairs", kind="product")
        if cfg.relative_position_embedding and cfg.gru_rel_pos and not reuses:
            stretch = cfg.encoder_embed_dim // cfg.encoder_attention_heads
            gate: Dict[str, Any] = dict(part=part, needs=axis, rule=STRETCHES)
            yield Row(f"{name}.grep_linear.weight", dims=_fix(8, stretch), used_at="frames", repeats=axis, **gate)
            yield Row(f"{name}.grep_linear.bias", dims=_fix(8), **gate)
            yield Row(f"{name}.grep_a", part, (*_fix(1), heads, *_fix(1, 1)), rule=STRETCHES)
        yield Row(f"{name}.out_proj.weight", part, (width, inner), "frames", reads=1)
    yield Row(f"{name}.out_proj.bias", part, (width,))
    if count or not cfg.layer_norm_first:
        needs = axis if cfg.layer_norm_first else None
        yield from _list_norm(f"encoder.layers.{layer}.self_attn_layer_norm", part, width, needs)


def _list_feed_forward(cfg: EncoderConfig, layer: int) -> Iterator[Row]:
    """As attention: without neurons the bias of the output, and the norm of a post-norm model."""
    part, name, width = f"layer {layer + 1}", f"encoder.layers.{layer}", _count_width(cfg)
    count, axis = cfg.ffn_dims[layer], Axis("ffn", layer)
    neurons = Dim((count,), (axis,))
    if count:
        yield from _list_linear(f"{name}.fc1", part, neurons, width, "frames")
        yield Row(f"{name}.fc2.weight", part, (width, neurons), "frames", reads=1)
    yield Row(f"{name}.fc2.bias", part, (width,))
    if count or not cfg.layer_norm_first:
        yield from _list_norm(f"{name}.final_layer_norm", part, width, axis if cfg.layer_norm_first else None)


def _list_masked_prediction(cfg: EncoderConfig, classes: Sequence[int]) -> List[Row]:
    if not classes:
        return []
    part, width = EXTRAS[1], _count_width(cfg)
    (final,) = _fix(cfg.final_dim if cfg.final_dim > 0 else cfg.encoder_embed_dim)
    rows = []
    if cfg.target_glu:
        rows += _list_linear("target_glu.0", part, _fix(2 * final.length)[0], final, "")
    outputs = final.length * (len(classes) if cfg.untie_final_proj else 1)
    rows += _list_linear("final_proj", part, _fix(outputs)[0], width, "")
    return [*rows, Row("label_embs_concat", part, (*_fix(sum(classes)), final))]


def _list_gates(cfg: EncoderConfig) -> List[Row]:
    rows = []
    for name in cfg.prune:
        axes = {axis: size for axis, size in list_gated_axes(cfg, name).items() if size}
        if axes:
            dims = (Dim(tuple(axes.values()), tuple(axes)),)
            rows.append(Row(f"gates.kinds.{name}.log_alpha", EXTRAS[2], dims))
    return rows
