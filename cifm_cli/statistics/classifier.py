"""Multinomial logistic regression on standardised features, with the penalty chosen on held-out cells.

Letters: N cells, F features, K classes.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from sklearn.linear_model import LogisticRegression

    Floats = NDArray[np.float32]
    Codes = NDArray[np.int64]

MAX_ITERATIONS = 300


def mean_and_scale(values: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of every feature.

    Args:
        values: (N, F).

    Returns:
        (F,) means and (F,) standard deviations, 1 for a constant feature.
    """
    deviation = values.std(axis=0)
    return values.mean(axis=0), np.where(deviation > 0, deviation, 1.0).astype(deviation.dtype)


def standardise(values: Floats, mean: Floats, scale: Floats, limit: float = np.inf) -> Floats:
    """Subtract the means and divide by the scales.

    Args:
        values: (N, F).
        mean: (F,).
        scale: (F,), positive.
        limit: Largest absolute value in the result.

    Returns:
        (N, F) float32.
    """
    standardised: Floats = ((values - mean) / scale).astype(np.float32)
    return standardised.clip(-limit, limit) if np.isfinite(limit) else standardised


def fit_logistic(
    features: Floats,
    codes: Codes,
    strength: float,
    *,
    start: LogisticRegression | None = None,
    tolerance: float = 1e-4,
    balanced: bool = False,
) -> LogisticRegression:
    """Fit a classifier.

    Args:
        features: (N, F) standardised.
        codes: (N,) classes.
        strength: Inverse regularisation, scikit-learn's `C`.
        start: Classifier whose weights the fit starts from, where it has the same classes.
        tolerance: Tolerance at which the solver stops. It also stops after `MAX_ITERATIONS`, without a warning; `n_iter_` then
            equals that limit.
        balanced: Whether every class has the same total weight.

    Returns:
        The fitted classifier.
    """
    # Imported here because annotators use `standardise` alone, and scikit-learn takes a second to import.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=strength,
        max_iter=MAX_ITERATIONS,
        tol=tolerance,
        class_weight="balanced" if balanced else None,
        warm_start=True,
    )
    # With `warm_start`, scikit-learn begins at `coef_` and `intercept_` where they exist, also in an unfitted model.
    if start is not None and np.array_equal(start.classes_, np.unique(codes)):
        model.coef_, model.intercept_ = start.coef_.copy(), start.intercept_.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, codes)


def choose_strength(
    strengths: Sequence[float],
    fit: Callable[[float, LogisticRegression | None], LogisticRegression],
    loss: Callable[[LogisticRegression], float],
    *,
    accept_equal: bool = False,
) -> tuple[LogisticRegression, float]:
    """Raise the strength step by step until the loss on held-out cells rises.

    Each fit starts from the weights of the one before: neighbouring strengths have similar solutions, so that a path of
    warm starts costs little more than its last fit.

    Args:
        strengths: Ascending candidates, at least one.
        fit: Fits a classifier, given a strength and the previous classifier (None for the first).
        loss: Loss of a classifier on held-out cells.
        accept_equal: Whether a strength with the same loss as the one before is taken instead of ending the search.

    Returns:
        The classifier with the least loss, and its strength.
    """
    chosen = strengths[0]
    best = fit(chosen, None)
    least = loss(best)
    for strength in strengths[1:]:
        candidate = fit(strength, best)
        candidate_loss = loss(candidate)
        # The loss falls and then rises with the strength, so the search ends at the first rise.
        if candidate_loss > least or (candidate_loss == least and not accept_equal):
            break
        best, chosen, least = candidate, strength, candidate_loss
    return best, chosen


def class_probabilities(model: LogisticRegression, features: Floats, num_classes: int) -> NDArray[np.float64]:
    """Predict probabilities of all classes.

    Args:
        model: Fitted to some of the classes.
        features: (N, F) standardised.
        num_classes: K.

    Returns:
        (N, K) probabilities, 0 for classes that the classifier was not fitted to.
    """
    probabilities = np.zeros((len(features), num_classes))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities


def softmax_weights(model: LogisticRegression) -> tuple[Floats, Floats]:
    """Weights in softmax form; for two classes, scikit-learn stores only those of the second.

    Args:
        model: Fitted to K classes.

    Returns:
        (F, K) weights and (K,) intercepts.
    """
    weights, intercepts = model.coef_.T, model.intercept_
    if len(model.classes_) == 2:
        weights, intercepts = np.hstack([0 * weights, weights]), np.concatenate([0 * intercepts, intercepts])
    return weights.astype(np.float32), intercepts.astype(np.float32)
