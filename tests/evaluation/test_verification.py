"""Equal error rates against hand-made scores and a sweep over all thresholds."""

from itertools import combinations

import numpy as np
import pytest

from fairseq_distill.evaluation.verification import count_pairs, equal_error_rate, score_pairs, verify


def sweep(scores, same):
    """Equal error rate by trying every threshold: where the two error rates come closest, their mean."""
    thresholds = np.concatenate([np.unique(scores), [np.inf]])
    accepted_wrongly = np.array([(scores[~same] >= t).mean() for t in thresholds])
    rejected_wrongly = np.array([(scores[same] < t).mean() for t in thresholds])
    best = np.abs(accepted_wrongly - rejected_wrongly).argmin()
    return (accepted_wrongly[best] + rejected_wrongly[best]) / 2


@pytest.mark.parametrize(
    "same, different, expected",
    [
        ([3, 4, 5], [0, 1, 2], 0.0),  # a threshold between parts them
        ([0, 1, 2], [3, 4, 5], 1.0),  # every decision is wrong
        ([1, 1, 1, 1], [1, 1], 0.5),  # nothing tells them apart
        ([0.4, 0.7, 0.8, 0.9], [0.1, 0.2, 0.3, 0.5], 0.25),  # one of four on each side
        ([0.9, 0.3], [0.6, 0.1, 0.2, 0.25], 0.25),  # 0.3 is between: one of four accepted, half or none rejected
    ],
)
def test_hand_made_scores(same, different, expected):
    scores = np.array(same + different, dtype=float)
    assert equal_error_rate(scores, np.arange(len(scores)) < len(same)) == pytest.approx(expected)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5, 3.0])
def test_equals_a_sweep_over_thresholds(shift):
    random = np.random.default_rng(int(10 * shift))
    same = random.random(3000) < 0.2
    scores = random.standard_normal(3000) + shift * same
    assert equal_error_rate(scores, same) == pytest.approx(sweep(scores, same), abs=2 / same.sum())


def test_pairs_of_one_kind_have_no_rate():
    with pytest.raises(ValueError, match="same and pairs of different"):
        equal_error_rate(np.array([0.1, 0.2]), np.array([True, True]))


def test_scores_are_the_cosines_of_all_pairs():
    speakers = ["b", "a", "b", "c", "a", "b"]
    embeddings = np.random.default_rng(0).standard_normal((6, 5))
    embeddings[3] = 0  # a silent embedding is like nothing, and gives no NaN
    scores, same = score_pairs(embeddings, speakers)
    pairs = list(combinations(range(6), 2))
    lengths = np.maximum(np.sqrt((embeddings**2).sum(1)), 1e-30)
    np.testing.assert_allclose(
        scores, [embeddings[i] @ embeddings[j] / (lengths[i] * lengths[j]) for i, j in pairs], atol=1e-12
    )
    assert same.tolist() == [speakers[i] == speakers[j] for i, j in pairs]
    assert count_pairs(speakers) == (same.sum(), (~same).sum()) == (4, 11)


def test_verify_weighs_the_layers():
    """Layer 0 tells the speakers apart, layer 1 pairs them wrongly: the weights decide."""
    speakers = ["a", "a", "b", "b"]
    right = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], dtype=float)
    wrong = right[[0, 2, 1, 3]]
    features = np.stack([right, wrong], axis=1)
    assert verify(features, np.array([1.0, 0.0]), speakers) == 0
    assert verify(features, np.array([0.0, 1.0]), speakers) == pytest.approx(0.5)
