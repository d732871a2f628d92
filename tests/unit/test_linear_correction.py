"""The linear correction: its regression, its approximation of low rank, and its part in a network."""

from __future__ import annotations

import numpy as np
import pytest

from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.reduced_ridge import ReducedRidge

PENALTY = 0.02


def draw_regression(
    num_rows: int, num_features: int, num_targets: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets, features of other rows, and the coefficients of NumPy's solution."""
    generator = numpy_generator(0, "ridge", num_rows, num_features)
    features = generator.normal(size=(num_rows, num_features)) * np.linspace(0.2, 3, num_features)
    targets = features @ generator.normal(size=(num_features, num_targets)) + generator.normal(
        size=(num_rows, num_targets)
    )
    gram = features.T @ features
    penalised = gram + PENALTY * np.trace(gram) * np.eye(num_features)
    coefficients = np.linalg.solve(penalised, features.T @ targets)
    others = generator.normal(size=(7, num_features))
    return features.astype(np.float32), targets.astype(np.float32), others.astype(np.float32), coefficients


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize(("num_rows", "num_features"), [(15, 40), (60, 10)])
def test_both_forms_equal_the_ridge_of_numpy(num_rows: int, num_features: int, *, dual: bool) -> None:
    features, targets, others, coefficients = draw_regression(num_rows, num_features)
    ridge = ReducedRidge(features, targets, dual=dual)
    assert ridge.predict(PENALTY, others) == pytest.approx(others @ coefficients, rel=1e-3, abs=1e-3)
    columns = np.array([3, 7])
    assert ridge.predict(PENALTY, others, columns) == pytest.approx(
        others @ coefficients[:, columns], rel=1e-3, abs=1e-3
    )


@pytest.mark.parametrize("dual", [True, False])
def test_the_full_rank_equals_the_ridge(*, dual: bool) -> None:
    """With two groups of targets of the same penalty, and in any units."""
    features, targets, others, coefficients = draw_regression(60, 30)
    scale = np.linspace(0.5, 2, targets.shape[1]).astype(np.float32)
    groups = [(slice(5), PENALTY), (slice(5, None), PENALTY)]
    ridge = ReducedRidge(features, targets, dual=dual)
    reduced, weights = ridge.reduce(groups, scale, targets.shape[1], numpy_generator(0, "start"))
    assert others @ reduced @ weights == pytest.approx(others @ coefficients, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("dual", [True, False])
def test_a_low_rank_is_the_best_approximation_of_the_fitted_values(*, dual: bool) -> None:
    features, targets, _, coefficients = draw_regression(60, 30)
    fitted = features @ coefficients
    left, values, right = np.linalg.svd(fitted, full_matrices=False)
    best = (left[:, :3] * values[:3]) @ right[:3]
    ridge = ReducedRidge(features, targets, dual=dual)
    ones = np.ones(targets.shape[1], np.float32)
    reduced, weights = ridge.reduce([(slice(None), PENALTY)], ones, 3, numpy_generator(0, "start"))
    assert features @ reduced @ weights == pytest.approx(best, abs=0.01 * np.abs(best).max())
