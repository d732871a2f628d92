"""Ridge regression from sums equals the solution of NumPy for all cells at once."""

from __future__ import annotations

import numpy as np
import pytest

from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.ridge import RidgeSolver, RidgeSums, solver_of_cells

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


@pytest.mark.parametrize("num_cells", [4, NUM_CELLS])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_the_equations_of_the_cells_have_the_solution_of_those_of_the_features(
    cells: tuple[np.ndarray, np.ndarray], num_cells: int, penalty: float
) -> None:
    """With fewer cells than features, and with more; compared with NumPy in double precision."""
    x, y = (values[:num_cells].astype(np.float64) for values in cells)
    centred = x - x.mean(axis=0)
    penalised = centred.T @ centred + num_cells * penalty * x.var(axis=0).mean() * np.eye(NUM_FEATURES)
    expected = np.linalg.solve(penalised, centred.T @ (y - y.mean(axis=0)))
    solver = solver_of_cells(cells[0][:num_cells], cells[1][:num_cells].copy())
    assert solver.coefficients(penalty) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    new = cells[0] + 1
    predicted = (new - x.mean(axis=0)) @ expected + y.mean(axis=0)
    assert solver.predict(new, penalty) == pytest.approx(predicted, rel=1e-4, abs=1e-4)


def test_constant_features_of_cells_predict_the_mean() -> None:
    constant, targets = np.ones((5, 7), np.float32), np.arange(5, dtype=np.float32)[:, None]
    assert solver_of_cells(constant, targets).predict(constant, 1.0) == pytest.approx(np.full((5, 1), 2.0))


@pytest.mark.parametrize("of_cells", [False, True])
def test_linear_functions_of_the_targets_are_predicted_as_such(
    cells: tuple[np.ndarray, np.ndarray], *, of_cells: bool
) -> None:
    x, y = cells
    solver = solver_of_cells(x, y.copy()) if of_cells else fit(x, y)
    function = np.array([[1.0, 0.0], [-2.0, 0.0], [0.5, 3.0]], np.float32)
    mapped = solver.map_targets(lambda values: values @ function)
    assert mapped.predict(x, 0.5) == pytest.approx(solver.predict(x, 0.5) @ function, rel=1e-4, abs=1e-4)
    assert np.abs(mapped.predict(x, 0.5) - mapped.y_mean).max() > 1, "nothing is predicted beyond the mean"
