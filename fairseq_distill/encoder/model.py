"""`SpeechEncoder`: the network that is teacher and student, of every family and any shape."""

from types import SimpleNamespace
from typing import Any, Collection, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fairseq.models import BaseFairseqModel
from fairseq.models.hubert.hubert import HubertModel

from .config import EncoderConfig
from .conv_spec import total_stride
from .convolution import ConvFeatureExtractor
from .readers import OpenLayerNorm, ScaledLinear
from .transformer import TransformerEncoder

# settings that HubertModel's inherited methods read as attributes of the model
_INHERITED_SETTINGS = (
    "feature_grad_mult logit_temp skip_masked skip_nomask untie_final_proj "
    "mask_prob mask_selection mask_other mask_length no_mask_overlap mask_min_space "
    "mask_channel_prob mask_channel_selection mask_channel_other mask_channel_length no_mask_channel_overlap "
    "mask_channel_min_space"
).split()


class EncoderOutput(NamedTuple):
    """What an encoder says about a batch of waves.

    Attributes:
        x: final output (batch, frames, width), after the final LayerNorm in pre-norm models; None if it was not asked for.
        hidden: hidden[0] enters the first layer, hidden[l] is layer l's output, before the final LayerNorm in pre-norm
            models, each (batch, frames, width); None where it was not asked for.
        features: (batch, frames, width), the projected features before the positional convolution ("f" in groups).
        padding_mask: (batch, frames) bool, True = padding; None if the waves were given without one.
    """

    x: Optional[Tensor]
    hidden: Tuple[Optional[Tensor], ...]
    features: Tensor
    padding_mask: Optional[Tensor]


class SpeechEncoder(HubertModel):
    """fairseq's HuBERT with convolutions and transformer of any shape, and the other families' arithmetic.

    Masking, masked prediction, `extract_features` and the interface for fine-tuning are inherited. Without
    `dictionaries` the layers of masked prediction are left out.

    Args:
        cfg: shape and settings.
        task_cfg: anything with `sample_rate`, as fairseq's HuBERT takes it; default 16 kHz.
        dictionaries: label dictionaries of masked prediction, or empty.
    """

    def __init__(self, cfg: EncoderConfig, task_cfg: Any = None, dictionaries: Sequence[Any] = ()):
        # not HubertModel's constructor: it evaluates conv_feature_layers and builds the stock stacks
        BaseFairseqModel.__init__(self)
        cfg.check()
        self.cfg = cfg
        self.normalize_input = False
        for name in _INHERITED_SETTINGS:
            setattr(self, name, getattr(cfg, name))
        width = cfg.encoder_embed_dim
        conv_layers = cfg.conv_layers
        self.embed = conv_layers[-1][0]
        sample_rate = (task_cfg or SimpleNamespace(sample_rate=16_000)).sample_rate
        self.feat2tar_ratio = cfg.label_rate * total_stride(conv_layers) / sample_rate

        self.feature_extractor = ConvFeatureExtractor(cfg)
        self.post_extract_proj = ScaledLinear(self.embed, width) if cfg.has_projection else None
        self.dropout_input = nn.Dropout(cfg.dropout_input)
        self.dropout_features = nn.Dropout(cfg.dropout_features)
        self.mask_emb = nn.Parameter(torch.empty(width).uniform_())
        self.encoder = TransformerEncoder(cfg)
        self.layer_norm = OpenLayerNorm(self.embed)
        self.gates: Optional[nn.Module] = None  # `fairseq_distill.pruning.gates.Gates` puts itself here
        self._build_masked_prediction(list(dictionaries))

    def _build_masked_prediction(self, dictionaries: List[Any]) -> None:
        self.target_glu = self.final_proj = None
        if not dictionaries or any(d is None for d in dictionaries):
            return
        final_dim = self.cfg.final_dim if self.cfg.final_dim > 0 else self.cfg.encoder_embed_dim
        if self.cfg.target_glu:
            self.target_glu = nn.Sequential(nn.Linear(final_dim, final_dim * 2), nn.GLU())
        outputs = final_dim * (len(dictionaries) if self.untie_final_proj else 1)
        self.final_proj = nn.Linear(self.cfg.encoder_embed_dim, outputs)
        self.num_classes = [len(d) for d in dictionaries]
        self.label_embs_concat = nn.Parameter(torch.empty(sum(self.num_classes), final_dim).uniform_())

    @property
    def depth(self) -> int:
        """Number of transformer layers."""
        return self.cfg.encoder_layers

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        target_list: Optional[List[Tensor]] = None,
        mask: bool = True,
        features_only: bool = False,
        output_layer: Optional[int] = None,
        layers: Optional[Collection[int]] = None,
    ):
        """Masked prediction when there are targets (fairseq's HuBERT), otherwise `encode`.

        Args:
            source: (batch, samples) waves at 16 kHz.
            padding_mask: (batch, samples) bool, True = padding. (Stock HuBERT has the targets here; fairseq names both.)
            target_list: label tensors of masked prediction, each (batch, labels).
            mask, features_only, output_layer: as in fairseq's HuBERT.
            layers: hidden states to return, see `encode`.
        """
        if target_list is None and not features_only:
            return self.encode(source, padding_mask, layers)
        self.set_gates()
        return super().forward(source, target_list, padding_mask, mask, features_only, output_layer)

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None, layers: Optional[Collection[int]] = None
    ) -> EncoderOutput:
        """Final output and hidden states of a batch of waves; nothing is masked.

        Args:
            source: (batch, samples). With `normalize_input` set, as `load_encoder` does where the checkpoint asks for it,
                each wave is normalised here; otherwise waves are taken as they are.
            padding_mask: (batch, samples) bool, True = padding, or None.
            layers: layer numbers to return; the run stops after the highest. None returns all and the final output.
        """
        self.set_gates()
        if self.normalize_input:
            source = normalize_wave(source, padding_mask)
        features = self.layer_norm(self.forward_features(source).transpose(1, 2))
        if padding_mask is not None:
            padding_mask = self.forward_padding_mask(features, padding_mask)
        if self.post_extract_proj is not None:
            features = self.post_extract_proj(features)
        features = self.dropout_input(features)
        if padding_mask is not None:
            features = features.masked_fill(padding_mask.unsqueeze(-1), 0)

        numbers = range(self.depth + 1)
        keep = frozenset(numbers if layers is None else layers)
        if not keep <= frozenset(numbers):
            raise ValueError(f"layers {sorted(keep - frozenset(numbers))} do not exist: 0 to {self.depth} do")
        hidden = self.encoder.run(features, padding_mask, keep)
        x = self.encoder.finish(hidden[self.depth]) if self.depth in hidden else None
        return EncoderOutput(x, tuple(hidden.get(n) for n in numbers), features, padding_mask)

    def set_gates(self) -> None:
        """Give what reads gated units its gates for the forward pass that follows: a new sample in training."""
        if self.gates is not None:
            self.gates.scale_readers(self)

    def forward_padding_mask(self, features: Tensor, padding_mask: Tensor) -> Tensor:
        """Sample mask (batch, samples) to frame mask (batch, frames), by the rule of the weights' family."""
        if self.cfg.family not in ("wav2vec2", "data2vec"):
            return super().forward_padding_mask(features, padding_mask)
        lengths = (~padding_mask).sum(-1)
        for _, kernel, stride in self.cfg.conv_layers:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return torch.arange(features.size(1), device=features.device) >= lengths.unsqueeze(-1)


def normalize_wave(source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
    """Zero mean and unit variance per wave (batch, samples), over its samples that are not padding; padding becomes 0.

    The same as fairseq's `task.normalize`, which normalises each wave before it is padded.
    """
    if padding_mask is None:
        return F.layer_norm(source, source.shape[-1:])
    valid = (~padding_mask).to(source.dtype)
    count = valid.sum(-1, keepdim=True)
    mean = (source * valid).sum(-1, keepdim=True) / count
    centred = (source - mean) * valid
    variance = centred.pow(2).sum(-1, keepdim=True) / count
    return centred / (variance + 1e-5).sqrt()
