"""Errors of a prediction as targets of a regression, and neighbour means as its features.

Letters: Q cells, P genes, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.inference.neighbourhood.blend import RADII
from cifm_cli.inference.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats

    Values = NDArray[np.float32]

MAX_FEATURES = 2_000  # of a ridge: larger panels are represented by their most expressed genes
MAX_COEFFICIENTS = 10_000_000  # of a ridge, for panels with very many genes
_TINY = 1e-12


def ridge_genes(stats: GeneStats, num_targets: int) -> NDArray[np.int64]:
    """The genes whose neighbour means are features of a ridge regression: the most expressed ones, as far as they fit.

    Args:
        stats: Statistics of P genes.
        num_targets: Number of targets for each gene.

    Returns:
        Ascending positions.
    """
    max_features = min(MAX_FEATURES, max(len(RADII), MAX_COEFFICIENTS // (num_targets * len(stats.mean))))
    return np.sort(np.argsort(-stats.mean, kind="stable")[: max_features // len(RADII)])


def mean_features(means: Sequence[Prediction], stats: GeneStats, genes: NDArray[np.int64]) -> Values:
    """(Q, F) differences of the neighbour means from the slide's mean; small numbers, for precision."""
    usual = stats.mean[genes].astype(np.float32)
    return np.concatenate([part.mean[:, genes] - usual for part in means], axis=1)


def errors(expression: csr_matrix, counts: csr_matrix, base: Prediction) -> Values:
    """(Q, 3 P) target minus prediction; the error of a composition is weighted by the counts of the cell.

    Args:
        expression: (Q, P) actual log-normalised expression.
        counts: (Q, P) actual raw counts.
        base: A prediction that has a composition.
    """
    values, number = expression.toarray(), counts.toarray()
    depth = number.sum(axis=1, keepdims=True)
    mean_depth = max(float(depth.mean()), _TINY)
    mean, expressed, composition = parts_of(base)
    found = [values - mean, (values > 0) - expressed, (number - depth * composition) / mean_depth]
    return np.concatenate(found, axis=1, dtype=np.float32)


def add_errors(base: Prediction, predicted_errors: Values, floor: float = 0.0) -> Prediction:
    """Add predicted errors to a prediction; probabilities stay from 0 to 1, and compositions sum to 1.

    Args:
        base: Prediction of Q cells and P genes.
        predicted_errors: (Q, 3 P) from a regression of `errors`.
        floor: Fraction of the prediction that is left at least.

    Returns:
        The corrected prediction.
    """
    mean, expressed, composition = (
        np.maximum(part + error, np.float32(floor) * np.maximum(part, 0))
        for part, error in zip(parts_of(base), np.split(predicted_errors, 3, axis=1), strict=True)
    )
    total = composition.sum(axis=1, keepdims=True)
    return Prediction(mean, np.minimum(expressed, 1), composition / np.maximum(total, np.float32(_TINY)))


def parts_of(prediction: Prediction) -> tuple[Values, Values, Values]:
    """Mean, P(expressed) and composition of a prediction that has all three."""
    if prediction.composition is None:
        raise ValueError("the prediction has no composition")
    return prediction.mean, prediction.expressed, prediction.composition
