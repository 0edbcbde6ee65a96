"""How much each place of an axis counts: channels of convolutions, heads, FFN neurons, channels of the layers.

Its importance is the size of what it sends to those that read it, by the weights they read it with:

    importance^2 = sum over readers and elements p that they read of it: size(p)^2 * |W_reader[:, p]|^2

with |.| the Euclidean norm. An FFN neuron is read by fc2; a head, at the head_dim elements of its context, by out_proj;
a channel of a convolution by the next one, of the last by the projection; a channel of the layers' width by the
positional convolution and by q, k, v and fc1 of every layer taken over. The size comes from one of two:

- activations: the root mean square of what the reader is given, over all frames of some speech.
- weights: |[W[p], b[p]]| of the rows that write it, through an activation function as if it were not there: fc1 for a
  neuron (so its importance is |fc1[j]| * |fc2[:, j]|, with fc1's bias), v_proj for a head. For a channel of the layers,
  all rows that add to it: projection, positional convolution, out_proj and fc2 of the layers taken over. Behind a norm
  over channels with weight g and bias b it is sqrt((g * s)^2 + b^2), s being the size before, with mean square 1 over
  the channels; behind a group norm, which scales each channel by itself, s = 1.
"""

from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from torch import Tensor

from ..encoder.anatomy import WIDTH, Axis
from ..encoder.attention import SelfAttention
from ..encoder.convolution import ChannelNorm, ConvBlock, PositionalConv, StackedPositionalConv, WeightNormConv
from ..encoder.layer import Constant, ConstantAttention
from ..encoder.model import SpeechEncoder
from ..errors import UserError


class Reader(NamedTuple):
    """What reads an axis.

    Attributes:
        axis: "conv", "heads", "ffn" (of the checkpoint's layers), or WIDTH.
        module: gets it as its first argument.
        dim: of that argument along which it lies.
        norms: (elements,) norms of the weights that read each element.
        sizes: (elements,) sizes of what is read, by the weights.
    """

    axis: Axis
    module: nn.Module
    dim: int
    norms: Tensor
    sizes: Tensor


@torch.no_grad()
def measure_importance(
    encoder: SpeechEncoder, layers: Sequence[int], waves: Optional[Iterable[Tensor]] = None
) -> Dict[Axis, Tensor]:
    """Importance of every place of every axis, (places,) in float64 on CPU.

    Args:
        encoder: in evaluation mode.
        layers: those that are taken over, from 1; one that is named twice counts twice for the width.
        waves: (batch, samples) each, without padding, for importance by activations; None = by weights.

    Raises:
        UserError: an importance is not finite.
    """
    readers = list_readers(encoder, layers)
    sizes = [reader.sizes for reader in readers] if waves is None else measure_sizes(encoder, readers, waves)
    squares: Dict[Axis, Tensor] = {}
    for reader, size in zip(readers, sizes):
        square = (size.double() * reader.norms.double()).pow(2).cpu()
        if reader.axis.name == "heads":
            square = square.view(-1, encoder.cfg.attention_head_dim).sum(1)
        squares[reader.axis] = squares.get(reader.axis, 0) + square
    if encoder.post_extract_proj is None:  # they are the layers' channels
        squares[Axis("conv", len(encoder.cfg.conv_layers) - 1)] = squares[WIDTH]
    wrong = sorted({name for (name, _), square in squares.items() if not torch.isfinite(square).all()})
    if wrong:
        names = ", ".join(wrong)
        raise UserError(f"model.init: the importance of its {names} is not finite, as its weights or outputs are not")
    return {axis: square.sqrt() for axis, square in squares.items()}


@torch.inference_mode()
def measure_sizes(encoder: SpeechEncoder, readers: Sequence[Reader], waves: Iterable[Tensor]) -> List[Tensor]:
    """Root mean square, over all frames of all waves, of what each reader is given: (elements,) each."""
    sums: List[Tensor] = [reader.norms.new_zeros(reader.norms.shape, dtype=torch.float64) for reader in readers]
    frames = [0] * len(readers)

    def add_squares(index: int, dim: int):
        def add(module: nn.Module, args: Tuple) -> None:
            x = args[0].detach().transpose(dim, -1).flatten(0, -2)
            sums[index] += x.float().pow(2).sum(0).double()
            frames[index] += len(x)

        return add

    hooks = [r.module.register_forward_pre_hook(add_squares(index, r.dim)) for index, r in enumerate(readers)]
    try:
        place = next(encoder.parameters())
        for wave in waves:
            encoder.encode(wave.to(place.device, place.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return [(total / max(count, 1)).sqrt() for total, count in zip(sums, frames)]


def list_readers(encoder: SpeechEncoder, layers: Sequence[int]) -> List[Reader]:
    """Every reader of an axis, with the sizes that the weights tell; for `layers` see `measure_importance`."""
    blocks, transformer = list(encoder.feature_extractor.conv_layers), encoder.encoder
    sizes = [_size_of_channels(block) for block in blocks]
    readers = [
        Reader(Axis("conv", index), block, 1, block.conv.weight.norm(dim=(0, 2)), sizes[index])
        for index, block in enumerate(blocks[1:])
    ]
    scale = encoder.feature_scale
    entering = _size_behind(sizes[-1] if scale is None else sizes[-1] * scale.abs(), encoder.layer_norm)
    projection = encoder.post_extract_proj
    if projection is not None:
        readers.append(Reader(Axis("conv", len(blocks) - 1), projection, -1, projection.weight.norm(dim=0), entering))
        entering = _square_rows(projection).sqrt()
    first, last, bias = _find_positional_weights(transformer.pos_conv)
    grouped = first.view(encoder.cfg.conv_pos_groups, -1, *first.shape[1:])  # (groups, out, in, kernel)
    readers.append(Reader(WIDTH, transformer.pos_conv, 1, grouped.pow(2).sum((1, 3)).sqrt().flatten(), entering))

    taken = [transformer.layers[number - 1] for number in layers]
    written = entering.pow(2) + last.flatten(1).pow(2).sum(1) + bias.pow(2)
    for layer in taken:
        written = written + _square_rows(layer.self_attn.out_proj) + _square_rows(layer.fc2)
    reduction = transformer.time_reduction
    if reduction is not None:
        written = written + _square_rows(reduction)
    written = written.sqrt()
    if reduction is not None:
        given = written if transformer.layer_norm_first else _size_behind(written, transformer.layer_norm)
        readers.append(Reader(WIDTH, reduction, -1, reduction.weight.norm(dim=(0, 2)), given))
    for number, layer in zip(layers, taken):
        before, between = layer.self_attn_layer_norm, layer.final_layer_norm
        if not transformer.layer_norm_first:
            before = transformer.layers[number - 2].final_layer_norm if number > 1 else transformer.layer_norm
            between = layer.self_attn_layer_norm
        attention = layer.self_attn
        if not isinstance(attention, ConstantAttention):
            projections = [attention.v_proj]
            if isinstance(attention, SelfAttention):
                projections = [attention.q_proj, attention.k_proj, attention.v_proj]
            norms = torch.cat([p.weight for p in projections]).norm(dim=0)
            readers.append(Reader(WIDTH, attention.v_proj, -1, norms, _size_behind(written, before)))
        if layer.fc1 is not None:
            readers.append(Reader(WIDTH, layer.fc1, -1, layer.fc1.weight.norm(dim=0), _size_behind(written, between)))
    for number in sorted(set(layers)):
        layer = transformer.layers[number - 1]
        if not isinstance(layer.self_attn, ConstantAttention):
            out, value = layer.self_attn.out_proj, layer.self_attn.v_proj
            written = _square_rows(value).sqrt()
            readers.append(Reader(Axis("heads", number - 1), out, -1, out.weight.norm(dim=0), written))
        if layer.fc1 is not None and not isinstance(layer.fc2, Constant):
            written = _square_rows(layer.fc1).sqrt()
            readers.append(Reader(Axis("ffn", number - 1), layer.fc2, -1, layer.fc2.weight.norm(dim=0), written))
    return readers


def _square_rows(module: Union[nn.Linear, nn.Conv1d, Constant]) -> Tensor:
    """(outputs,) squared norms of the weights that write each output, bias included; an empty part has a bias only."""
    if isinstance(module, Constant):
        return module.bias.pow(2)
    rows = module.weight.flatten(1).pow(2).sum(1)
    return rows if module.bias is None else rows + module.bias.pow(2)


def _size_behind(sizes: Tensor, norm: Union[nn.LayerNorm, nn.GroupNorm, None]) -> Tensor:
    if norm is None:
        return sizes
    relative = sizes / sizes.pow(2).mean().sqrt().clamp(min=1e-20)
    return ((relative * norm.weight).pow(2) + norm.bias.pow(2)).sqrt()


def _size_of_channels(block: ConvBlock) -> Tensor:
    sizes = _square_rows(block.conv).sqrt()
    if block.norm is None:
        return sizes
    if isinstance(block.norm, ChannelNorm):
        return _size_behind(sizes, block.norm.norm)
    return _size_behind(torch.ones_like(sizes), block.norm)


def _find_positional_weights(
    module: Union[PositionalConv, StackedPositionalConv],
) -> Tuple[Tensor, Tensor, Tensor]:
    """Of the positional convolutions: weight that reads the layers' channels, weight and bias that write them.

    Weights are (width, width / groups, kernel), as they act on the channels that come in.
    """
    if isinstance(module, StackedPositionalConv):
        first, last = module.convs[0], module.convs[-1]
        return first.weight, last.weight, _get_bias(last)
    norm, conv = module.norm, module.conv
    if isinstance(conv, WeightNormConv):
        weight = torch._weight_norm(conv.weight_v, conv.weight_g, 2)
        return weight, weight, conv.bias
    assert norm is not None and norm.running_var is not None, "a plain convolution stands behind a batch norm"
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(conv.groups, 1, -1, 1)
    weight = (conv.weight.view(conv.groups, -1, *conv.weight.shape[1:]) * scale).view_as(conv.weight)
    return weight, weight, _get_bias(conv)


def _get_bias(conv: nn.Conv1d) -> Tensor:
    assert conv.bias is not None, "positional convolutions have a bias"
    return conv.bias
