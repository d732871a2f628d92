"""Cell states of the model: assignment of cells, frequencies by hand, and recovery of planted states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random_array

from cifm_cli.model.masking import to_expression
from cifm_cli.model.smoother import reliability_of, sum_neighbours
from cifm_cli.model.states import (
    CELLS_PER_STATE,
    PRIOR_MASS,
    assign_states,
    fit_states,
    nearest_state,
    state_frequencies,
)
from cifm_cli.recipe_sections import ObjectiveRecipe

PROFILES = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 4.0]])


def test_cells_go_to_the_nearest_profile() -> None:
    cells = np.array([[1.5, 0.0, 0.1], [0.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    sparse = to_expression(csr_matrix(cells), np.array([7, 5, 9]), torch.float32)
    assert assign_states(sparse, PROFILES).tolist() == [0, 1, 2]
    assert nearest_state(torch.from_numpy(cells), PROFILES).tolist() == [0, 1, 2]


@pytest.mark.parametrize("genes", [[0, 1, 2, 3, 4, 5], [4, 1, 3]])
def test_both_assignments_to_states_agree_on_any_panel(genes: list[int]) -> None:
    generator = np.random.default_rng(0)
    cells = csr_matrix(random_array((200, len(genes)), density=0.5, rng=generator))
    profiles = torch.from_numpy(generator.uniform(0, 1, (3, 6))).float()[:, genes]
    found = assign_states(to_expression(cells, np.array(genes), torch.float32), profiles)
    expected = ((cells.toarray()[:, None] - profiles.numpy()) ** 2).sum(2).argmin(1)
    assert found.tolist() == expected.tolist()
    assert nearest_state(torch.from_numpy(cells.toarray()), profiles).tolist() == expected.tolist()


def test_frequencies_by_hand() -> None:
    """Neighbours have states 0 and 2; the prior of a scale is the next wider one, that of the widest the whole slide."""
    recipe = ObjectiveRecipe(scales=(1.0, 2.0), cutoff=3.0)
    xy_um, counts = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([90.0, 10.0])
    some = csr_matrix(np.ones((2, 3)))
    around = sum_neighbours(np.zeros((1, 2)), xy_um, some, some, reliability_of(counts), recipe)
    found = state_frequencies(around, torch.tensor([0, 2]), torch.tensor([0.5, 0.3, 0.2]))[0]
    expected = [np.array([0.5, 0.3, 0.2])]
    for scale in (2.0, 1.0):
        a, b = np.exp(-0.5 / scale**2) * 0.9, np.exp(-2 / scale**2) * 0.5
        expected.append((np.array([a, 0, b]) + PRIOR_MASS * expected[-1]) / (a + b + PRIOR_MASS))
    assert found.numpy() == pytest.approx(np.stack([expected[2], expected[1], expected[0]]), rel=1e-5)


def test_planted_states_are_recovered() -> None:
    generator = np.random.default_rng(1)
    planted = generator.uniform(0, 3, (4, 12)) * (generator.random((4, 12)) < 0.5)
    label = np.repeat(np.arange(4), [400, 300, 200, 100])
    cells = csr_matrix(np.maximum(planted[label] + generator.normal(0, 0.1, (1000, 12)), 0))
    profiles, frequency = fit_states(cells, 4, seed=0)
    order = [int(np.square(profiles.numpy() - state).sum(1).argmin()) for state in planted]
    assert sorted(order) == [0, 1, 2, 3]
    assert profiles[order].numpy() == pytest.approx(planted, abs=0.08)
    assert frequency[order].numpy() == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.01)


@pytest.mark.parametrize(("num_cells", "num_states"), [(0, 1), (1, 1), (3 * CELLS_PER_STATE, 3), (500, 5)])
def test_small_tissues_have_few_states(num_cells: int, num_states: int) -> None:
    cells = csr_matrix(random_array((num_cells, 12), density=0.5, rng=np.random.default_rng(0)))
    profiles, frequency = fit_states(cells, 5, seed=0)
    assert profiles.shape == (num_states, 12)
    assert frequency.sum().item() == pytest.approx(1)
    assert frequency.min() > 0, "a frequency is zero, so its logarithm is not finite"
