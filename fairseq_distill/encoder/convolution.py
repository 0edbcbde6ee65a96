"""The convolutions of a speech encoder: waveform to frames, positions, and fewer frames."""

import math
from typing import List, Optional, Sequence, Union, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .anatomy import NO_GATES, GateValues, find_conv_axis
from .config import EncoderConfig
from .gated import OpenLayerNorm, ScaledConv1d
from .padding import FrameBatchNorm, normalize_channels
from .stock_face import has_hooks


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (batch, channels, frames); its weights carry fairseq's name `1`."""

    def __init__(self, channels: int):
        super().__init__()
        self.add_module("1", OpenLayerNorm(channels))

    def forward(self, x: Tensor, gates: Optional[Tensor] = None) -> Tensor:
        """The same shape; gates (channels,) or None."""
        return self.norm(x.transpose(1, 2), gates).transpose(1, 2)

    @property
    def norm(self) -> OpenLayerNorm:
        """The LayerNorm itself."""
        return cast(OpenLayerNorm, self._modules["1"])


BlockNorm = Union[ChannelNorm, nn.GroupNorm]


class ConvBlock(nn.Module):
    """Convolution, norm or none, GELU. Children carry fairseq's numbers: `0` the convolution, `2` the norm."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int, bias: bool, norm: Optional[BlockNorm]
    ):
        super().__init__()
        conv = ScaledConv1d(in_channels, channels, kernel, stride=stride, bias=bias)
        nn.init.kaiming_normal_(conv.weight)
        self.add_module("0", conv)
        self.add_module("2", norm)

    @property
    def conv(self) -> ScaledConv1d:
        """The convolution."""
        return cast(ScaledConv1d, self._modules["0"])

    @property
    def norm(self) -> Optional[BlockNorm]:
        """The norm that follows it, or None."""
        return cast(Optional[BlockNorm], self._modules["2"])

    def forward(
        self,
        x: Tensor,
        lengths: Optional[Tensor] = None,
        read_gates: Optional[Tensor] = None,
        gates: Optional[Tensor] = None,
    ) -> Tensor:
        """(batch, in_channels, frames) to (batch, channels, fewer frames).

        Args:
            x: the channels of the block before.
            lengths: (batch,) frames of x that are no padding; None = padding has a part in the group norm.
            read_gates: (in_channels,) on what comes in, or None.
            gates: (channels,) on the block's own channels, for its norm over them; what reads them multiplies.
        """
        x = self.conv(x, read_gates)
        norm = self.norm
        if lengths is not None and isinstance(norm, nn.GroupNorm):
            x = normalize_channels(norm, x, self.count_frames(lengths))
        elif isinstance(norm, ChannelNorm):
            x = norm(x, gates)
        elif norm is not None:
            x = norm(x)
        # without gradients in place: these are the largest tensors of the whole network, and new memory is slow
        in_place = not (torch.is_grad_enabled() or has_hooks(*self.modules()))
        return torch.ops.aten.gelu_(x) if in_place else F.gelu(x)

    def count_frames(self, lengths: Tensor) -> Tensor:
        """Frames that depend on nothing but the first `lengths` (batch,) frames of the input."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        return torch.div(lengths - kernel, stride, rounding_mode="floor") + 1


class ConvFeatureExtractor(nn.Module):
    """Waveform (batch, samples) to frames (batch, channels, frames).

    With the waves' `lengths` (batch,) in samples, padding has no part in the frames of a wave.

    `extractor_mode` "default" normalises once, per channel over time, after the first convolution; "layer_norm"
    normalises over channels after every convolution. wav2vec 2.0 (2006.11477), section 2.
    """

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        blocks: List[ConvBlock] = []
        in_channels = 1
        self.axes = [find_conv_axis(cfg, index) for index in range(len(cfg.conv_layers))]
        for index, (channels, kernel, stride) in enumerate(cfg.conv_layers):
            norm: Optional[BlockNorm] = None
            if cfg.extractor_mode == "layer_norm":
                norm = ChannelNorm(channels)
            elif index == 0:
                norm = nn.GroupNorm(channels, channels)
            blocks.append(ConvBlock(in_channels, channels, kernel, stride, cfg.conv_bias, norm))
            in_channels = channels
        self.conv_layers = cast(Sequence[ConvBlock], nn.ModuleList(blocks))  # torch's type does not say of what

    def forward(self, source: Tensor, lengths: Optional[Tensor] = None, gates: GateValues = NO_GATES) -> Tensor:
        """Waves (batch, samples), of which `lengths` (batch,) samples are no padding, to (batch, channels, frames)."""
        x, before = source.unsqueeze(1), None
        for axis, layer in zip(self.axes, self.conv_layers):
            own = gates.get(axis)
            x = layer(x, lengths, before, own)
            before = own
            if lengths is not None:
                lengths = layer.count_frames(lengths)
        return x

    def count_frames(self, lengths: Tensor) -> Tensor:
        """How many frames waves of `lengths` samples (batch,) have; those of fewer than one frame have 0 or less."""
        for layer in self.conv_layers:
            lengths = layer.count_frames(lengths)
        return lengths


class WeightNormConv(nn.Module):
    """1-d convolution with the weight norm of fairseq's positional convolution (one norm per kernel position).

    torch's own weight norm hooks into `forward`, which can be neither deep-copied nor exported; this one computes the
    weight where it is used. Parameters: `weight_g` (1, 1, kernel), `weight_v` (channels, channels / groups, kernel).
    """

    def __init__(self, channels: int, kernel: int, groups: int):
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.weight_v = nn.Parameter(torch.empty(channels, channels // groups, kernel))
        nn.init.normal_(self.weight_v, std=math.sqrt(4 / (kernel * channels)))
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        if not self.weight_v.is_meta:  # there, a norm would import torch's compiler
            self.weight_g.data = self.weight_v.data.norm(dim=(0, 1), keepdim=True)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames) to the same, one frame more where the kernel is even."""
        # in float32: the norm runs over channels * channels / groups values, too many for half precision
        weight = torch._weight_norm(self.weight_v.float(), self.weight_g.float(), 2)
        return F.conv1d(x, weight.to(x.dtype), self.bias, padding=self.kernel // 2, groups=self.groups)


class PositionalConv(nn.Module):
    """Relative positions by one grouped convolution and GELU: (batch, width, frames) to the same shape.

    Children carry fairseq's numbers: `0` the convolution, or `0` a batch norm and `1` the convolution.
    """

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        width, kernel, groups = cfg.encoder_embed_dim, cfg.conv_pos, cfg.conv_pos_groups
        self.batch_norm = cfg.conv_pos_batch_norm
        if self.batch_norm:
            conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
            nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * width)))
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            self.add_module("0", FrameBatchNorm(width))
            self.add_module("1", conv)
        else:
            self.add_module("0", WeightNormConv(width, kernel, groups))

    @property
    def norm(self) -> Optional[FrameBatchNorm]:
        """The batch norm before the convolution, or None."""
        return cast(FrameBatchNorm, self._modules["0"]) if self.batch_norm else None

    @property
    def conv(self) -> Union[WeightNormConv, nn.Conv1d]:
        """The convolution: with weight norm, or plain behind a batch norm."""
        return cast(Union[WeightNormConv, nn.Conv1d], self._modules["1" if self.batch_norm else "0"])

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """(batch, width, frames), 0 in padding, to the same shape.

        Args:
            x: the frames.
            padding_mask: (batch, frames) bool, True = padding, for exact padding: frames near it then see zeros, as at
                the end of a wave alone. None = the batch norm, if there is one, takes padding for sound.
        """
        frames, norm = x.size(2), self.norm
        x = self.conv(x if norm is None else norm(x, padding_mask))
        return F.gelu(x[:, :, :frames])  # an even kernel makes one frame too many


class StackedPositionalConv(nn.ModuleList):
    """data2vec's positions: several short convolutions, each followed by a LayerNorm without weights and GELU."""

    def __init__(self, cfg: EncoderConfig):
        width, kernel = cfg.encoder_embed_dim, cfg.pos_conv_kernel
        super().__init__(
            nn.Sequential(nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=cfg.conv_pos_groups))
            for _ in range(cfg.pos_conv_depth)
        )

    @property
    def convs(self) -> List[nn.Conv1d]:
        """The convolutions, in the order in which they run."""
        return [module for module in self.modules() if isinstance(module, nn.Conv1d)]

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """(batch, width, frames), 0 in padding, to the same shape; the mask is as in `PositionalConv`."""
        frames = x.size(2)
        for conv in self:
            if padding_mask is not None:  # what the convolution before made of it
                x = x.masked_fill(padding_mask.unsqueeze(1), 0)
            x = conv(x)[:, :, :frames].transpose(1, 2)
            x = F.gelu(F.layer_norm(x, x.shape[-1:])).transpose(1, 2)
        return x


class TimeReduction(nn.Conv1d):
    """One frame of every `factor`: a convolution of that kernel and stride (FitHuBERT, 2207.00555), width to width.

    Frames at the end that do not fill a kernel are left out.
    """

    def __init__(self, width: int, factor: int):
        super().__init__(width, width, factor, stride=factor)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, width) to (batch, frames // factor, width)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)

    def reduce_mask(self, padding_mask: Optional[Tensor]) -> Optional[Tensor]:
        """Mask (batch, frames), True = padding, to (batch, frames // factor): padding if any of its frames is.

        So a padded wave has as many frames as the wave alone, made of nothing else.
        """
        if padding_mask is None:
            return None
        factor, device = self.stride[0], padding_mask.device
        first = factor * torch.arange(padding_mask.size(1) // factor, device=device)
        # by index: what a cut and a reshape ask of the number of frames, torch.export cannot prove
        return padding_mask[:, first.unsqueeze(1) + torch.arange(factor, device=device)].any(-1)


def build_positional_conv(cfg: EncoderConfig) -> Union[PositionalConv, StackedPositionalConv]:
    """The positional convolution that `cfg` asks for."""
    return StackedPositionalConv(cfg) if cfg.pos_conv_depth > 1 else PositionalConv(cfg)
