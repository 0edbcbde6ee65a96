"""What a narrower student keeps of a checkpoint: along every axis the most important places, as many as it has."""

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence

import torch
from torch import Tensor

from ..encoder.anatomy import BIAS_HEADS, WIDTH, Axis, find_conv_axis
from ..encoder.config import EncoderConfig
from ..errors import UserError

WIDTH_CHOICES = ("none", "weights", "activations")


@dataclass
class Selection:
    """What of a checkpoint a student starts as.

    Attributes:
        keep: for each axis of the student the places, ascending, of the checkpoint's axis that it starts as. Axes that
            start from scratch are not there: of all convolutions, if the stacks have different structures or one is to
            have more channels; of heads and neurons where the checkpoint's layer has fewer.
        head_numbers: the student's `layer_head_numbers`.
    """

    keep: Dict[Axis, Tensor]
    head_numbers: str = ""


def choose_kept(
    student: EncoderConfig, source: EncoderConfig, layers: Sequence[int], importance: Mapping[Axis, Tensor]
) -> Selection:
    """Choose what to keep of `source` for `student`, whose layer i starts as layer `layers[i]`, numbered from 1.

    The channels of the layers are chosen once for the whole network, for they are one stream. The positional
    convolution ties them together in groups: with as many groups as the checkpoint, the student keeps equally many
    channels of each group, and the convolution can be sliced; with another number they are chosen freely, and it starts
    from scratch. Heads and neurons are chosen layer by layer. A student layer that reuses the attention map of the one
    before it keeps the same heads. Where WavLM's shared position bias has fewer heads in the student, these are chosen
    once, and every layer keeps heads among them. Of equal importance the first is kept.

    Raises:
        UserError: layers of another kind (pre- or post-norm), more width or another width of a head than the
            checkpoint's: nothing in the layers could be taken over.
    """
    check_shapes(student, source)
    groups = student.conv_pos_groups if student.conv_pos_groups == source.conv_pos_groups else 1
    chosen = Selection({WIDTH: _keep_in_groups(importance[WIDTH], student.encoder_embed_dim, groups)})
    chosen.keep.update(_select_channels(student, source, importance))
    for place, number in enumerate(layers):
        _add(chosen, Axis("ffn", place), importance.get(Axis("ffn", number - 1)), student.ffn_dims[place])
    _select_heads(chosen, student, source, layers, importance)
    return chosen


def check_shapes(student: EncoderConfig, source: EncoderConfig) -> None:
    """UserError with the way out where nothing in the layers of `student` could start as those of `source`."""
    ours, theirs = student.encoder_embed_dim, source.encoder_embed_dim
    if ours > theirs:
        raise UserError(
            f"model.init_width keeps channels of the checkpoint, which has {theirs}: model.encoder_embed_dim={ours} is "
            "more"
        )
    if student.attention_head_dim != source.attention_head_dim:
        dim = source.attention_head_dim
        raise UserError(
            f"model.init_width keeps whole heads, which are {dim} wide in the checkpoint and "
            f"{student.attention_head_dim} in the student: set model.head_dim={dim} (the heads of a layer together "
            f"need not be as wide as the layer), or model.encoder_attention_heads={max(ours // dim, 1)}"
        )
    if student.layer_norm_first != source.layer_norm_first:
        raise UserError(
            f"model.init_width: the checkpoint has layer_norm_first={source.layer_norm_first}, which makes other "
            "layers: set model.layer_norm_first to it"
        )
    if source.has_projection and not student.has_projection:
        raise UserError(
            f"model.init_width: the student's {ours} channels come straight from its convolutions, the checkpoint's "
            "from a projection: set model.project_features=true"
        )


def keep_most_important(importance: Optional[Tensor], count: int) -> Optional[Tensor]:
    """Places (count,) of the largest of `importance` (places,), ascending; None if there are fewer."""
    values = torch.zeros(0) if importance is None else importance
    return None if count > len(values) else _find_largest(values, count)


def _find_largest(values: Tensor, count: int) -> Tensor:
    """Places (count,) of the largest of `values` (places,), ascending."""
    if count == len(values):
        return torch.arange(count)
    return torch.sort(values, descending=True, stable=True).indices[:count].sort().values


def _add(chosen: Selection, axis: Axis, importance: Optional[Tensor], count: int) -> None:
    kept = keep_most_important(importance, count)
    if kept is not None:
        chosen.keep[axis] = kept


def _keep_in_groups(importance: Tensor, count: int, groups: int) -> Tensor:
    size = len(importance) // groups
    kept = [_find_largest(part, count // groups) + g * size for g, part in enumerate(importance.split(size))]
    return torch.cat(kept)


def _select_channels(
    student: EncoderConfig, source: EncoderConfig, importance: Mapping[Axis, Tensor]
) -> Dict[Axis, Tensor]:
    def structure(cfg: EncoderConfig):
        return str(cfg.extractor_mode), cfg.conv_bias, [kernel for _, kernel, _ in cfg.conv_layers]

    if structure(student) != structure(source):
        return {}
    kept: Dict[Axis, Tensor] = {}
    for index, (channels, _, _) in enumerate(student.conv_layers):
        axis = find_conv_axis(student, index)
        if axis != WIDTH:  # the layers' channels are chosen already
            found = keep_most_important(importance[Axis("conv", index)], channels)
            if found is None:
                return {}
            kept[axis] = found
    return kept


def _select_heads(
    chosen: Selection,
    student: EncoderConfig,
    source: EncoderConfig,
    layers: Sequence[int],
    importance: Mapping[Axis, Tensor],
) -> None:
    """Add heads, those of the shared position bias, and their numbers."""
    values = [importance.get(Axis("heads", number - 1), torch.zeros(0)) for number in layers]
    # which head of the shared bias each head has
    numbers = [source.head_numbers[n - 1] or list(range(source.heads[n - 1])) for n in layers]
    candidates = [list(range(len(v))) for v in values]
    biased = student.relative_position_embedding and source.relative_position_embedding
    if biased and student.encoder_attention_heads <= source.encoder_attention_heads:
        total = torch.zeros(source.encoder_attention_heads, dtype=torch.float64)
        for value, theirs in zip(values, numbers):
            total.index_add_(0, torch.tensor(theirs, dtype=torch.long), value.double().pow(2))
        _add(chosen, BIAS_HEADS, total, student.encoder_attention_heads)
        left = set(chosen.keep[BIAS_HEADS].tolist())
        candidates = [[h for h, number in enumerate(theirs) if number in left] for theirs in numbers]
    for chain in _find_chains(student, len(layers)):
        same = all(candidates[place] == candidates[chain[0]] for place in chain)
        shared = torch.stack([values[place].double().pow(2) for place in chain]).sum(0) if same else None
        for place in chain:
            value = (values[place] if shared is None else shared)[candidates[place]]
            kept = keep_most_important(value, student.heads[place])
            if kept is not None:
                chosen.keep[Axis("heads", place)] = torch.tensor(candidates[place], dtype=torch.long)[kept]
    if BIAS_HEADS in chosen.keep:
        chosen.head_numbers = _number_heads(chosen, student, numbers)


def _find_chains(student: EncoderConfig, count: int) -> List[List[int]]:
    """Runs of student layers, from 0, that share an attention map."""
    chains: List[List[int]] = []
    for place in range(count):
        if place + 1 in student.reuse_attention:
            chains[-1].append(place)
        else:
            chains.append([place])
    return chains


def _number_heads(chosen: Selection, student: EncoderConfig, numbers: Sequence[Sequence[int]]) -> str:
    """`layer_head_numbers`: each kept head's place in the student's position bias; empty if that is the default."""
    places: Dict[int, int] = {head: place for place, head in enumerate(chosen.keep[BIAS_HEADS].tolist())}
    found = []
    for layer, count in enumerate(student.heads):
        kept = chosen.keep.get(Axis("heads", layer))
        found.append(list(range(count)) if kept is None else [places[numbers[layer][h]] for h in kept.tolist()])
    default = [list(range(count)) for count in student.heads]
    return "" if found == default else str(found).replace(" ", "")
