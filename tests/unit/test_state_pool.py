"""The pool of cell states: its weights, their gradient, and the probabilities that follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize
from scipy.special import softmax

from cifm_cli.inference.adaptation import state_pool
from cifm_cli.inference.adaptation.state_pool import PRIOR_CELLS, fit_state_pool, pool_inputs, pool_states
from cifm_cli.provenance import numpy_generator

NUM_CELLS, NUM_TERMS, NUM_STATES = 6_000, 2, 5


def draw(weights: np.ndarray, num_cells: int = NUM_CELLS) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of network and terms, and states drawn from their pool with the given weights."""
    generator = numpy_generator(0, "states")
    parts = generator.dirichlet(np.ones(NUM_STATES), (num_cells, 1 + NUM_TERMS)).astype(np.float32)
    inputs = pool_inputs(parts[:, 0], parts[:, 1:])
    probability = softmax(np.einsum("mtk,t->mk", inputs, weights), axis=1)
    states = (probability.cumsum(axis=1) < generator.uniform(size=(num_cells, 1))).sum(axis=1)
    return inputs, np.minimum(states, NUM_STATES - 1)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.4, 0.8, 0.3), (0.0, 1.5, 0.0)])
def test_the_weights_of_the_states_are_recovered(weights: tuple[float, ...]) -> None:
    assert fit_state_pool(*draw(np.array(weights))) == pytest.approx(np.array(weights), abs=0.08)


def test_the_gradient_agrees_with_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[Callable[[np.ndarray], tuple[float, np.ndarray]]] = []

    def record(loss: Any, start: np.ndarray, **options: Any) -> Any:
        losses.append(loss)
        return minimize(loss, start, **options)

    monkeypatch.setattr(state_pool, "minimize", record)
    fit_state_pool(*draw(np.array([0.4, 0.8, 0.3]), 50))
    for point in ([1.0, 0.0, 0.0], [-0.5, 0.7, 2.0]):
        assert check_grad(lambda x: losses[0](x)[0], lambda x: losses[0](x)[1], point) < 1e-3


def test_few_cells_leave_the_network_alone() -> None:
    inputs, states = draw(np.array([0.0, 1.5, 0.0]))
    far = [np.abs(fit_state_pool(inputs[:n], states[:n]) - [1, 0, 0]).max() for n in (0, 1, round(PRIOR_CELLS), 5_000)]
    assert far[0] == pytest.approx(0, abs=1e-6)
    assert far == sorted(far)
    assert far[-1] > 1


def test_probabilities_are_a_product_of_powers() -> None:
    """Worked out by hand: (1/4, 3/4) to the power 2, times (2/3, 1/3), is in the ratio 2 : 9."""
    inputs = pool_inputs(np.array([[0.25, 0.75]], np.float32), np.array([[[2 / 3, 1 / 3]]], np.float32))
    assert pool_states(inputs, np.array([2.0, 1.0])) == pytest.approx(np.array([[2, 9]]) / 11, rel=1e-5)
    assert pool_states(inputs, np.array([1.0, 0.0])) == pytest.approx(np.array([[0.25, 0.75]]), rel=1e-5)


def test_a_state_that_no_cell_around_has_stays_possible() -> None:
    inputs = pool_inputs(np.array([[0.5, 0.5]], np.float32), np.array([[[1.0, 0.0]]], np.float32))
    found = pool_states(inputs, np.array([1.0, 1.0]))
    assert np.isfinite(inputs).all()
    assert 0 < found[0, 1] < 1e-6
