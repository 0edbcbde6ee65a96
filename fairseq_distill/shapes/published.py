"""Students that papers have published, as shapes."""

from typing import List, NamedTuple, Sequence, Tuple

from ..encoder.config import EncoderConfig
from .budget import Budget
from .grid import Shape, measure_shape
from .stacks import FITHUBERT_STACK, THIN, WHOLE

_BASE_STACK = EncoderConfig.conv_feature_layers
_END_IN_480, _END_IN_432 = ((f"{THIN} to {n}", FITHUBERT_STACK.replace("512", str(n))) for n in (480, 432))
_EVERY_SECOND = (2, 4, 6, 8, 10, 12)


class Student(NamedTuple):
    """A published student of HuBERT Base: its name, shape, and what its convolution stack is called here."""

    name: str
    layers: int
    width: int
    ffn: int
    heads: int
    stack: str = WHOLE
    conv_feature_layers: str = _BASE_STACK
    time_reduction: int = 1
    reuse_attention: Tuple[int, ...] = ()

    def make_config(self, kind: EncoderConfig) -> EncoderConfig:
        """The student's settings, for a teacher of `kind`."""
        return kind.with_settings(
            encoder_layers=self.layers,
            encoder_embed_dim=self.width,
            encoder_ffn_embed_dim=self.ffn,
            encoder_attention_heads=self.heads,
            conv_feature_layers=self.conv_feature_layers,
            time_reduction=self.time_reduction,
            reuse_attention=list(self.reuse_attention),
        )


# Deep versus Wide (2207.06867): 12-L HALF and 3-L ONE; 6-L HALF, 3-L HALF and 12-L QUARTER are named by us after the
# sizes of its students in a figure of STaR (2312.09040). Their numbers of heads are ours
# (docs/papers/deep_versus_wide.md). LightHuBERT (2203.15610), FitHuBERT (2207.00555; its 22.49 M count a head and an
# upsampler too), ARMHuBERT and MaskHuBERT (2305.11685; their 26.45, 22.39 and 26.64 M count twelve heads too),
# STaRHuBERT (2312.09040; its FFN widths follow from its sizes), DistilHuBERT (2110.01900).
PUBLISHED = (
    Student("12-L HALF", 12, 384, 1536, 6),
    Student("LightHuBERT Small", 12, 384, 1536, 6),
    Student("12-L QUARTER", 12, 192, 768, 3),
    Student("FitHuBERT", 12, 480, 480, 12, THIN, FITHUBERT_STACK, time_reduction=2),
    Student("ARMHuBERT", 12, 480, 864, 12, *_END_IN_480, reuse_attention=_EVERY_SECOND),
    Student("ARMHuBERT-S", 12, 432, 816, 12, *_END_IN_432, reuse_attention=_EVERY_SECOND),
    Student("MaskHuBERT", 12, 480, 640, 12, *_END_IN_480),
    Student("STaRHuBERT", 12, 432, 976, 12, *_END_IN_432),
    Student("STaRHuBERT-L", 12, 480, 1024, 12, *_END_IN_480),
    Student("6-L HALF", 6, 384, 1536, 6),
    Student("3-L ONE", 3, 768, 3072, 12),
    Student("3-L HALF", 3, 384, 1536, 6),
    Student("2-L ONE", 2, 768, 3072, 12),
    Student("DistilHuBERT", 2, 768, 3072, 12),
)

# settings that change the count of a shape; WavLM's position bias is left out, it adds 10 k
_COUNTED = [
    "sample_rate",
    "extractor_mode",
    "conv_bias",
    "project_features",
    "layer_norm_first",
    "conv_pos",
    "conv_pos_groups",
    "conv_pos_batch_norm",
    "pos_conv_depth",
]


def add_published(
    shapes: Sequence[Shape],
    kind: EncoderConfig,
    depths: Sequence[int],
    budget: Budget,
    tolerance: float,
    seconds: float = 10.0,
) -> List[Shape]:
    """The shapes and the published students that fit, in order; a shape that is one of these gets its name and heads.

    `shapes` are those that `find_shapes` found for the other arguments. Published students are of HuBERT Base's kind:
    for another one the shapes are returned as they are.
    """
    base = EncoderConfig()
    same_kind = all(getattr(kind, name) == getattr(base, name) for name in _COUNTED)
    if not same_kind or kind.family == "data2vec" or kind.conv_layers != base.conv_layers:
        return list(shapes)
    rows = {_identify(shape.config): shape for shape in shapes}
    for student in PUBLISHED:
        config = student.make_config(kind)
        key = _identify(config)
        known_as = rows[key].known_as if key in rows else ()
        shape = measure_shape(config, student.stack, budget, seconds)._replace(known_as=known_as + (student.name,))
        if student.layers in depths and abs(shape.use - 1) <= tolerance:
            rows[key] = shape
    return sorted(rows.values(), key=lambda shape: shape.order)


def _identify(config: EncoderConfig) -> Tuple:
    """What makes two shapes the same; the number of heads does not."""
    widths = config.encoder_layers, config.encoder_embed_dim, config.encoder_ffn_embed_dim
    return (*widths, config.time_reduction, *config.reuse_attention, *config.conv_layers)
