"""Weights with which an adapted model mixes its predictions, fitted to cells that nothing else was fitted to.

The prediction is

    profile + w_blend (blend - profile) + w_smoother (smoother - blend) + w_correction (network - smoother),

with the profile of the slide's cells, the blend of neighbour means, the network's smoother and its corrected prediction. It is
linear in the weights. The squared error of a mean and the log loss of a probability are therefore convex in them.

Letters: M cells, P genes, D differences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Values = NDArray[np.float32]
    Floats = NDArray[np.float64]

# A correction that was shrunk for other slides may be too small for this one.
MAX_WEIGHT = 6.0
# Fraction of the slide's composition in every expectation, as in the deviance of an evaluation
COMPOSITION_FLOOR = 0.05
_SMALLEST_PROBABILITY = 1e-4
_TINY = 1e-12


class Weights(NamedTuple):
    """Weights of one output."""

    blend: float  # of the difference between blend and profile
    smoother: float  # of what the smoother predicts differently from the blend
    correction: float  # of what the network predicts differently from the smoother


RIDGE_WEIGHTS = Weights(1.0, 0.0, 0.0)  # the blend alone, as in the baseline `ridge`
NETWORK_WEIGHTS = Weights(1.0, 1.0, 1.0)  # the network's own prediction
BOUNDS = ((0.0, 1.0), (0.0, MAX_WEIGHT), (0.0, MAX_WEIGHT))


def fit_mean(differences: Values, target: Values) -> tuple[float, Weights]:
    """Fit weights by squared error.

    Args:
        differences: (D, n) values of the differences.
        target: (n,) actual values minus the profile.

    Returns:
        Sum of squared errors, and the weights.
    """
    gram, moment = (differences @ differences.T).astype(np.float64), (differences @ target).astype(np.float64)
    squares = float(np.square(target).sum(dtype=np.float64))

    def loss(weights: Floats) -> tuple[float, Floats]:
        left = gram @ weights
        return float(squares + weights @ (left - 2 * moment)), 2 * (left - moment)

    return _minimise(loss)


def fit_expressed(differences: Values, profile: Values, is_expressed: NDArray[np.bool_]) -> tuple[float, Weights]:
    """Fit weights by the log loss of probabilities.

    Args:
        differences: (D, n) values of the differences.
        profile: (n,) probabilities of the profile.
        is_expressed: (n,) whether the gene is expressed.

    Returns:
        Sum of the cross-entropies, and the weights.
    """
    sign = np.where(is_expressed, np.float32(1), np.float32(-1))
    start = np.where(is_expressed, profile, 1 - profile)

    def loss(weights: Floats) -> tuple[float, Floats]:
        # Probability of what is the case
        likelihood = start + sign * (weights.astype(np.float32) @ differences)
        inside = (likelihood > _SMALLEST_PROBABILITY) & (likelihood < 1 - _SMALLEST_PROBABILITY)
        np.clip(likelihood, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY, out=likelihood)
        slope = np.where(inside, -sign / likelihood, np.float32(0))
        return -float(np.log(likelihood).sum(dtype=np.float64)), (differences @ slope).astype(np.float64)

    return _minimise(loss)


def fit_composition(differences: Values, profile: Values, counts: Values) -> tuple[float, Weights]:
    """Fit weights by the log loss of compositions.

    Args:
        differences: (D, n) values of the differences, of genes that were counted.
        profile: (n,) fractions of the profile.
        counts: (n,) counts.

    Returns:
        Sum of the cross-entropies, and the weights.
    """

    def loss(weights: Floats) -> tuple[float, Floats]:
        fraction = profile + weights.astype(np.float32) @ differences
        expected = (1 - COMPOSITION_FLOOR) * np.maximum(fraction, 0) + COMPOSITION_FLOOR * profile + np.float32(_TINY)
        slope = np.where(fraction > 0, -(1 - COMPOSITION_FLOOR) * counts / expected, 0).astype(np.float32)
        return -float((counts * np.log(expected)).sum(dtype=np.float64)), (differences @ slope).astype(np.float64)

    return _minimise(loss)


def _minimise(loss: Callable[[Floats], tuple[float, Floats]]) -> tuple[float, Weights]:
    """Minimise a convex loss from the weights of the ridge, so that it is never above that of the ridge."""
    start = np.asarray(RIDGE_WEIGHTS)
    scale = max(abs(loss(start)[0]), _TINY)  # the stopping rule of the solver is not relative in its gradient

    def scaled(weights: Floats) -> tuple[float, Floats]:
        value, gradient = loss(weights)
        return value / scale, gradient / scale

    found = minimize(scaled, start, jac=True, method="L-BFGS-B", bounds=BOUNDS, options={"gtol": 1e-7})
    return float(found.fun) * scale, Weights(*found.x.tolist())
