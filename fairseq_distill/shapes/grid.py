"""The grid of student shapes, and the search for those that fit a budget."""

from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..encoder.config import KIND_FIELDS, EncoderConfig
from ..encoder.size import Size, count_size
from ..errors import UserError
from .budget import Budget
from .stacks import list_stacks

RATIOS = (4, 2, 1)  # FFN neurons to width: 4 as in BERT, HuBERT and wav2vec 2.0, 1 as in FitHuBERT, and between
HEAD_DIMS = (64, 56, 48, 40, 32)
WIDEST = 4096


class Shape(NamedTuple):
    """A student's shape.

    Attributes:
        config: its settings.
        stack: name of its convolution stack.
        size: parameters and multiply-accumulates.
        use: the part of the budget that it uses up, 1 = all.
        known_as: names of published students of this shape.
    """

    config: EncoderConfig
    stack: str
    size: Size
    use: float
    known_as: Tuple[str, ...] = ()

    @property
    def order(self) -> Tuple[int, ...]:
        """Key that sorts from the deepest and thinnest to the shallowest and widest."""
        c = self.config
        return -c.encoder_layers, c.encoder_embed_dim, c.encoder_ffn_embed_dim, self.size.parameters


class Found(NamedTuple):
    """Shapes within the tolerance, from the deepest and thinnest to the shallowest and widest; the nearest of all."""

    shapes: List[Shape]
    nearest: Shape


def make_kind(config: Optional[EncoderConfig] = None) -> EncoderConfig:
    """Settings of the kind of `config` (default: HuBERT Base's), without its depth, widths and pruning."""
    return EncoderConfig(**{name: getattr(config or EncoderConfig(), name) for name in KIND_FIELDS})


def find_shapes(
    kind: EncoderConfig, head_dim: int, depths: Sequence[int], budget: Budget, tolerance: float, seconds: float = 10.0
) -> Found:
    """Search all depths, FFN ratios and convolution stacks, each for the width that comes closest to the budget.

    Args:
        kind: as `make_kind` returns it.
        head_dim: width of the teacher's attention heads, which students have where it divides their width.
        depths: numbers of layers.
        budget: limits.
        tolerance: a shape fits if it uses up from 1 - tolerance to 1 + tolerance of the budget.
        seconds: length of the wave that multiply-accumulates are counted for.

    Raises:
        UserError: no width is a multiple of both heads and groups of the positional convolution.
    """
    closest = []
    for stack, spec in list_stacks(kind.conv_feature_layers).items():
        for ratio in RATIOS:
            widths = []
            for cfg in _list_widths(kind.with_settings(conv_feature_layers=spec), head_dim, ratio):
                widths.append((cfg, count_size(cfg, seconds), count_size(_deepen(cfg, 2), seconds)))
                if budget.measure_use(widths[-1][1]) > 2:
                    break  # wider ones are further off, at any depth
            if not widths:
                raise UserError(f"conv_pos_groups={kind.conv_pos_groups} and heads share no width up to {WIDEST}")
            for depth in depths:
                uses = [budget.measure_use(_extrapolate(one, two, depth)) for _, one, two in widths]
                best = min(range(len(uses)), key=lambda i: abs(uses[i] - 1))
                closest.append(measure_shape(_deepen(widths[best][0], depth), stack, budget, seconds))
    fits = sorted((s for s in closest if abs(s.use - 1) <= tolerance), key=lambda s: s.order)
    return Found(fits, min(closest, key=lambda s: abs(s.use - 1)))


def measure_shape(config: EncoderConfig, stack: str, budget: Budget, seconds: float) -> Shape:
    """The shape with its size, and what this uses up of the budget."""
    size = count_size(config, seconds)
    return Shape(config, stack, size, budget.measure_use(size))


def choose_heads(width: int, head_dim: int) -> int:
    """Number of heads for a width: of `head_dim`, or else of the first of HEAD_DIMS that divides it; 0 = none does."""
    return next((width // dim for dim in (head_dim, *HEAD_DIMS) if width % dim == 0), 0)


def _list_widths(kind: EncoderConfig, head_dim: int, ratio: int) -> Iterator[EncoderConfig]:
    """Encoders of one layer, thin ones first, of every width that heads and positional groups divide."""
    for width in range(kind.conv_pos_groups, WIDEST + 1, kind.conv_pos_groups):
        heads = choose_heads(width, head_dim)
        if heads and width % 8 == 0:
            yield kind.with_settings(
                encoder_layers=1,
                encoder_embed_dim=width,
                encoder_ffn_embed_dim=ratio * width,
                encoder_attention_heads=heads,
            )


def _deepen(cfg: EncoderConfig, depth: int) -> EncoderConfig:
    return cfg.with_settings(encoder_layers=depth)


def _extrapolate(one: Size, two: Size, depth: int) -> Size:
    """The size with `depth` layers, all alike, from those with one and with two."""
    more = depth - 1
    return Size(
        one.parameters + more * (two.parameters - one.parameters),
        one.macs_per_second + more * (two.macs_per_second - one.macs_per_second),
    )
