"""Convolution stacks that a student may have: the teacher's, narrower ones, and FitHuBERT's."""

from itertools import groupby
from typing import Dict, List

from ..encoder.conv_spec import ConvLayer, parse_conv_layers, total_stride

WHOLE, HALF, QUARTER, THIN = "whole", "half", "quarter", "thin"
# 2207.00555; its strides' product is that of HuBERT, wav2vec 2.0 and WavLM
FITHUBERT_STACK = "[(128,10,5), (256,1,1)] + [(256,3,2)] * 4 + [(512,1,1)] + [(512,2,2)] * 2"


def list_stacks(conv_feature_layers: str) -> Dict[str, str]:
    """The stacks to choose from, by name, each as `conv_feature_layers`.

    Args:
        conv_feature_layers: the teacher's.

    Returns:
        "whole", "half", "quarter": the teacher's with all, half and a quarter of its channels; "thin": FitHuBERT's, its
        channels scaled so that the last are as many as the teacher's, where the products of the strides are the same.
    """
    whole = parse_conv_layers(conv_feature_layers)
    stacks = {WHOLE: whole, HALF: _scale(whole, 1 / 2), QUARTER: _scale(whole, 1 / 4)}
    thin = parse_conv_layers(FITHUBERT_STACK)
    if total_stride(thin) == total_stride(whole):
        stacks[THIN] = _scale(thin, whole[-1][0] / thin[-1][0])
    return {name: _format(layers) for name, layers in stacks.items()}


def _scale(layers: List[ConvLayer], factor: float) -> List[ConvLayer]:
    return [(max(1, int(channels * factor)), kernel, stride) for channels, kernel, stride in layers]


def _format(layers: List[ConvLayer]) -> str:
    """As fairseq writes stacks: "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"."""
    runs = [(layer, len(list(same))) for layer, same in groupby(layers)]
    return " + ".join(f"[({c},{k},{s})]" + (f" * {count}" if count > 1 else "") for (c, k, s), count in runs)
