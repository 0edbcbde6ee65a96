"""Groups of layers: how they are written, averaged and matched."""

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_distill.encoder.layer_groups import (
    average_groups,
    format_groups,
    layers_to_run,
    match_student_layers,
    name_group,
    parse_groups,
)
from fairseq_distill.encoder.model import EncoderOutput
from fairseq_distill.errors import UserError


@pytest.mark.parametrize("spec", ["[[0],[4,8],[12]]", [[0], [4, 8], [12]], OmegaConf.create([[0], [4, 8], [12]])])
def test_groups_are_read_from_text_and_lists(spec):
    assert parse_groups(spec, 12) == [[0], [4, 8], [12]]
    assert parse_groups("[[f],[12]]", 12) == [["f"], [12]]
    assert format_groups(parse_groups(spec, 12)) == "[[0],[4,8],[12]]"
    assert [name_group(g) for g in parse_groups(spec, 12)] == ["0", "4-8", "12"]


@pytest.mark.parametrize(
    "depth, expected",
    [(3, "[[f],[3]]"), (12, "[[f],[4],[8],[12]]"), (24, "[[f],[4],[8],[12],[16],[20],[24]]"), (6, "[[f],[4],[6]]")],
)
def test_a_rule_fits_any_depth(depth, expected):
    assert format_groups(parse_groups("f, every 4", depth)) == expected
    assert parse_groups("f,every  4", depth) == parse_groups(expected, depth)


def test_entries_of_a_rule_are_features_layers_and_steps():
    assert parse_groups("every 1", 3) == [[1], [2], [3]]
    assert parse_groups("0, 2", 3) == [[0], [2]]
    assert parse_groups("f, 2, every 2, 6", 6) == [["f"], [2], [4], [6]], "a layer named twice has one group"
    for rule in ("every 0", "every", "every four", "f every 4", "f,,3", "f, 4-8"):
        with pytest.raises(UserError, match="or a rule such as"):
            parse_groups(rule, 12)
    with pytest.raises(UserError, match="the teacher has layers 0 to 12 and f, not 13"):
        parse_groups("f, 13", 12)


def test_groups_without_a_known_depth_are_lists():
    assert parse_groups("[[f],[30]]") == [["f"], [30]]
    with pytest.raises(UserError, match="criterion.groups must be lists"):
        parse_groups("f, every 4")


@pytest.mark.parametrize(
    "spec", ["", "[4,8]", "[]", "[[]]", "[[13]]", "[[-1]]", "[[1.5]]", "[[g]]", "[[True]]", "[[4]", 7]
)
def test_anything_else_is_an_error_that_names_the_key(spec):
    with pytest.raises(UserError, match="criterion.groups"):
        parse_groups(spec, 12)


def test_average_is_the_mean_of_the_layers():
    hidden = tuple(torch.randn(2, 5, 3) for _ in range(4))
    features = torch.randn(2, 5, 3)
    output = EncoderOutput(None, hidden, features, None)
    means = average_groups(output, [[0], [1, 3], ["f", 2]])
    torch.testing.assert_close(means[0], hidden[0])
    torch.testing.assert_close(means[1], (hidden[1] + hidden[3]) / 2)
    torch.testing.assert_close(means[2], (features + hidden[2]) / 2)
    assert layers_to_run([["f"], [3], [1, 2]]) == {1, 2, 3}
    assert layers_to_run([["f"]]) == {0}


def test_student_layers_are_matched_by_relative_depth():
    one_to_one = [[layer] for layer in range(1, 13)]
    assert match_student_layers(one_to_one, 12, 12) == [[n] for n in range(1, 13)]
    assert match_student_layers([[4], [8], [12]], 3, 12) == [[1], [2], [3]]
    assert match_student_layers([["f"], [0], [1], [8, 12]], 2, 12) == [["f"], [0], [1], [2]]
    assert match_student_layers([[24]], 12, 24) == [[12]]
    assert match_student_layers([[1, 2, 3], ["f", 4], [9, 12]], 12, 12, average=True) == [[1, 2, 3], ["f", 4], [9, 12]]
    assert match_student_layers([[1, 2, 3], [4, 5, 6]], 3, 12, average=True) == [[1], [1, 2]]
