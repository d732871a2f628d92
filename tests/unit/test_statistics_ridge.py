"""Ridge regression from sums equals the solution of NumPy for all cells at once."""

from __future__ import annotations

import numpy as np
import pytest

from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.ridge import RidgeSolver, RidgeSums

NUM_CELLS, NUM_FEATURES, NUM_TARGETS = 90, 6, 3


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray]:
    """Features of unequal variance, and targets that depend on them; the means of neither are zero."""
    generator = numpy_generator(0, "ridge")
    x = generator.normal(size=(NUM_CELLS, NUM_FEATURES)) * np.linspace(0.3, 2, NUM_FEATURES) + 1
    y = x @ generator.normal(size=(NUM_FEATURES, NUM_TARGETS)) + generator.normal(size=(NUM_CELLS, NUM_TARGETS)) + 5
    return x.astype(np.float32), y.astype(np.float32)


def fit(x: np.ndarray, y: np.ndarray, batches: int = 1) -> RidgeSolver:
    sums = RidgeSums(x.shape[1], y.shape[1])
    for part in np.array_split(np.arange(len(x)), batches):
        sums.add(x[part], y[part])
    return sums.solver()


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_the_solution_is_that_of_numpy(cells: tuple[np.ndarray, np.ndarray], penalty: float) -> None:
    """Without a penalty on the intercept, and with one in units of the mean variance of a feature."""
    x, y = (values.astype(np.float64) for values in cells)
    centred = x - x.mean(axis=0)
    penalised = centred.T @ centred + NUM_CELLS * penalty * x.var(axis=0).mean() * np.eye(NUM_FEATURES)
    expected = np.linalg.solve(penalised, centred.T @ (y - y.mean(axis=0)))
    solver = fit(*cells)
    assert solver.coefficients(penalty) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert solver.predict(cells[0], penalty) == pytest.approx(centred @ expected + y.mean(axis=0), rel=1e-4)


def test_batches_of_any_size_give_the_same_solution(cells: tuple[np.ndarray, np.ndarray]) -> None:
    whole, parts = (fit(*cells, batches).coefficients(0.1) for batches in (1, 7))
    assert parts == pytest.approx(whole, rel=1e-4, abs=1e-5)


def test_a_high_penalty_leaves_the_mean_of_the_targets(cells: tuple[np.ndarray, np.ndarray]) -> None:
    found = fit(*cells).predict(cells[0], 1e9)
    assert found == pytest.approx(np.tile(cells[1].mean(axis=0), (NUM_CELLS, 1)), rel=1e-5)


def test_units_of_the_features_do_not_change_the_prediction(cells: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = cells
    assert fit(1000 * x, y).predict(1000 * x, 1.0) == pytest.approx(fit(x, y).predict(x, 1.0), rel=1e-4)


def test_features_without_variance_predict_the_mean() -> None:
    """Also from no cell at all, where the mean is zero."""
    constant = np.ones((5, 2), np.float32)
    targets = np.arange(5, dtype=np.float32)[:, None]
    assert fit(constant, targets).predict(constant, 1.0) == pytest.approx(np.full((5, 1), 2.0))
    assert not fit(constant[:0], targets[:0]).predict(constant, 1.0).any()
