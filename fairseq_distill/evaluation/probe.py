"""The linear probe: softmax-weighted sum of layers and a linear classifier, trained jointly on pooled features.

Features are standardised first: each dimension of each layer to mean 0 and variance 1 over the training utterances, so
that no layer wins by its scale. What is minimised, over the layer logits a, the matrix W and the bias b, is

    mean over utterances of cross-entropy(softmax((sum over l of softmax(a)[l] x[l]) W + b), label)  +  l2 / 2 |W|^2

by L-BFGS on all utterances at once, in double precision, from a = W = b = 0: nothing is drawn at random. With a single
layer this is scikit-learn's LogisticRegression with C = 1 / (l2 * utterances).
"""

import logging
from dataclasses import dataclass
from typing import List, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import binomtest
from tqdm import tqdm

logger = logging.getLogger(__name__)

L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
MAX_ITERATIONS = 1000


@dataclass
class Standardiser:
    """Mean and standard deviation of each dimension of each layer, both (layers + 1, width)."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> "Standardiser":
        """Take the statistics of (utterances, layers + 1, width); a constant dimension keeps the deviation 1."""
        deviation = features.std(axis=0, dtype=np.float64)
        return cls(features.mean(axis=0, dtype=np.float64), np.where(deviation > 1e-8, deviation, 1.0))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Standardise (utterances, layers + 1, width) -> the same shape, float64."""
        return (features - self.mean) / self.deviation


@dataclass
class Probe:
    """A trained probe.

    Attributes:
        layer_weights: (layers + 1,), positive, sum 1.
        weight: (width, classes).
        bias: (classes,).
        l2: strength of the penalty it was trained under.
    """

    layer_weights: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    l2: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Standardised features (utterances, layers + 1, width) -> (utterances, classes)."""
        return np.einsum("l,nlw->nw", self.layer_weights, features) @ self.weight + self.bias

    def score(self, features: np.ndarray, classes: np.ndarray) -> Tuple[int, float]:
        """(number of utterances classified right, mean cross-entropy in nats); classes are numbers, (utterances,)."""
        logits = self.logits(features)
        loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(classes))
        return int((logits.argmax(axis=1) == classes).sum()), float(loss)


def fit_probe(features: np.ndarray, classes: np.ndarray, count: int, l2: float) -> Probe:
    """Train layer weights and classifier together.

    Args:
        features: (utterances, layers + 1, width), standardised.
        classes: (utterances,) integers from 0 to count - 1.
        count: number of classes.
        l2: strength of the penalty on the classifier's matrix.
    """
    utterances, layers, width = features.shape
    # layers first, so that the weighted sum is one product with a matrix that is contiguous
    by_layer = torch.from_numpy(features.transpose(1, 0, 2).reshape(layers, utterances * width))
    target = torch.from_numpy(classes)
    sizes = (layers, width * count, count)

    def loss_and_gradient(values: np.ndarray) -> Tuple[float, np.ndarray]:
        parameters = torch.from_numpy(values).requires_grad_()
        layer_logits, weight, bias = parameters.split(sizes)
        mixed = (layer_logits.softmax(0) @ by_layer).view(utterances, width)
        loss = F.cross_entropy(mixed @ weight.view(width, count) + bias, target) + l2 / 2 * weight.square().sum()
        (gradient,) = torch.autograd.grad(loss, parameters)
        return loss.item(), gradient.numpy()

    # where one layer wins, its logit grows without end for ever smaller gains: 1e-7 of the loss ends that
    options = {"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS, "ftol": 1e-7, "gtol": 1e-6}
    found = minimize(loss_and_gradient, np.zeros(sum(sizes)), jac=True, method="L-BFGS-B", options=options)
    if not found.success:
        logger.warning(f"the probe with l2 = {l2:g} has not converged in {found.nit} iterations: {found.message}")
    layer_logits, weight, bias = np.split(found.x, np.cumsum(sizes)[:-1])
    return Probe(softmax(layer_logits), weight.reshape(width, count), bias, l2)


def choose_probe(
    train: Tuple[np.ndarray, np.ndarray], valid: Tuple[np.ndarray, np.ndarray], count: int
) -> Tuple[Probe, float]:
    """Train a probe for each strength in `L2_GRID` and keep the best on the validation set.

    Best is the highest accuracy, among equals the lowest cross-entropy. Each set is (standardised features, class
    numbers), of `count` classes. Returns the probe and its accuracy on the validation set.
    """
    tried: List[Tuple[int, float, Probe]] = []
    for l2 in tqdm(L2_GRID, desc="probe, each strength of the penalty", unit="fit"):
        probe = fit_probe(*train, count, l2)
        right, loss = probe.score(*valid)
        tried.append((right, -loss, probe))
    right, _, best = max(tried, key=lambda found: found[:2])
    return best, right / len(valid[1])


def accuracy_interval(right: int, utterances: int) -> Tuple[float, float]:
    """95 % interval (Wilson) of an accuracy, taking the utterances as independent."""
    interval = binomtest(right, utterances).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
