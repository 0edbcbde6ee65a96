"""The settings of a speech encoder: fairseq's `HubertConfig` and what the other families and small shapes need."""

import reprlib
from dataclasses import dataclass, field, fields, replace
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import yaml
from fairseq.models.hubert.hubert import HubertConfig

from ..run.ranges import COUNT, MAX_WIDTH, Range, check_ranges
from .conv_spec import ConvLayer, format_conv_layers, parse_conv_layers, receptive_field, total_stride

FAMILIES = ("hubert", "wav2vec2", "data2vec", "wavlm")
# what the convolution stack of an encoder is, apart from the layers
FRONT_FIELDS = [
    "family",
    "sample_rate",
    "normalize",
    "extractor_mode",
    "conv_feature_layers",
    "conv_bias",
    "project_features",
    "scale_features",
]
# with the convolution stack, what makes an encoder one of its teacher's kind whatever its size
KIND_FIELDS = FRONT_FIELDS + [
    "layer_norm_first",
    "activation_fn",
    "conv_pos",
    "conv_pos_groups",
    "conv_pos_batch_norm",
    "pos_conv_depth",
    "relative_position_embedding",
    "num_buckets",
    "max_distance",
    "gru_rel_pos",
]


class Prunable(NamedTuple):
    """What `prune` can give gates.

    Attributes:
        what: the word for it, in tables and pictures.
        whole: "" for channels, heads and neurons; for a whole part of a layer, the name of what is in it.
    """

    what: str
    whole: str = ""


PRUNABLE = {
    "conv": Prunable("channels"),
    "heads": Prunable("heads"),
    "ffn": Prunable("FFN neurons"),
    "attention_layers": Prunable("attention parts", whole="heads"),
    "ffn_layers": Prunable("feed-forward parts", whole="ffn"),
}


@dataclass
class EncoderConfig(HubertConfig):
    """Everything that fixes the shape and the arithmetic of a `SpeechEncoder`.

    Field names are fairseq's (and Microsoft's for WavLM), so that a checkpoint's own settings are read as they are.
    """

    label_rate: float = field(
        default=50.0, metadata={"help": "labels a second in masked prediction; taken from the task where it has labels"}
    )
    family: str = field(
        default="hubert",
        metadata={
            "help": "origin of the weights: hubert, wav2vec2, data2vec or wavlm. wav2vec2 and data2vec round the "
            "length of padded audio to frames by the convolution formula, hubert and wavlm by equal chunks"
        },
    )
    sample_rate: int = field(
        default=16_000,
        metadata={"help": "samples a second of the waves; taken from task.sample_rate", "range": COUNT},
    )
    normalize: bool = field(
        default=False,
        metadata={"help": "the weights expect every waveform with zero mean and unit variance"},
    )
    head_dim: int = field(
        default=0,
        metadata={
            "help": "width of one attention head; 0 = encoder_embed_dim / encoder_attention_heads",
            "range": Range(0, MAX_WIDTH),
        },
    )
    layer_heads: List[int] = field(
        default_factory=list,
        metadata={
            "help": "attention heads of each layer, 0 = only the bias of its output is left; empty = "
            "encoder_attention_heads everywhere"
        },
    )
    layer_ffn_dims: List[int] = field(
        default_factory=list,
        metadata={
            "help": "feed-forward neurons of each layer, 0 = only the bias of its output is left; empty = "
            "encoder_ffn_embed_dim everywhere"
        },
    )
    layer_head_numbers: str = field(
        default="",
        metadata={
            "help": "WavLM: the heads of the shared position bias that each layer's heads have, from 0, such as "
            "[[0,2],[1]]; empty = the first ones; fairseq-distill prune writes it"
        },
    )
    project_features: bool = field(
        default=False,
        metadata={
            "help": "project the convolutions' output also where it is as wide as the layers; fairseq-distill prune "
            "sets it"
        },
    )
    scale_features: bool = field(
        default=False,
        metadata={
            "help": "a factor on each channel of the convolutions' output: what DPHuBERT's soft gates leave there; its "
            "files set it"
        },
    )
    time_reduction: int = field(
        default=1,
        metadata={
            "help": "frames that a convolution before the first layer makes one of (FitHuBERT: 2), so that layers run "
            "on fewer; 1 = as many as the feature extractor makes",
            "range": COUNT,
        },
    )
    reuse_attention: List[int] = field(
        default_factory=list,
        metadata={
            "help": "layers, from 1, that take over the attention map of the layer before them instead of computing "
            "one (ARMHuBERT: [2,4,6,8,10,12]); empty = none"
        },
    )
    prune: List[str] = field(
        default_factory=list,
        metadata={
            "help": "what gets gates, one each: conv (channels), heads, ffn (neurons), attention_layers, ffn_layers "
            "(whole parts of layers); empty = none"
        },
    )
    pos_conv_depth: int = field(
        default=1,
        metadata={
            "help": "number of stacked positional convolutions (data2vec: 5); 1 = one with weight norm",
            "range": Range(1, 1_000),
        },
    )
    conv_pos_batch_norm: bool = field(
        default=False,
        metadata={"help": "batch norm instead of weight norm in the positional convolution (models made for bf16)"},
    )
    relative_position_embedding: bool = field(
        default=False, metadata={"help": "WavLM: bias the attention by a learned embedding of the distance"}
    )
    num_buckets: int = field(
        default=320, metadata={"help": "WavLM: number of distances that are told apart", "range": Range(4, MAX_WIDTH)}
    )
    max_distance: int = field(
        default=1280,
        metadata={"help": "WavLM: distance in frames at which the last bucket starts", "range": Range(1, MAX_WIDTH)},
    )
    gru_rel_pos: bool = field(
        default=False, metadata={"help": "WavLM: gate the position bias by the layer's input, per head and frame"}
    )

    @classmethod
    def from_settings(cls, settings: Any) -> "EncoderConfig":
        """Make a plain config from a mapping, namespace, DictConfig or dataclass, by field name.

        Settings that an encoder does not have are left out; fields that `settings` lacks keep their default.
        """
        known: Dict[str, Any] = {}
        for f in fields(cls):
            value = settings.get(f.name, None) if isinstance(settings, Mapping) else getattr(settings, f.name, None)
            if value is None or (isinstance(value, str) and value.startswith("${")):
                continue
            if f.name in ("layer_heads", "layer_ffn_dims", "latent_temp", "reuse_attention", "prune"):
                value = list(value)
            known[f.name] = getattr(value, "value", value)  # enums of fairseq's choices hold their string
        return cls(**known)

    def with_settings(self, **settings: Any) -> "EncoderConfig":
        """A copy with other values of some fields, by name; fairseq's own fields too."""
        return replace(self, **settings)

    @property
    def conv_layers(self) -> List[ConvLayer]:
        """The convolution stack as [(channels, kernel, stride), ...]."""
        return parse_conv_layers(self.conv_feature_layers)

    @property
    def frame_layers(self) -> List[ConvLayer]:
        """All that makes frames of samples: the convolution stack and, where there is one, the time reduction."""
        reduction = (self.encoder_embed_dim, self.time_reduction, self.time_reduction)
        return self.conv_layers + ([reduction] if self.time_reduction > 1 else [])

    @property
    def frame_stride(self) -> int:
        """Samples from one frame of the hidden states to the next (320 for every released teacher, FitHuBERT 640)."""
        return total_stride(self.frame_layers)

    @property
    def shortest_wave(self) -> int:
        """Samples that one frame of the hidden states takes at least."""
        return receptive_field(self.frame_layers)

    @property
    def has_projection(self) -> bool:
        """Whether a linear layer lies between convolutions and transformer; data2vec has it at any width."""
        return self.project_features or self.family == "data2vec" or self.conv_layers[-1][0] != self.encoder_embed_dim

    @property
    def attention_head_dim(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.encoder_embed_dim // self.encoder_attention_heads

    @property
    def heads(self) -> List[int]:
        """Attention heads of each layer; 0 where only the bias of the attention's output is left."""
        return list(self.layer_heads) or [self.encoder_attention_heads] * self.encoder_layers

    @property
    def head_numbers(self) -> List[Optional[List[int]]]:
        """Each layer's heads of the shared position bias; None = the first ones."""
        return yaml.safe_load(self.layer_head_numbers) if self.layer_head_numbers else [None] * self.encoder_layers

    @property
    def ffn_dims(self) -> List[int]:
        """Feed-forward neurons of each layer; 0 where only the bias of their output is left."""
        return list(self.layer_ffn_dims) or [self.encoder_ffn_embed_dim] * self.encoder_layers

    @property
    def pos_conv_kernel(self) -> int:
        """Kernel of the positional convolution, or of each where several are stacked (data2vec)."""
        return max(3, self.conv_pos // self.pos_conv_depth) if self.pos_conv_depth > 1 else self.conv_pos

    def check(self) -> None:
        """Raise ValueError, naming the field, where the settings do not describe a network that can be built."""
        parse_conv_layers(self.conv_feature_layers)
        check_ranges(self, EncoderConfig)
        choices: Tuple[Tuple[str, Any, tuple], ...] = (
            ("family", self.family, FAMILIES),
            ("extractor_mode", str(self.extractor_mode), ("default", "layer_norm")),
            ("layer_type", str(self.layer_type), ("transformer",)),
            (
                "activation_fn",
                str(self.activation_fn),
                ("gelu", "relu", "tanh", "linear", "gelu_accurate", "gelu_fast"),
            ),
        )
        for name, value, allowed in choices:
            if value not in allowed:
                raise ValueError(f"{name}={value} is not supported; supported: {', '.join(allowed)}")
        if not self.head_dim and self.encoder_embed_dim % self.encoder_attention_heads:
            raise ValueError(
                f"encoder_embed_dim={self.encoder_embed_dim} is not a multiple of "
                f"encoder_attention_heads={self.encoder_attention_heads}; set head_dim"
            )
        if self.encoder_embed_dim % self.conv_pos_groups:
            raise ValueError(
                f"encoder_embed_dim={self.encoder_embed_dim} is not a multiple of "
                f"conv_pos_groups={self.conv_pos_groups}"
            )
        for name, values in (("layer_heads", self.layer_heads), ("layer_ffn_dims", self.layer_ffn_dims)):
            if values and len(values) != self.encoder_layers:
                raise ValueError(f"{name} has {len(values)} entries for encoder_layers={self.encoder_layers}")
            if any(not 0 <= v <= MAX_WIDTH for v in values):
                raise ValueError(
                    f"{name} has an entry that is not from 0 to {MAX_WIDTH:,}: {reprlib.repr(list(values))}"
                )
        if self.relative_position_embedding and self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                f"max_distance={self.max_distance} must be above a quarter of num_buckets={self.num_buckets}: nearer "
                "distances have a bucket each"
            )
        self._check_reuse()
        for name in self.prune:
            if name not in PRUNABLE:
                raise ValueError(f"prune={list(self.prune)}: {name} is none of {', '.join(PRUNABLE)}")
        if self.layer_head_numbers:
            self._check_head_numbers()

    def _check_reuse(self) -> None:
        reusing = list(self.reuse_attention)
        if any(type(n) is not int or not 2 <= n <= self.encoder_layers for n in reusing) or len(set(reusing)) < len(
            reusing
        ):
            raise ValueError(
                f"reuse_attention={reprlib.repr(reusing)} must name different layers from 2 to "
                f"encoder_layers={self.encoder_layers}: the first layer has no map before it to reuse"
            )
        heads = self.layer_heads
        for n in reusing if heads else ():
            if not heads[n - 2] == heads[n - 1] > 0:
                raise ValueError(
                    f"reuse_attention={reprlib.repr(reusing)}: layer {n} has {heads[n - 1]} heads and layer {n - 1}, "
                    f"whose map it takes over, {heads[n - 2]}; both need the same number, at least 1"
                )

    def _check_head_numbers(self) -> None:
        try:
            given = yaml.safe_load(self.layer_head_numbers)
            counts = [len(set(numbers)) for numbers in given]
            in_range = all(0 <= n < self.encoder_attention_heads for numbers in given for n in numbers)
        except (yaml.YAMLError, TypeError):
            counts, in_range = [], False
        if counts != self.heads or not in_range:
            raise ValueError(
                f"layer_head_numbers={reprlib.repr(self.layer_head_numbers)} must name {self.heads} heads for the "
                f"layers, each below encoder_attention_heads={self.encoder_attention_heads}"
            )


def count_places(cfg: EncoderConfig) -> Dict[str, List[int]]:
    """Sizes of what `prune` can give gates, by convolution or layer; of whole parts 1, or 0 where they are empty."""
    sizes = {"conv": [channels for channels, _, _ in cfg.conv_layers], "heads": cfg.heads, "ffn": cfg.ffn_dims}
    parts = {name: [min(n, 1) for n in sizes[kind.whole]] for name, kind in PRUNABLE.items() if kind.whole}
    return {**sizes, **parts}


def resize(cfg: EncoderConfig, sizes: Mapping[str, List[int]]) -> EncoderConfig:
    """The settings with other numbers of channels, heads and neurons, without gates; `sizes` as in `count_places`."""
    convs = [(channels, kernel, stride) for channels, (_, kernel, stride) in zip(sizes["conv"], cfg.conv_layers)]
    return cfg.with_settings(
        prune=[],
        project_features=cfg.has_projection,
        conv_feature_layers=format_conv_layers(convs),
        layer_heads=list(sizes["heads"]),
        layer_ffn_dims=list(sizes["ffn"]),
    )
