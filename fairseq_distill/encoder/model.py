"""`SpeechEncoder`: the network that is teacher and student, of every family and any shape."""

from typing import AbstractSet, Any, Collection, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel
from fairseq.models.hubert.hubert import HubertModel
from fairseq.modules import GradMultiply
from torch import Tensor

from .anatomy import NO_GATES, GateValues
from .config import EncoderConfig
from .convolution import ConvFeatureExtractor
from .gated import OpenLayerNorm, ScaledLinear
from .padding import mark_padding, may_have_padding, measure_moments
from .stock_face import ExtractedFeatures, KeepingDropout
from .transformer import TransformerEncoder

# settings that HubertModel's inherited methods read as attributes of the model
_INHERITED_SETTINGS = [
    "feature_grad_mult",
    "logit_temp",
    "skip_masked",
    "skip_nomask",
    "untie_final_proj",
    "mask_prob",
    "mask_selection",
    "mask_other",
    "mask_length",
    "no_mask_overlap",
    "mask_min_space",
    "mask_channel_prob",
    "mask_channel_selection",
    "mask_channel_other",
    "mask_channel_length",
    "no_mask_channel_overlap",
    "mask_channel_min_space",
]


class Features(NamedTuple):
    """What the convolutions make of a batch of waves.

    Attributes:
        values: (batch, frames, width), the projected features before masking and the positional convolution, 0 in
            padding.
        padding_mask: (batch, frames) bool, True = padding; None if the waves were given without one.
        gates: drawn for the waves; the layers have the same sample.
    """

    values: Tensor
    padding_mask: Optional[Tensor]
    gates: GateValues


class EncoderOutput(NamedTuple):
    """What an encoder says about a batch of waves.

    Attributes:
        x: final output (batch, frames, width), after the final LayerNorm in pre-norm models; None if it was not asked
            for.
        hidden: hidden[0] enters the first layer, hidden[l] is layer l's output, before the final LayerNorm in pre-norm
            models, each (batch, frames, width); None where it was not asked for.
        features: (batch, frames, width), the projected features before masking and the positional convolution ("f" in
            groups); where `time_reduction` is r, r times as many frames as `hidden`, and up to r - 1 more.
        padding_mask: (batch, frames of `hidden`) bool, True = padding; None if the waves were given without one.
        maps: maps[l] is the attention of layer l, averaged over heads, before dropout: (batch, frames, frames), for
            each query the probabilities of the keys; those of padding are 0. None where it was not asked for (maps[0]
            always); empty if none was.
    """

    x: Optional[Tensor]
    hidden: Tuple[Optional[Tensor], ...]
    features: Tensor
    padding_mask: Optional[Tensor]
    maps: Tuple[Optional[Tensor], ...] = ()


def require(tensor: Optional[Tensor]) -> Tensor:
    """A part of an `EncoderOutput`, for those who have asked for it; ValueError where it was not asked for."""
    if tensor is None:
        raise ValueError("the encoder was not asked for this output: name its layer in encode(layers=..., maps=...)")
    return tensor


class EncoderGates(nn.Module):
    """What an encoder needs of its gates, see `SpeechEncoder.attach_gates`."""

    def draw(self) -> GateValues:
        """Gates for one forward pass."""
        raise NotImplementedError


class SpeechEncoder(HubertModel):
    """fairseq's HuBERT with convolutions and transformer of any shape, and the other families' arithmetic.

    Masking, masked prediction, `extract_features` and the interface for fine-tuning are inherited. Without
    `dictionaries` the layers of masked prediction are left out.

    Args:
        cfg: shape and settings.
        task_cfg: anything with `sample_rate`, as fairseq's HuBERT takes it; None = that of `cfg`.
        dictionaries: label dictionaries of masked prediction, or empty.

    Attributes:
        normalize_input: `encode` normalises each wave.
    """

    def __init__(self, cfg: EncoderConfig, task_cfg: Any = None, dictionaries: Sequence[Any] = ()):
        # not HubertModel's constructor: it evaluates conv_feature_layers and builds the stock stacks
        BaseFairseqModel.__init__(self)
        if task_cfg is not None and task_cfg.sample_rate != cfg.sample_rate:
            cfg = cfg.with_settings(sample_rate=task_cfg.sample_rate)
        cfg.check()
        self.cfg = cfg
        self.normalize_input = False
        for name in _INHERITED_SETTINGS:
            setattr(self, name, getattr(cfg, name))
        width = cfg.encoder_embed_dim
        self.embed = cfg.conv_layers[-1][0]
        self.feat2tar_ratio = cfg.label_rate * cfg.frame_stride / cfg.sample_rate

        self.feature_extractor = ConvFeatureExtractor(cfg)
        self.feature_scale = nn.Parameter(torch.ones(self.embed)) if cfg.scale_features else None
        self.post_extract_proj = ScaledLinear(self.embed, width) if cfg.has_projection else None
        self.dropout_input = nn.Dropout(cfg.dropout_input)
        self.dropout_features = KeepingDropout(cfg.dropout_features)
        self.mask_emb = nn.Parameter(torch.empty(width).uniform_())
        self.encoder = TransformerEncoder(cfg)
        self.layer_norm = OpenLayerNorm(self.embed)
        self.gates: Optional[EncoderGates] = None
        # only while fairseq's own forward runs
        self._gates_of_pass: GateValues = NO_GATES
        self._lengths_of_pass: Optional[Tensor] = None
        self._build_masked_prediction(list(dictionaries))

    def _build_masked_prediction(self, dictionaries: List[Any]) -> None:
        self.target_glu = self.final_proj = None
        if not dictionaries or any(d is None for d in dictionaries):
            return
        if self.cfg.time_reduction > 1:
            raise ValueError(
                f"time_reduction={self.cfg.time_reduction} leaves no frame for each masked label: masked prediction "
                "needs time_reduction=1"
            )
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

    @property
    def exact_padding(self) -> bool:
        """Whether a wave gives the same in a padded batch as alone; False, as in fairseq, at the start.

        In fairseq it does not: the norm behind the first convolution takes padding for sound (extractor_mode
        "default"), so do the batch norm of positions and all but the first of data2vec's positional convolutions, and
        HuBERT's last frame may be half padding. Short waves beside long ones change most; released models never saw
        padding in pre-training. In training, the batch norm still depends on the other waves, but not on padding.
        Padding must come behind a wave.
        """
        return self.encoder.exact_padding

    @exact_padding.setter
    def exact_padding(self, exact: bool) -> None:
        self.encoder.exact_padding = exact

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        target_list: Optional[List[Tensor]] = None,
        mask: bool = True,
        features_only: bool = False,
        output_layer: Optional[int] = None,
        layer: Optional[int] = None,
    ):
        """Masked prediction when there are targets (fairseq's HuBERT), otherwise `encode` with all layers.

        Args:
            source: (batch, samples) waves.
            padding_mask: (batch, samples) bool, True = padding. (Stock HuBERT has the targets here; fairseq names
                both.)
            target_list: label tensors of masked prediction, each (batch, labels).
            mask: as in fairseq's HuBERT.
            features_only: as in fairseq's HuBERT.
            output_layer: as in fairseq's HuBERT: counted from 1.
            layer: as in fairseq's wav2vec 2.0: counted from 0.

        Returns:
            With `features_only` the dictionary of fairseq's HuBERT and wav2vec 2.0: "x", "padding_mask",
            "layer_results", and "features", which in wav2vec 2.0 are those before their projection.
        """
        if layer is not None:
            if output_layer is not None:
                raise ValueError(f"layer={layer} and output_layer={output_layer} both say where to end: give one")
            output_layer = layer + 1
        if target_list is None and not features_only:
            return self.encode(source, padding_mask)
        source, lengths = self._measure_lengths(source, padding_mask)
        self._gates_of_pass, self._lengths_of_pass = self.draw_gates(), lengths
        self.encoder.results_of_pass = []
        try:
            result = super().forward(source, target_list, padding_mask, mask, features_only, output_layer)
        finally:
            self._gates_of_pass, self._lengths_of_pass = NO_GATES, None
            results, self.encoder.results_of_pass = self.encoder.results_of_pass, None
            unprojected = self.dropout_features.take()
        if lengths is not None and "features_pen" in result:  # the mean of features that are 0 in padding
            valid = ~result["padding_mask"]
            result["features_pen"] = result["features_pen"] * (valid.numel() / valid.sum().clamp(min=1))
        if features_only:
            result.update(layer_results=results, projected_features=result["features"])
            if self.cfg.family == "wav2vec2":
                result["features"] = unprojected
        if self.encoder.time_reduction is not None:  # the inherited code knows only the features' frames
            result["features_padding_mask"] = result["padding_mask"]
            result["padding_mask"] = self.encoder.time_reduction.reduce_mask(result["padding_mask"])
        return result

    def extract_features(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = False,
        ret_conv: bool = False,
        output_layer: Optional[int] = None,
        layer: Optional[int] = None,
    ) -> ExtractedFeatures:
        """As in fairseq's HuBERT: (output, or with `ret_conv` the projected features; padding mask of its frames).

        What fairseq's wav2vec 2.0 returns is there by name, see `forward`. Its fourth argument is `layer`, an integer;
        HuBERT's is `ret_conv`, a truth value: either is understood.
        """
        if type(ret_conv) is int:
            ret_conv, layer = False, ret_conv
        result = self(source, padding_mask, mask=mask, features_only=True, output_layer=output_layer, layer=layer)
        pair = result["x"], result["padding_mask"]
        if ret_conv:
            pair = result["projected_features"], result.get("features_padding_mask", result["padding_mask"])
        return ExtractedFeatures(pair, result)

    def encode(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        layers: Optional[Collection[int]] = None,
        maps: Optional[Collection[int]] = None,
        mask_indices: Optional[Tensor] = None,
    ) -> EncoderOutput:
        """Final output and hidden states of a batch of waves, and attention maps where asked for.

        Args:
            source: (batch, samples). With `normalize_input` set, as `load_encoder` does where the checkpoint asks for
                it, each wave is normalised here; otherwise waves are taken as they are.
            padding_mask: (batch, samples) bool, True = padding, or None.
            layers: layer numbers to return; the run stops after the highest. None returns all and the final output.
            maps: layer numbers, from 1, whose attention maps to return; None = none.
            mask_indices: (batch, frames of the features) bool, the frames to replace by the mask embedding before the
                transformer, as masked prediction does; None = none.

        Raises:
            ValueError: a layer that does not exist or has no attention map; mask_indices of another shape.
        """
        return self.encode_features(self.compute_features(source, padding_mask), layers, maps, mask_indices)

    def compute_features(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Features:
        """The first half of `encode`, which several passes of `encode_features` can share; gates are drawn here."""
        if source.size(1) < self.cfg.shortest_wave:
            raise ValueError(f"waves of {source.size(1)} samples: one frame takes at least {self.cfg.shortest_wave}")
        gates = self.draw_gates()
        if self.normalize_input:
            source = normalize_wave(source, padding_mask)
        source, lengths = self._measure_lengths(source, padding_mask)
        last = gates.get(self.feature_extractor.axes[-1])
        values = self.layer_norm(self.forward_features(source, lengths, gates).transpose(1, 2), last)
        if padding_mask is not None:
            padding_mask = self.forward_padding_mask(values, padding_mask)
        if self.post_extract_proj is not None:
            values = self.post_extract_proj(values, last)
        values = self.dropout_input(values)
        if padding_mask is not None:
            values = values.masked_fill(padding_mask.unsqueeze(-1), 0)
        return Features(values, padding_mask, gates)

    def _measure_lengths(self, source: Tensor, padding_mask: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
        """For exact padding: waves (batch, samples) with silence in padding, and their own samples (batch,).

        Otherwise, or where it is known that there is no padding, the waves as they are and None.
        """
        if not self.exact_padding or padding_mask is None or not may_have_padding(padding_mask):
            return source, None
        return source.masked_fill(padding_mask, 0), (~padding_mask).sum(-1)

    def encode_features(
        self,
        features: Features,
        layers: Optional[Collection[int]] = None,
        maps: Optional[Collection[int]] = None,
        mask_indices: Optional[Tensor] = None,
    ) -> EncoderOutput:
        """The second half of `encode`, see there."""
        numbers = range(self.depth + 1)
        keep, shown = frozenset(numbers if layers is None else layers), frozenset(maps or ())
        self._check_numbers(keep, shown)
        values, padding_mask, gates = features
        x = values if mask_indices is None else self.mask_frames(values, mask_indices)
        hidden, found, padding_mask = self.encoder.run(x, padding_mask, keep, shown, gates)
        final = self.encoder.finish(hidden[self.depth]) if self.depth in hidden else None
        maps_by_layer = tuple(found.get(n) for n in numbers) if shown else ()
        return EncoderOutput(final, tuple(hidden.get(n) for n in numbers), values, padding_mask, maps_by_layer)

    def _check_numbers(self, keep: AbstractSet[int], maps: AbstractSet[int]) -> None:
        numbers = frozenset(range(self.depth + 1))
        if not keep <= numbers:
            raise ValueError(f"layers {sorted(keep - numbers)} do not exist: 0 to {self.depth} do")
        without = maps - {number for number, heads in enumerate(self.cfg.heads, start=1) if heads}
        if without:
            raise ValueError(f"layers {sorted(without)} have no attention map: they do not exist or have no heads")

    def mask_frames(self, features: Tensor, mask_indices: Tensor) -> Tensor:
        """Features (batch, frames, width) with the mask embedding where mask_indices (batch, frames) is True."""
        if mask_indices.shape != features.shape[:2]:
            raise ValueError(
                f"mask_indices is {tuple(mask_indices.shape)}, the features are {tuple(features.shape[:2])} (batch, "
                "frames)"
            )
        return torch.where(mask_indices.unsqueeze(-1), self.mask_emb.to(features.dtype), features)

    def forward_features(
        self, source: Tensor, lengths: Optional[Tensor] = None, gates: Optional[GateValues] = None
    ) -> Tensor:
        """fairseq's, (batch, samples) to (batch, channels, frames).

        Args:
            source: waves.
            lengths: (batch,) samples of the waves, for exact padding: frames behind them are 0; or None.
            gates: of this pass; None = gates and lengths of fairseq's own forward, which calls this without any.
        """
        if gates is None:
            gates, lengths = self._gates_of_pass, self._lengths_of_pass
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.feature_grad_mult > 0):
            features = self.feature_extractor(source, lengths, gates)
            if self.feature_scale is not None:
                features = features * self.feature_scale.unsqueeze(-1)
        if lengths is not None:
            padding = mark_padding(self.feature_extractor.count_frames(lengths), features.size(2))
            features = features.masked_fill(padding.unsqueeze(1), 0)
        if self.feature_grad_mult in (0.0, 1.0) or not features.requires_grad:
            return features
        return GradMultiply.apply(features, self.feature_grad_mult)

    def attach_gates(self, gates: EncoderGates) -> None:
        """Make `gates` part of the encoder: every forward pass draws once and hands them on."""
        self.gates = gates
        # fairseq's forward calls these without gates
        for module in (self.layer_norm, self.post_extract_proj, self.encoder):
            if module is not None:
                module.register_forward_pre_hook(self._add_gates, with_kwargs=True)

    def _add_gates(self, module: nn.Module, args: Tuple, kwargs: Dict[str, Any]) -> Optional[Tuple[Tuple, Dict]]:
        """While fairseq's own forward runs, what a module is called with and the gates of the pass."""
        if not self._gates_of_pass:
            return None
        last = self._gates_of_pass.get(self.feature_extractor.axes[-1])
        if module is self.encoder:
            return args, {**kwargs, "gates": self._gates_of_pass}
        return (*args, last), kwargs

    def draw_gates(self) -> GateValues:
        """The gates of one forward pass: a new sample in training, empty without gates."""
        return NO_GATES if self.gates is None else self.gates.draw()

    def forward_padding_mask(self, features: Tensor, padding_mask: Tensor) -> Tensor:
        """Sample mask (batch, samples) to frame mask (batch, frames), by the rule of the weights' family."""
        if self.cfg.family not in ("wav2vec2", "data2vec") and not self.exact_padding:
            return super().forward_padding_mask(features, padding_mask)
        lengths = self.feature_extractor.count_frames((~padding_mask).sum(-1))
        return mark_padding(lengths, features.size(1))


def normalize_wave(source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
    """Zero mean and unit variance per wave (batch, samples), over its samples that are not padding; padding becomes 0.

    The same as fairseq's `task.normalize`, which normalises each wave before it is padded.
    """
    if padding_mask is None:
        return F.layer_norm(source, source.shape[-1:])
    moments = measure_moments(source, padding_mask, -1)
    return (moments.centred / (moments.variance + 1e-5).sqrt()).to(source.dtype)
