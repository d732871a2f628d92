"""Scores of predicted probabilities: log loss, calibration error and reliability curves.

Letters: N cells, K classes, B bins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int64]
    Numbers = NDArray[np.float64]

NUM_BINS = 10  # number of bins of the calibration error


def log_loss(probabilities: NDArray[np.floating[Any]], codes: Codes, *, smallest: float) -> Numbers:
    """Log loss of each cell, -log P(actual class), in nats.

    Args:
        probabilities: (N, K).
        codes: (N,) actual classes.
        smallest: Smaller probabilities are raised to this one: one confident mistake must not make a mean infinite.

    Returns:
        (N,) losses.
    """
    actual = probabilities[np.arange(len(codes)), codes].astype(np.float64)
    return np.asarray(-np.log(np.maximum(actual, smallest)))


def log_loss_from_logs(log_probabilities: NDArray[np.floating[Any]], codes: Codes, *, smallest: float = 0.0) -> Numbers:
    """Log loss of each cell, for probabilities that are stored as natural logarithms.

    Args:
        log_probabilities: (N, K).
        codes: (N,) actual classes.
        smallest: Smaller probabilities are raised to this one.

    Returns:
        (N,) losses in nats.
    """
    actual = log_probabilities[np.arange(len(codes)), codes].astype(np.float64)
    return np.asarray(-np.maximum(actual, math.log(smallest)) if smallest > 0 else -actual)


def balanced_weights(codes: Codes) -> Numbers:
    """Weights that give every class the same total weight.

    Args:
        codes: (N,) classes.

    Returns:
        (N,) weights that sum to 1.
    """
    sizes = np.bincount(codes)
    weights: Numbers = 1.0 / (sizes[codes] * (sizes > 0).sum())
    return weights


def calibration_error(confidence: Numbers, correct: NDArray[np.bool_], weights: Numbers | None = None) -> float:
    """Expected calibration error over ten bins of equal width.

    The sum over the bins of |mean confidence - accuracy|, each times the fraction of the total weight in the bin (Guo et al. 2017).

    Args:
        confidence: (N,) probability of the likeliest class.
        correct: (N,) whether the likeliest class is the actual one.
        weights: (N,) weights of the cells with sum 1; equal when absent.

    Returns:
        The error, from 0 to 1.
    """
    # A confidence of 1 belongs to the last bin.
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = confidence - correct
    # In a bin, the gap of the means times the weight is the sum of the weighted gaps of its cells.
    if weights is not None:
        return float(np.abs(np.bincount(bins, weights=gaps * weights)).sum())
    return float(np.abs(np.bincount(bins, weights=gaps)).sum() / len(confidence))


class ReliabilityCurve:
    """Predicted probabilities of an event and its observed frequency, accumulated over batches.

    Args:
        edges: B + 1 ascending edges of the bins, from 0 to 1.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)
        num_bins = len(self.edges) - 1
        self.count, self.predicted, self.observed = (np.zeros(num_bins) for _ in range(3))

    def add(self, probability: NDArray[np.floating[Any]], occurred: NDArray[np.bool_]) -> None:
        """Add a batch of predictions.

        Args:
            probability: Predicted probabilities, of any shape.
            occurred: Whether the event occurred, of the same shape.
        """
        flat, num_bins = probability.ravel(), len(self.count)
        # A probability of exactly 1, or slightly above by rounding, belongs to the last bin.
        bins = np.clip(np.searchsorted(self.edges, flat, side="right") - 1, 0, num_bins - 1)
        self.count += np.bincount(bins, minlength=num_bins)
        self.predicted += np.bincount(bins, weights=flat, minlength=num_bins)
        self.observed += np.bincount(bins, weights=occurred.ravel(), minlength=num_bins)

    @property
    def mean_predicted(self) -> float:
        """Mean predicted probability."""
        return float(self.predicted.sum() / self.count.sum())

    @property
    def mean_observed(self) -> float:
        """Fraction of the predictions for which the event occurred."""
        return float(self.observed.sum() / self.count.sum())

    @property
    def calibration_error(self) -> float:
        """Mean of |mean probability - observed frequency| over the bins, weighted by the number of predictions."""
        return float(np.abs(self.predicted - self.observed).sum() / self.count.sum())

    def points(self) -> tuple[list[int], list[float], list[float]]:
        """Number of predictions, mean probability and observed frequency of each bin that is not empty."""
        filled = self.count > 0
        count = self.count[filled]
        return (
            count.astype(int).tolist(),
            (self.predicted[filled] / count).tolist(),
            (self.observed[filled] / count).tolist(),
        )
