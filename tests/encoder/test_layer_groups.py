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
