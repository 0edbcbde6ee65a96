"""Draws of utterances: probabilities by hand, frequencies of classes by counting."""

import numpy as np
import pytest

from fairseq_distill.multitask.sampling import compute_probabilities
from fairseq_distill.multitask.task_list import parse_tasks

# a keyword for six utterances, four of them of class 0; a speaker for three, one of which has a keyword too
TARGETS = np.array([[0, -1], [0, -1], [0, -1], [0, 1], [1, -1], [1, -1], [-1, 0], [-1, 1]])


def tasks(keyword=(), speaker=()):
    """Two tasks with these keys."""
    return parse_tasks(
        [
            {"name": "keyword", "kind": "classification", **dict(keyword)},
            {"name": "speaker", "kind": "verification", **dict(speaker)},
        ]
    )


def test_without_wishes_every_utterance_comes_once():
    assert compute_probabilities(TARGETS, tasks()) is None


def test_tasks_are_drawn_by_their_sampling():
    found = compute_probabilities(TARGETS, tasks({"sampling": 1}, {"sampling": 3}))
    expected = [1 / 24] * 3 + [1 / 24 + 1 / 4] + [1 / 24] * 2 + [1 / 4] * 2
    np.testing.assert_allclose(found, expected)


def test_classes_of_a_balanced_task_are_drawn_equally_often():
    found = compute_probabilities(TARGETS, tasks({"balanced": True}))
    # six of nine labels are keywords: two thirds of the draws, half of them each class
    expected = np.array([1 / 12] * 4 + [1 / 6] * 2 + [0, 0]) + np.array([0, 0, 0, 1 / 9, 0, 0, 1 / 9, 1 / 9])
    np.testing.assert_allclose(found, expected)
    draws = np.random.default_rng(0).choice(8, size=60_000, p=found)
    only_keyword = np.isin(draws, [0, 1, 2, 4, 5])
    share = TARGETS[draws[only_keyword], 0].mean()
    assert share == pytest.approx(4 / 7, abs=0.01)  # class 1 has no utterance with two labels, class 0 has one


def test_a_single_balanced_task_has_equal_classes():
    targets = np.array([[0]] * 90 + [[1]] * 9 + [[2]])
    found = compute_probabilities(targets, parse_tasks([{"name": "k", "kind": "classification", "balanced": True}]))
    draws = targets[np.random.default_rng(0).choice(100, size=30_000, p=found), 0]
    np.testing.assert_allclose(np.bincount(draws) / 30_000, [1 / 3] * 3, atol=0.01)
