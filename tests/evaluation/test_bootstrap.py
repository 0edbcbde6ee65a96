"""Bootstrap intervals against resampling by hand: utterances or pairs, repeated as often as they are drawn."""

import time

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_curve

from fairseq_distill.evaluation import bootstrap
from fairseq_distill.evaluation.bootstrap import draw_counts, percentile_interval, ratio_interval, resample_speakers
from fairseq_distill.evaluation.classification import macro_f1_interval, measure_classes
from fairseq_distill.evaluation.detection import cross_rates, minimum_cost
from fairseq_distill.evaluation.verification import measure_scores


def collect(units, draws, seed=0, **options):
    return np.concatenate(list(draw_counts(units, draws, seed, **options)))


def make_pairs(speakers=6, utterances=4, seed=0):
    """All pairs of `utterances` of each speaker, some easier than others: (scores, same, first, second)."""
    random = np.random.default_rng(seed)
    names = np.repeat(np.arange(speakers), utterances)
    enrol, test = np.triu_indices(len(names), k=1)
    first, second = names[enrol], names[test]
    ease = random.standard_normal(speakers)
    scores = random.standard_normal(len(first)) + (1.5 + ease[first]) * (first == second)
    return np.round(scores, 1), first == second, first, second  # rounding makes ties


def test_draws_hold_as_many_units_as_there_are_and_repeat_with_their_seed(monkeypatch):
    counts = collect(7, 3000)
    assert counts.shape == (3000, 7) and (counts.sum(axis=1) == 7).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(counts.var(axis=0), 6 / 7, atol=0.1)
    assert (collect(7, 3000) == counts).all() and (collect(7, 3000, seed=1) != counts).any()
    monkeypatch.setattr(bootstrap, "_BLOCK", 70)
    blocks = list(draw_counts(7, 25))
    assert [len(block) for block in blocks] == [10, 10, 5]
    assert (np.concatenate(blocks) == counts[:25]).all(), "blocks are for memory, and change no draw"


def test_a_mean_has_the_interval_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(10, 2, 400)
    low, high = ratio_interval(values, np.ones(400), draws=4000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_a_rate_is_that_of_utterances_drawn_by_hand():
    errors, words = np.array([0, 3, 1, 8]), np.array([5, 6, 2, 9])
    rates = []
    for counts in collect(4, 300, seed=5):
        drawn = np.repeat(np.arange(4), counts)
        rates.append(errors[drawn].sum() / words[drawn].sum())
    assert ratio_interval(errors, words, 300, 5) == pytest.approx(percentile_interval(np.array(rates)))


def test_macro_f1_is_scikit_learns_of_each_draw():
    random = np.random.default_rng(2)
    labels = random.choice(["a", "b", "c", "rare"], 30, p=[0.4, 0.3, 0.27, 0.03])
    predicted = np.where(random.random(30) < 0.7, labels, random.choice(["a", "b", "d"], 30))
    values = []
    for counts in collect(30, 200, seed=9):
        drawn = np.repeat(np.arange(30), counts)
        values.append(f1_score(labels[drawn], predicted[drawn], average="macro", zero_division=0))
    assert macro_f1_interval(predicted, labels, 200, 9) == pytest.approx(percentile_interval(np.array(values)))
    figures = measure_classes(predicted, labels)
    assert figures["accuracy"] == pytest.approx((predicted == labels).mean())
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    for figure, interval in (("accuracy", "accuracy_bootstrap"), ("macro_f1", "macro_f1_interval")):
        assert figures[interval][0] < figures[figure] < figures[interval][1]


def test_error_rates_of_drawn_speakers_are_those_of_their_pairs_repeated():
    """Each draw's pairs are written out: a pair of a and b n(a) n(b) times, one of a alone n(a) times."""
    scores, same, first, second = make_pairs()
    blocks = list(resample_speakers(scores, same, first, second, 60, 4))
    eers = np.concatenate([cross_rates(block) for block in blocks])
    costs = np.concatenate([minimum_cost(block, 0.05) for block in blocks])
    expected_eers, expected_costs = [], []
    for counts in collect(6, 60, seed=4):
        repeats = np.where(same, counts[first], counts[first] * counts[second])
        drawn = np.repeat(np.arange(len(scores)), repeats)
        false_alarm, hit, _ = roc_curve(same[drawn], scores[drawn], drop_intermediate=False)
        miss = 1 - hit
        fine = np.linspace(0, len(miss) - 1, 200_001)  # the crossing by looking along the curve
        along = (np.interp(fine, np.arange(len(miss)), rate) for rate in (miss, false_alarm))
        miss_along, false_alarm_along = along
        closest = np.abs(miss_along - false_alarm_along).argmin()
        expected_eers.append(miss_along[closest])
        expected_costs.append((0.05 * miss + 0.95 * false_alarm).min() / 0.05)
    np.testing.assert_allclose(eers, expected_eers, atol=1e-3)
    np.testing.assert_allclose(costs, expected_costs, atol=1e-12)


def test_order_of_the_pairs_and_names_of_the_speakers_do_not_matter():
    scores, same, first, second = make_pairs()
    figures = measure_scores(scores, same, first, second, draws=100)
    shuffle = np.random.default_rng(0).permutation(len(scores))
    names = np.array(["anna", "berta", "carl", "dora", "emil", "frida"])
    again = measure_scores(scores[shuffle], same[shuffle], names[second[shuffle]], names[first[shuffle]], draws=100)
    assert again["eer_interval"] == pytest.approx(figures["eer_interval"])
    assert again["min_dcf_interval"]["0.01"] == pytest.approx(figures["min_dcf_interval"]["0.01"])
    assert figures["eer_speakers"] == 6 and figures["eer_interval"][0] < figures["eer"] < figures["eer_interval"][1]


def test_speakers_make_wider_intervals_than_pairs_as_if_independent():
    """Speakers differ in how easy they are, so six of them say less than their many pairs seem to."""
    scores, same, first, second = make_pairs(speakers=8, utterances=12)
    low, high = measure_scores(scores, same, first, second)["eer_interval"]
    eers = []
    for counts in collect(len(scores), 200):
        drawn = np.repeat(np.arange(len(scores)), counts)
        false_alarm, hit, _ = roc_curve(same[drawn], scores[drawn])
        eers.append(false_alarm[np.abs(1 - hit - false_alarm).argmin()])
    naive = percentile_interval(np.array(eers))
    assert high - low > 1.5 * (naive[1] - naive[0])


def test_draws_without_pairs_of_one_kind_are_left_out_and_counted():
    scores, same, first, second = make_pairs(speakers=2)
    figures = measure_scores(scores, same, first, second, draws=400)
    alone = sum((counts == 0).any() for counts in collect(2, 400))
    assert figures["draws_left_out"] == alone and 150 < alone < 250
    assert np.isfinite(figures["eer_interval"]).all()


def test_forty_speakers_and_forty_thousand_trials_take_seconds():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 40, (2, 40_000))
    same = random.random(40_000) < 0.5
    second = np.where(same, first, (first + 1 + second % 39) % 40)
    start = time.monotonic()
    figures = measure_scores(random.standard_normal(40_000) + 2 * same, same, first, second)
    assert time.monotonic() - start < 20  # 1 s on an idle core
    assert figures["eer"] == pytest.approx(0.1587, abs=0.01)  # half of the two normal distributions' distance away
