"""A speech encoder of any shape in plain torch: HuBERT, wav2vec 2.0, WavLM or data2vec audio, pruned or whole.

This file needs torch and the standard library alone, and is shipped beside exported weights:

    model = load_encoder("FOLDER")                    # config.json and model.safetensors
    output = model(waves, padding_mask)               # waves (batch, samples), mask True = padding, or None
    output.x                                          # (batch, frames, width)

Padding must come behind a wave; a wave then gives the same in a padded batch as alone.
"""

import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


class Output(NamedTuple):
    """What an encoder says of a batch of waves.

    Attributes:
        x: final output (batch, frames, width), after the final LayerNorm in pre-norm models.
        hidden: hidden[0] enters the first layer, hidden[l] is layer l's output, each (batch, frames, width).
        features: (batch, frames, width), what the convolutions give, projected; before a time reduction.
        padding_mask: (batch, frames of `hidden`) bool, True = padding; None if the waves were given without one.
    """

    x: Tensor
    hidden: Tuple[Tensor, ...]
    features: Tensor
    padding_mask: Optional[Tensor]


def load_encoder(folder: Union[str, Path]) -> "PortableEncoder":
    """The encoder of a folder with `config.json` and `model.safetensors`, in evaluation mode."""
    from safetensors.torch import load_file

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    model = PortableEncoder(config["encoder"])
    model.load_state_dict(load_file(str(Path(folder) / "model.safetensors")))
    return model.eval()


class PortableEncoder(nn.Module):
    """Convolutions, positions and transformer layers, each of its own size.

    Args:
        config: what `config.json` has as "encoder":
            conv_layers: [[channels, kernel, stride], ...], conv_bias, and conv_norm: "group" = after the first
                convolution over time, "layer" = after each over channels.
            scale_features: a factor for each channel of the convolutions' output (DPHuBERT's soft gates).
            width: of the layers; projection = whether the convolutions' output is projected to it.
            positions: kernel, groups, depth (above 1: stacked convolutions) and batch_norm of the positional
                convolution.
            heads, ffn_dims: of each layer, 0 = only the bias of its output is left; head_dim, activation.
            pre_norm: LayerNorm before each part of a layer, and after the last layer.
            position_bias: None, or WavLM's: heads, num_buckets, max_distance, gated, and head_numbers = which of its
                heads each layer has.
            time_reduction: frames that are made one before the first layer; 1 = none.
            reuse_attention: layers, from 1, with the attention map of the layer before them.
            normalize: waves get zero mean and unit variance here; sample_rate is what they have to have.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.config = dict(config)
        channels, width = config["conv_layers"][-1][0], config["width"]
        self.feature_extractor = ConvFeatures(config)
        self.feature_scale = nn.Parameter(torch.ones(channels)) if config["scale_features"] else None
        self.layer_norm = nn.LayerNorm(channels)
        self.post_extract_proj = nn.Linear(channels, width) if config["projection"] else None
        self.encoder = Transformer(config)

    def forward(self, waves: Tensor, padding_mask: Optional[Tensor] = None) -> Output:
        """Encode waves (batch, samples); padding_mask (batch, samples) bool, True = padding."""
        lengths = None if padding_mask is None else (~padding_mask).sum(-1)
        if self.config["normalize"]:
            waves = normalize_waves(waves, lengths)
        if padding_mask is not None:
            waves = waves.masked_fill(padding_mask, 0)
        features, frames = self.feature_extractor(waves, lengths)
        features = features.transpose(1, 2)
        if self.feature_scale is not None:
            features = features * self.feature_scale
        features = self.layer_norm(features)
        if self.post_extract_proj is not None:
            features = self.post_extract_proj(features)
        frame_mask = None
        if frames is not None:
            frame_mask = mark_padding(frames, features.size(1))
            features = features.masked_fill(frame_mask.unsqueeze(-1), 0)
        hidden, frame_mask = self.encoder(features, frame_mask)
        return Output(self.encoder.finish(hidden[-1]), tuple(hidden), features, frame_mask)


def mark_padding(lengths: Tensor, size: int) -> Tensor:
    """Mask (batch, size), True = padding, of `lengths` (batch,) samples or frames."""
    return torch.arange(size, device=lengths.device) >= lengths.unsqueeze(-1)


def measure(x: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
    """(batch, channels, time) less the mean of its first `lengths`, 0 behind, and their variance, time 1."""
    padding = mark_padding(lengths, x.size(-1)).unsqueeze(1)
    count = lengths.clamp(min=1)[:, None, None]
    values = x.float().masked_fill(padding, 0)
    centred = (values - values.sum(-1, keepdim=True) / count).masked_fill(padding, 0)
    return centred, centred.pow(2).sum(-1, keepdim=True) / count


def normalize_waves(waves: Tensor, lengths: Optional[Tensor]) -> Tensor:
    """Zero mean and unit variance of each wave (batch, samples), over its first `lengths`; 0 behind."""
    if lengths is None:
        return F.layer_norm(waves, waves.shape[-1:])
    centred, variance = measure(waves.unsqueeze(1), lengths)
    return (centred / (variance + 1e-5).sqrt()).squeeze(1).to(waves.dtype)


def normalize_channels(norm: nn.GroupNorm, x: Tensor, lengths: Tensor) -> Tensor:
    """A group norm with a group for each channel of (batch, channels, frames), over the first `lengths` frames."""
    centred, variance = measure(x, lengths)
    scale = (variance + norm.eps).rsqrt() * norm.weight.unsqueeze(-1)
    return torch.addcmul(norm.bias.to(scale.dtype).unsqueeze(-1), centred, scale).to(x.dtype)


class ConvFeatures(nn.Module):
    """Waves (batch, samples) to (batch, channels, frames): convolution, norm or none, GELU, several times."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.conv_layers = nn.ModuleList()
        before = 1
        for index, (channels, kernel, stride) in enumerate(config["conv_layers"]):
            layer = nn.ModuleDict({"0": nn.Conv1d(before, channels, kernel, stride, bias=config["conv_bias"])})
            if config["conv_norm"] == "layer":
                layer["2"] = nn.ModuleDict({"1": nn.LayerNorm(channels)})
            elif index == 0:
                layer["2"] = nn.GroupNorm(channels, channels)
            self.conv_layers.append(layer)
            before = channels

    def forward(self, waves: Tensor, lengths: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
        """The frames, and how many of them (batch,) depend on nothing but the first `lengths` samples of a wave."""
        x = waves.unsqueeze(1)
        for layer in self.conv_layers:
            parts: Dict[str, Any] = dict(layer.named_children())
            conv, norm = parts["0"], parts.get("2")
            x = conv(x)
            if lengths is not None:
                steps = torch.div(lengths - conv.kernel_size[0], conv.stride[0], rounding_mode="floor")
                lengths = (steps + 1).clamp(min=0)
            if isinstance(norm, nn.ModuleDict):
                x = norm["1"](x.transpose(1, 2)).transpose(1, 2)
            elif norm is not None and lengths is not None:
                x = normalize_channels(norm, x, lengths)
            elif norm is not None:
                x = norm(x)
            x = F.gelu(x)
        return x, lengths


class Positions(nn.Module):
    """Relative positions by convolution and GELU: (batch, width, frames) to the same shape.

    One convolution, which may stand behind a batch norm, or several, each followed by a LayerNorm without weights.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        width, given = config["width"], config["positions"]
        self.stacked = given["depth"] > 1
        self.norm = nn.BatchNorm1d(width) if given["batch_norm"] else None
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, given["kernel"], padding=given["kernel"] // 2, groups=given["groups"])
            for _ in range(given["depth"])
        )

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Frames near padding, `padding_mask` (batch, frames), see zeros there, as at the end of a wave."""
        frames = x.size(2)
        if self.norm is not None:
            x = self.norm(x)
        for conv in self.convs:
            if padding_mask is not None:
                x = x.masked_fill(padding_mask.unsqueeze(1), 0)
            x = conv(x)[:, :, :frames]  # an even kernel makes one frame too many
            if self.stacked:
                x = F.layer_norm(x.transpose(1, 2), x.shape[1:2]).transpose(1, 2)
            x = F.gelu(x)
        return x


class PositionBias(nn.Embedding):
    """WavLM's bias of attention by distance: half of the buckets for each sign, far distances in logarithmic ones."""

    def __init__(self, heads: int, num_buckets: int, max_distance: int):
        super().__init__(num_buckets, heads)
        self.max_distance = max_distance

    def forward(self, frames: int) -> Tensor:  # type: ignore[override]
        """(heads, frames, frames): what is added to the score of query i and key j."""
        position = torch.arange(frames, device=self.weight.device)
        distance = position[None, :] - position[:, None]
        half = self.num_embeddings // 2
        exact, size = half // 2, distance.abs()
        scale = torch.log(size.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (scale * (half - exact)).long()).clamp(max=half - 1)
        bucket = (distance > 0).long() * half + torch.where(size < exact, size, far)
        return super().forward(bucket).permute(2, 0, 1)


class Constant(nn.Module):
    """What is left of a part without heads or neurons: the bias of its output."""

    def __init__(self, width: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the bias at every frame."""
        return torch.zeros_like(x) + self.bias


class Attention(nn.Module):
    """Attention of one layer over (batch, frames, width): with its own map, that of the layer before, or a constant.

    Args:
        config: of the encoder.
        number: of the layer, from 1.
    """

    def __init__(self, config: Mapping[str, Any], number: int):
        super().__init__()
        width, self.heads = config["width"], config["heads"][number - 1]
        self.reuses = number in config["reuse_attention"]
        self.shows_map = number + 1 in config["reuse_attention"]
        bias = config["position_bias"]
        self.bias_heads = bias["heads"] if bias and bias["gated"] else 0
        self.numbers = bias["head_numbers"][number - 1] if bias else []
        if not self.heads:
            self.out_proj: nn.Module = Constant(width)
            return
        inner = self.heads * config["head_dim"]
        if not self.reuses:
            self.q_proj, self.k_proj = nn.Linear(width, inner), nn.Linear(width, inner)
            if self.bias_heads:
                self.grep_linear = nn.Linear(width // self.bias_heads, 8)
                self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        self.v_proj, self.out_proj = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(
        self, x: Tensor, mask: Optional[Tensor], bias: Optional[Tensor], earlier: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """The output, and the attention map (batch, heads, frames, frames) where the next layer reuses it.

        Args:
            x: what the layer reads.
            mask: (batch, 1, 1, frames), added to scores; or None.
            bias: (bias heads, frames, frames), or None.
            earlier: the map of the layer before.
        """
        if not self.heads:
            return self.out_proj(x), None
        value = self.split(self.v_proj(x))
        if self.reuses:
            assert earlier is not None
            return self.join(earlier @ value), earlier
        query, key = self.split(self.q_proj(x)), self.split(self.k_proj(x))
        if bias is not None:
            bias = bias[self.numbers]
            bias = self.gate(x) * bias if self.bias_heads else bias
            mask = (bias if mask is None else bias + mask).to(query.dtype)
        if not self.shows_map:
            return self.join(F.scaled_dot_product_attention(query, key, value, attn_mask=mask)), None
        scores = (query / math.sqrt(query.size(-1))) @ key.transpose(-2, -1)
        scores = scores if mask is None else scores + mask
        own = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return self.join(own @ value), own

    def split(self, x: Tensor) -> Tensor:
        """(batch, frames, heads * head_dim) to (batch, heads, frames, head_dim)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def join(self, context: Tensor) -> Tensor:
        """(batch, heads, frames, head_dim) to the output (batch, frames, width)."""
        return self.out_proj(context.transpose(1, 2).flatten(2))

    def gate(self, x: Tensor) -> Tensor:
        """WavLM's gate of the bias, (batch, heads, frames, 1)."""
        parts = x.unflatten(-1, (self.bias_heads, -1))[:, :, self.numbers].transpose(1, 2)
        update, reset = self.grep_linear(parts).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        return update * (reset * self.grep_a - 1.0) + 2.0


class Layer(nn.Module):
    """Attention and feed-forward part, each added to what it reads; before or after it a LayerNorm."""

    def __init__(self, config: Mapping[str, Any], number: int):
        super().__init__()
        width, neurons = config["width"], config["ffn_dims"][number - 1]
        self.pre_norm, self.activation = config["pre_norm"], ACTIVATIONS[config["activation"]]
        self.self_attn = Attention(config, number)
        self.fc1 = nn.Linear(width, neurons) if neurons else None
        self.fc2: nn.Module = nn.Linear(neurons, width) if neurons else Constant(width)
        # a constant reads nothing that a norm before it could change
        self.self_attn_layer_norm = nn.LayerNorm(width) if self.self_attn.heads or not self.pre_norm else None
        self.final_layer_norm = nn.LayerNorm(width) if neurons or not self.pre_norm else None

    def forward(
        self, x: Tensor, mask: Optional[Tensor], bias: Optional[Tensor], earlier: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """(batch, frames, width) to the same, and the attention map; arguments as in `Attention`."""
        first, second = self.self_attn_layer_norm, self.final_layer_norm
        y, attention_map = self.self_attn(first(x) if self.pre_norm and first else x, mask, bias, earlier)
        x = x + y
        x = x if self.pre_norm or not first else first(x)
        y = second(x) if self.pre_norm and second else x
        x = x + self.fc2(y if self.fc1 is None else self.activation(self.fc1(y)))
        return (x if self.pre_norm or not second else second(x)), attention_map


class Transformer(nn.Module):
    """Positions, time reduction and layers."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        width, self.factor, bias = config["width"], config["time_reduction"], config["position_bias"]
        self.pre_norm = config["pre_norm"]
        self.pos_conv = Positions(config)
        self.layer_norm = nn.LayerNorm(width)
        self.time_reduction = nn.Conv1d(width, width, self.factor, self.factor) if self.factor > 1 else None
        self.relative_attention_bias = None
        if bias:
            self.relative_attention_bias = PositionBias(bias["heads"], bias["num_buckets"], bias["max_distance"])
        self.layers = nn.ModuleList(Layer(config, number) for number in range(1, len(config["heads"]) + 1))

    def forward(self, x: Tensor, padding_mask: Optional[Tensor]) -> Tuple[List[Tensor], Optional[Tensor]]:
        """Features and mask (batch, frames), True = padding, to `Output`'s hidden states and the mask of these."""
        x = x + self.pos_conv(x.transpose(1, 2), padding_mask).transpose(1, 2)
        x = x if self.pre_norm else self.layer_norm(x)
        if self.time_reduction is not None:
            x = self.time_reduction(x.transpose(1, 2)).transpose(1, 2)
            if padding_mask is not None:  # a frame that is padding in part is padding
                padding_mask = padding_mask[:, : x.size(1) * self.factor].unflatten(1, (-1, self.factor)).any(-1)
        mask, attention_map = None, None
        if padding_mask is not None:
            # a row of padding alone sees all of it: without any key its softmax would be no number
            unseen = padding_mask & ~padding_mask.all(1, keepdim=True)
            mask = torch.zeros_like(unseen, dtype=x.dtype).masked_fill(unseen, float("-inf"))[:, None, None, :]
        bias = None if self.relative_attention_bias is None else self.relative_attention_bias(x.size(1))
        hidden = [x]
        for layer in self.layers:
            x, attention_map = layer(x, mask, bias, attention_map)
            hidden.append(x)
        return hidden, padding_mask

    def finish(self, x: Tensor) -> Tensor:
        """The final output from the last layer's."""
        return self.layer_norm(x) if self.pre_norm else x
