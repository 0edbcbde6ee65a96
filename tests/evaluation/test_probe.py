"""The probe: finds the layer that carries the label, is scikit-learn's classifier on one layer, never random."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fairseq_distill.evaluation.probe import L2_GRID, Standardiser, accuracy_interval, choose_probe, fit_probe


def make_features(utterances, carrier, seed, layers=4, width=6, count=3, spread=0.7):
    """Noise in every layer but `carrier`, where the class shifts the features: (features, class numbers)."""
    centres = 2 * np.random.default_rng(99).standard_normal((count, width))
    random = np.random.default_rng(seed)
    classes = random.integers(0, count, utterances)
    features = random.standard_normal((utterances, layers, width))
    features[:, carrier] = spread * features[:, carrier] + centres[classes]
    return features, classes


@pytest.mark.parametrize("carrier", [0, 2, 3])
def test_the_layer_that_carries_the_label_gets_the_weight(carrier):
    train, valid, test = (make_features(n, carrier, seed) for seed, n in enumerate((300, 60, 100)))
    standardise = Standardiser.fit(train[0])
    probe, valid_accuracy = choose_probe((standardise(train[0]), train[1]), (standardise(valid[0]), valid[1]), 3)
    assert probe.layer_weights.argmax() == carrier and probe.layer_weights[carrier] > 0.8
    assert probe.layer_weights.sum() == pytest.approx(1)
    right, _ = probe.score(standardise(test[0]), test[1])
    assert right > 90 and valid_accuracy > 0.9


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_one_layer_is_scikit_learns_logistic_regression(l2):
    features, classes = make_features(300, 0, 5, layers=1, width=12, spread=4.0)
    held_out, held_out_classes = make_features(200, 0, 6, layers=1, width=12, spread=4.0)
    probe = fit_probe(features, classes, 3, l2)
    theirs = LogisticRegression(C=1 / (l2 * len(classes)), tol=1e-8, max_iter=5000).fit(features[:, 0], classes)
    assert 0.5 < theirs.score(held_out[:, 0], held_out_classes) < 1
    ours_p = np.exp(probe.logits(held_out))
    ours_p /= ours_p.sum(1, keepdims=True)
    np.testing.assert_allclose(ours_p, theirs.predict_proba(held_out[:, 0]), atol=2e-3)
    right, loss = probe.score(held_out, held_out_classes)
    log_p = theirs.predict_log_proba(held_out[:, 0])
    assert right == (theirs.predict(held_out[:, 0]) == held_out_classes).sum()
    assert loss == pytest.approx(-log_p[np.arange(200), held_out_classes].mean(), abs=1e-4)


def test_two_runs_are_equal():
    train, valid = make_features(200, 1, 0), make_features(50, 1, 1)
    (one, _), (two, _) = choose_probe(train, valid, 3), choose_probe(train, valid, 3)
    np.testing.assert_array_equal(one.weight, two.weight)
    np.testing.assert_array_equal(one.layer_weights, two.layer_weights)


def test_the_penalty_is_the_best_on_valid():
    """Many noisy dimensions and few utterances: the weakest penalty overfits, and valid says so."""
    train, valid = (make_features(n, 0, seed, layers=1, width=40, spread=6.0) for seed, n in ((0, 60), (1, 400)))
    probe, valid_accuracy = choose_probe(train, valid, 3)
    scores = {l2: fit_probe(*train, 3, l2).score(*valid) for l2 in L2_GRID}
    assert len({right for right, _ in scores.values()}) > 1
    assert scores[probe.l2] == max(scores.values(), key=lambda s: (s[0], -s[1]))
    assert valid_accuracy == scores[probe.l2][0] / 400


def test_standardiser_uses_train_statistics_and_bears_constant_dimensions():
    features = np.random.default_rng(0).normal(3, 5, (50, 2, 4))
    features[:, 1, 2] = 7
    standardise = Standardiser.fit(features)
    out = standardise(features)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-6)
    assert (out[:, 1, 2] == 0).all()
    np.testing.assert_allclose(np.delete(out.reshape(50, 8), 6, axis=1).std(0), 1, atol=1e-6)
    np.testing.assert_allclose(standardise(features + 1) - out, np.broadcast_to(1 / standardise.deviation, out.shape))


def test_wilson_interval():
    # 95 % Wilson interval of 8 out of 10, from its formula with z = 1.959964
    z, p, n = 1.959964, 0.8, 10
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    assert accuracy_interval(8, 10) == pytest.approx(expected, abs=1e-6)
