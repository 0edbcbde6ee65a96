"""conv_feature_layers is read as arithmetic on lists, never evaluated."""

import pytest
import torch

from fairseq_distill.encoder.conv_spec import (
    count_frames,
    format_conv_layers,
    parse_conv_layers,
    receptive_field,
    total_stride,
)

BASE = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


@pytest.mark.parametrize(
    "spec", [BASE, "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]", "2 * [[4, 3, 2]]", "[(1,2,3)]"]
)
def test_equals_what_python_would_make_of_it(spec):
    expected = [tuple(layer) for layer in eval(spec)]
    assert parse_conv_layers(spec) == expected
    assert parse_conv_layers(format_conv_layers(expected)) == expected


@pytest.mark.parametrize(
    "spec",
    [
        "__import__('os').system('touch {marker}')",
        "[(512,10,5)] + [open('{marker}', 'w') and (1,1,1)]",
        "[(1,1,1)] * 10**9",
        "[(1,1,1)] * 1000000000",
        "[(1,1,1)] * 100 * 100 * 100 * 100 * 100",
        "-" * 9000 + "1",
        "[(1,1,1)]\0",
        "[(512,10)]",
        "[(512,10,0)]",
        "[(512,10,True)]",
        "[]",
        "",
        "(1,2,3)",
        "[" * 500,
        "[(1,2,3)" + "," * 20_000,
        "[x for x in [(1,2,3)]]",
    ],
)
def test_anything_else_is_refused_and_nothing_runs(spec, tmp_path):
    marker = tmp_path / "marker"
    with pytest.raises(ValueError, match="conv_feature_layers"):
        parse_conv_layers(spec.replace("{marker}", str(marker)))
    assert not marker.exists()


def test_geometry_of_the_released_models():
    layers = parse_conv_layers(BASE)
    assert receptive_field(layers) == 400
    assert total_stride(layers) == 320
    for samples in (0, 399, 400, 719, 720, 16_000, 40_001):
        x = torch.zeros(1, 1, samples)
        frames = 0
        if samples >= 400:
            for _, kernel, stride in layers:
                x = torch.nn.functional.conv1d(x, torch.zeros(1, 1, kernel), stride=stride)
            frames = x.size(-1)
        assert count_frames(samples, layers) == frames
