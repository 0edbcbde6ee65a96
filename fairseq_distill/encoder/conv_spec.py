"""`conv_feature_layers`: fairseq's one-line description of a convolution stack, read without evaluating it."""

import ast
from functools import lru_cache
from typing import List, Tuple

ConvLayer = Tuple[int, int, int]

_MAX_LAYERS = 100  # real models have 7; repetition must not fill the memory


def parse_conv_layers(spec: str) -> List[ConvLayer]:
    """Read ``"[(512,10,5)] + [(512,3,2)] * 4"`` into ``[(channels, kernel, stride), ...]``.

    fairseq evaluates this string as Python. Here only lists or tuples of integers, joined by ``+`` and repeated by
    ``* integer``, are understood, so a checkpoint cannot smuggle code in through it.

    Raises:
        ValueError: anything else, or a layer that is not three positive integers.
    """
    return list(_parse(spec))


@lru_cache(maxsize=256)  # settings are asked for it again and again
def _parse(spec: str) -> Tuple[ConvLayer, ...]:
    if len(spec) > 10_000:
        raise ValueError(f"conv_feature_layers is {len(spec)} characters long; no real model's is")
    try:
        layers = _read(ast.parse(spec.strip(), mode="eval").body)
    except (SyntaxError, ValueError, _NotArithmetic, RecursionError, MemoryError) as error:
        raise ValueError(
            f"conv_feature_layers must be lists of (channels, kernel, stride) joined by + and *, not {spec!r:.200}"
        ) from error
    if not isinstance(layers, list) or not layers:
        raise ValueError(f"conv_feature_layers must be a list with at least one layer, not {spec!r:.200}")
    for layer in layers:
        if not (isinstance(layer, tuple) and len(layer) == 3 and all(isinstance(n, int) and n > 0 for n in layer)):
            raise ValueError(f"conv_feature_layers: {layer!r:.60} is not (channels, kernel, stride), positive integers")
    return tuple(layers)


def format_conv_layers(layers: List[ConvLayer]) -> str:
    """The inverse of `parse_conv_layers`, as fairseq writes it (equal neighbours are not merged)."""
    return "[" + ", ".join(f"({c}, {k}, {s})" for c, k, s in layers) + "]"


def count_frames(samples: int, layers: List[ConvLayer]) -> int:
    """Number of frames that the stack makes of `samples` samples (0 when they are fewer than its receptive field)."""
    for _, kernel, stride in layers:
        samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
    return samples


def receptive_field(layers: List[ConvLayer]) -> int:
    """Number of samples that one frame sees: the shortest wave that gives a frame (400 for every released model)."""
    field = 1
    for _, kernel, stride in reversed(layers):
        field = (field - 1) * stride + kernel
    return field


def total_stride(layers: List[ConvLayer]) -> int:
    """Samples from one frame to the next (320 for every released model: 50 frames a second at 16 kHz)."""
    stride = 1
    for layer in layers:
        stride *= layer[2]
    return stride


class _NotArithmetic(Exception):
    pass


def _read(node):
    """Evaluate the few node types that the notation needs; everything else raises `_NotArithmetic`."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_read(item) for item in node.elts)
    if isinstance(node, ast.List):
        # fairseq accepts [[512, 10, 5]] as well as [(512, 10, 5)]
        return [tuple(item) if isinstance(item, list) else item for item in map(_read, node.elts)]
    if isinstance(node, ast.BinOp):
        left, right = _read(node.left), _read(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        if isinstance(node.op, ast.Mult):
            items, times = (left, right) if isinstance(left, list) else (right, left)
            if isinstance(items, list) and isinstance(times, int) and 0 <= len(items) * times <= _MAX_LAYERS:
                return items * times
    raise _NotArithmetic(ast.dump(node)[:80])
