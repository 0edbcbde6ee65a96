"""A readable selection out of all shapes that fit: what the field uses, before what lies between."""

from itertools import groupby
from typing import List, Sequence, Tuple

from .grid import Shape
from .stacks import HALF, QUARTER, THIN, WHOLE

_PER_DEPTH = 3
_USUAL_DEPTHS = (12, 24, 2, 6, 3, 4, 8, 18, 16, 10)
# stack and FFN ratio: BERT's layers on the teacher's convolutions, FitHuBERT's on its own, then mixtures of both
_USUAL_KINDS = ((WHOLE, 4), (THIN, 1), (HALF, 4), (WHOLE, 2), (WHOLE, 1), (THIN, 2), (QUARTER, 4), (HALF, 2), (THIN, 4))


def select_shapes(shapes: Sequence[Shape], limit: int) -> List[Shape]:
    """At most `limit` of the shapes, in their order; 0 = all.

    Published students come first. Then there are up to three shapes of as many depths as that leaves room for, with
    what is usual in the field first; then the rest.
    """
    if not limit or len(shapes) <= limit:
        return list(shapes)
    known = [i for i, shape in enumerate(shapes) if shape.known_as]
    others = sorted(set(range(len(shapes))) - set(known), key=lambda i: (_rank_depth(shapes[i]), _rank_kind(shapes[i])))
    ranked = []
    for depth_rank, (_, same_depth) in enumerate(groupby(others, key=lambda i: shapes[i].config.encoder_layers)):
        ranked += [(number // _PER_DEPTH, depth_rank, number, i) for number, i in enumerate(same_depth)]
    kept = known + [i for *_, i in sorted(ranked)]
    return [shapes[i] for i in sorted(kept[:limit])]


def _rank_depth(shape: Shape) -> Tuple[int, int]:
    depth = shape.config.encoder_layers
    usual = _USUAL_DEPTHS.index(depth) if depth in _USUAL_DEPTHS else len(_USUAL_DEPTHS)
    return usual, -depth


def _rank_kind(shape: Shape) -> Tuple[int, float]:
    kind = shape.stack, shape.config.encoder_ffn_embed_dim // shape.config.encoder_embed_dim
    usual = _USUAL_KINDS.index(kind) if kind in _USUAL_KINDS else len(_USUAL_KINDS)
    return usual, abs(shape.use - 1)
