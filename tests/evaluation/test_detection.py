"""Error rates and detection costs against scikit-learn's ROC curve and a search over all thresholds."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from fairseq_distill.evaluation.detection import cross_rates, find_error_rates, find_segments, minimum_cost


def draw(seed, ties=False, pairs=2000):
    """(scores, same) of pairs whose kinds overlap; with `ties` there are few different scores."""
    random = np.random.default_rng(seed)
    same = random.random(pairs) < 0.1
    scores = random.standard_normal(pairs) + 1.5 * same
    return (np.round(2 * scores) / 2 if ties else scores), same


def search_cost(scores, same, p):
    """Least normalised cost by trying every threshold, in plain loops over decisions."""
    costs = []
    for threshold in [*np.unique(scores), np.inf]:
        accepted = scores >= threshold
        miss, false_alarm = (~accepted[same]).mean(), accepted[~same].mean()
        costs.append(1 * miss * p + 1 * false_alarm * (1 - p))
    return min(costs) / min(p, 1 - p)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("p", [0.01, 0.05, 0.5, 0.9])
def test_minimum_cost_is_that_of_a_search_and_of_scikit_learns_curve(p, ties):
    scores, same = draw(3, ties)
    cost = minimum_cost(find_error_rates(scores, same), p)
    assert 0 < cost < 1
    assert cost == pytest.approx(search_cost(scores, same, p), abs=1e-12)
    false_alarm, hit, _ = roc_curve(same, scores, drop_intermediate=False)
    theirs = ((1 - hit) * p + false_alarm * (1 - p)).min() / min(p, 1 - p)
    assert cost == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    "same, different, p, expected",
    [
        ([3, 4], [1, 2], 0.01, 0.0),  # a threshold parts them
        ([1, 2], [3, 4], 0.01, 1.0),  # no better than rejecting all
        ([1, 2], [3, 4], 0.9, 1.0),  # no better than accepting all
        ([5, 1], [3, 2], 0.05, 0.5),  # reject one target: 0.5 * 0.05 / 0.05
        ([5, 1], [3, 2, 2, 2], 0.5, 0.5),  # the same, or accept everything
    ],
)
def test_hand_made_costs(same, different, p, expected):
    scores = np.array(same + different, dtype=float)
    rates = find_error_rates(scores, np.arange(len(scores)) < len(same))
    assert minimum_cost(rates, p) == pytest.approx(expected)


@pytest.mark.parametrize("ties", [False, True])
def test_corners_are_those_of_scikit_learns_curve(ties):
    scores, same = draw(5, ties)
    rates = find_error_rates(scores, same)
    false_alarm, hit, _ = roc_curve(same, scores, drop_intermediate=False)
    theirs = {(round(1 - h, 9), round(f, 9)) for h, f in zip(hit, false_alarm)}
    ours = list(zip(rates.miss.round(9), rates.false_alarm.round(9)))
    assert set(ours) <= theirs and ours[0] == (1, 0) and ours[-1] == (0, 1)
    # what was left out lies on the lines between: the area is the same
    area = np.trapezoid if hasattr(np, "trapezoid") else np.trapz
    assert area(1 - rates.miss, rates.false_alarm) == pytest.approx(area(hit, false_alarm), abs=1e-12)
    assert len(ours) < len(theirs) or ties


def test_equal_scores_share_a_segment_and_order_is_by_score():
    scores = np.array([1.0, 5.0, 3.0, 3.0, 4.0, 2.0])
    same = np.array([False, True, True, False, True, False])
    assert find_segments(scores, same).tolist() == [2, 0, 1, 1, 0, 2]


def test_rates_cross_for_each_weighting():
    """Two weightings at once give what each gives alone."""
    scores, same = draw(7)
    one, two = find_error_rates(scores, same), find_error_rates(-scores, same)
    assert cross_rates(one) == pytest.approx(1 - cross_rates(two), abs=1e-9)
    both = type(one)(*(np.stack([values, values**2], axis=1) for values in one))
    assert cross_rates(both)[0] == pytest.approx(float(cross_rates(one)))


def test_scores_that_are_not_finite_are_counted():
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        find_error_rates(np.array([0.1, np.nan, 0.3]), np.array([True, False, True]))
