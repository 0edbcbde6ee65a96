"""The search for shapes against every width tried one by one, and what is chosen out of its result."""

import dataclasses
import functools

import pytest

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.conv_spec import parse_conv_layers, total_stride
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.size import count_parameters, count_size
from fairseq_distill.errors import UserError
from fairseq_distill.shapes.budget import Budget, format_amount, parse_amount, parse_depths, parse_tolerance
from fairseq_distill.shapes.grid import RATIOS, choose_heads, find_shapes, make_kind
from fairseq_distill.shapes.published import add_published
from fairseq_distill.shapes.selection import select_shapes
from fairseq_distill.shapes.stacks import FITHUBERT_STACK, list_stacks

from ..builders import KINDS, LARGE, SMALL

BASE = EncoderConfig()


@functools.cache
def find(depths=range(2, 25), tolerance=0.05, **limits):
    """Shapes of HuBERT Base's kind that fit, published ones among them."""
    budget = Budget(**limits)
    found = find_shapes(BASE, 64, depths, budget, tolerance)
    return add_published(found.shapes, BASE, depths, budget, tolerance)


def search_slowly(kind, head_dim, depth, parameters):
    """{(stack, FFN ratio): the width that comes closest}, on networks that are built."""
    closest = {}
    for stack, spec in list_stacks(kind.conv_feature_layers).items():
        for ratio in RATIOS:
            errors = {}
            for width in range(8, 161, 8):
                heads = choose_heads(width, head_dim)
                if heads and width % kind.conv_pos_groups == 0:
                    cfg = dataclasses.replace(
                        kind,
                        conv_feature_layers=spec,
                        encoder_layers=depth,
                        encoder_embed_dim=width,
                        encoder_ffn_embed_dim=ratio * width,
                        encoder_attention_heads=heads,
                    )
                    errors[width] = abs(count_parameters(SpeechEncoder(cfg))["encoder"] - parameters)
            closest[stack, ratio] = min(errors, key=errors.get)
    return closest


@pytest.mark.parametrize("name", ["hubert", "wavlm large"])
def test_each_row_is_the_width_closest_to_the_budget(name):
    kind = make_kind(EncoderConfig.from_settings({**SMALL, **KINDS[name]}))
    found = find_shapes(kind, 12, [3], Budget(parameters=100_000), tolerance=0.99)
    rows = {(s.stack, s.config.encoder_ffn_embed_dim // s.config.encoder_embed_dim): s for s in found.shapes}
    assert {key: s.config.encoder_embed_dim for key, s in rows.items()} == search_slowly(kind, 12, 3, 100_000)
    for shape in rows.values():
        encoder = SpeechEncoder(shape.config)
        size = count_parameters(encoder)["encoder"], count_size(encoder.cfg).macs_per_second
        assert shape.size == size and shape.use == size[0] / 100_000


def test_shapes_fit_and_go_from_deep_and_thin_to_shallow_and_wide():
    rows = find(parameters=25e6)
    assert all(23.75e6 <= row.size.parameters <= 26.25e6 for row in rows)
    order = [(-row.config.encoder_layers, row.config.encoder_embed_dim) for row in rows]
    assert order == sorted(order) and order[0][0] == -24 and order[-1][0] == -2
    for row in rows:
        c = row.config
        c.check()
        assert 32 <= c.attention_head_dim <= 64 and c.encoder_embed_dim % 16 == 0
        assert total_stride(c.conv_layers) == 320


def test_two_limits_hold_together():
    rows = find(parameters=25e6, macs_per_second=2e9)
    uses = [(row.size.parameters / 25e6, row.size.macs_per_second / 2e9) for row in rows]
    assert all(0.95 <= max(use) <= 1.05 for use in uses)
    assert min(p for p, _ in uses) < 0.9 and min(m for _, m in uses) < 0.9  # each of them binds somewhere
    assert all(row.stack != "whole" for row in rows)  # whose convolutions alone take more


def test_published_students_are_named_rows_at_their_size():
    named = {name: row for row in find(parameters=23.5e6) for name in row.known_as}
    assert set(named) == {"2-L ONE", "DistilHuBERT"}  # STaRHuBERT, 22.31 M, is just out of reach
    named = {name: row for row in find(range(2, 13), tolerance=0.2, parameters=27e6) for name in row.known_as}
    deep_versus_wide = {"12-L HALF", "LightHuBERT Small", "3-L ONE", "DistilHuBERT", "2-L ONE"}
    assert set(named) == deep_versus_wide | {"MaskHuBERT", "ARMHuBERT", "STaRHuBERT", "STaRHuBERT-L"}
    assert named["3-L ONE"].config.encoder_embed_dim == 768 and named["12-L HALF"] is named["LightHuBERT Small"]
    found = [row.config for row in find(parameters=27e6)]
    shapes = {(c.encoder_layers, c.encoder_embed_dim, c.encoder_ffn_embed_dim, str(c.conv_layers)) for c in found}
    assert len(shapes) == len(found)
    assert not any(row.known_as for row in find(range(4, 10), parameters=26.87e6))
    large = EncoderConfig(**LARGE)
    assert add_published([], large, range(1, 25), Budget(parameters=27e6), 0.5) == []


def test_stacks_of_base_are_its_own_half_quarter_and_fithuberts():
    stacks = {name: parse_conv_layers(spec) for name, spec in list_stacks(BASE.conv_feature_layers).items()}
    assert stacks["whole"] == BASE.conv_layers and stacks["thin"] == parse_conv_layers(FITHUBERT_STACK)
    assert [[c for c, _, _ in stacks[name]] for name in ("half", "quarter")] == [[256] * 7, [128] * 7]
    kernels = [layer[1:] for layer in BASE.conv_layers]
    assert all([layer[1:] for layer in stacks[name]] == kernels for name in ("half", "quarter"))
    assert "thin" not in list_stacks(SMALL["conv_feature_layers"])  # another number of frames a second
    narrow = parse_conv_layers(list_stacks(BASE.conv_feature_layers.replace("512", "160"))["thin"])
    assert [c for c, _, _ in narrow] == [40, 80, 80, 80, 80, 80, 160, 160, 160]


def test_a_student_of_a_pruned_teacher_is_of_its_kind_and_whole():
    pruned = EncoderConfig(
        **{**SMALL, **LARGE, "layer_heads": [1, 2, 0], "layer_ffn_dims": [3, 0, 5], "prune": ["ffn"], "head_dim": 12}
    )
    kind = make_kind(pruned)
    assert all(getattr(kind, name) == value for name, value in {**LARGE, "conv_pos_groups": 4}.items())
    assert (kind.layer_heads, kind.layer_ffn_dims, kind.prune, kind.head_dim) == ([], [], [], 0)


def test_selection_keeps_published_students_and_covers_the_depths():
    rows = find(parameters=27e6)
    chosen = select_shapes(rows, 10)
    assert len(chosen) == 10 and [rows.index(row) for row in chosen] == sorted(rows.index(row) for row in chosen)
    assert [row.known_as for row in chosen if row.known_as] == [("12-L HALF", "LightHuBERT Small"), ("STaRHuBERT-L",)]
    assert {row.config.encoder_layers for row in chosen} == {24, 12, 2}
    assert len({row.config.encoder_layers for row in select_shapes(rows, 24)}) == 8
    assert select_shapes(rows, 0) == rows == select_shapes(rows, len(rows) + 1)
    assert [len(select_shapes(rows, n)) for n in range(1, len(rows))] == list(range(1, len(rows)))


def test_amounts_are_read_and_written():
    texts = {"25M": 25e6, "1.5G": 1.5e9, "300k": 3e5, "25000000": 25e6, "25%": 50.0}
    assert {text: parse_amount(text, "--params", whole=200) for text in texts} == texts
    assert [format_amount(n) for n in (23_492_224, 3.5e9, 1500, 12)] == ["23.49 M", "3.50 G", "1.50 k", "12"]
    assert [parse_tolerance(text) for text in ("5%", "0.05", "0")] == [0.05, 0.05, 0.0]
    assert parse_depths("2-24") == (2, 24) and parse_depths("6") == (6, 6)
    for text in ("0", "-3M", "25 MB", "M", "", "nan"):
        with pytest.raises(UserError, match="--macs"):
            parse_amount(text, "--macs")
    with pytest.raises(UserError, match="give --teacher too"):
        parse_amount("25%", "--params")
    for text in ("5M", "100%", "five"):
        with pytest.raises(UserError, match="--tolerance"):
            parse_tolerance(text)
    for text in ("0-3", "6-2", "2-", "many"):
        with pytest.raises(UserError, match="--layers"):
            parse_depths(text)


def test_positional_groups_that_no_width_has_are_named():
    with pytest.raises(UserError, match="conv_pos_groups=4099"):
        find_shapes(dataclasses.replace(BASE, conv_pos_groups=4099), 64, [2], Budget(parameters=1e6), 0.05)


def test_nearest_is_the_closest_of_all():
    found = find_shapes(BASE, 64, [2, 3], Budget(parameters=1000), 0.05)
    assert found.shapes == []
    assert found.nearest.size == count_size(found.nearest.config)
    assert found.nearest.config.encoder_layers == 2 and found.nearest.stack == "quarter"
    assert found.nearest.config.encoder_embed_dim == found.nearest.config.encoder_ffn_embed_dim == 32
