"""Objectives and learning-rate schedule, computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli.model.objective import Targets, balanced_mse, loss
from cifm_cli.model.output import Output
from cifm_cli.recipe_sections import ObjectiveRecipe, TrainRecipe
from cifm_cli.training.schedule import FLOOR, fraction_done, learning_rate

TARGET = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
PREDICTION = torch.tensor([[1.0, 1.5], [0.0, 2.0]])


def test_balanced_mse_by_hand() -> None:
    # expressed: (2 - 1.5)^2 / 1; zeros: (1 + 0 + 4) / 3
    assert balanced_mse(PREDICTION, TARGET).item() == pytest.approx(0.5 * 0.25 + 0.5 * 5 / 3)


@pytest.mark.parametrize("target", [torch.zeros(2, 2), torch.ones(2, 2)])
def test_balanced_mse_with_one_half_empty(target: torch.Tensor) -> None:
    assert balanced_mse(target + 2, target).item() == pytest.approx(0.5 * 4)


def test_balanced_mse_of_the_truth_is_zero() -> None:
    assert balanced_mse(TARGET, TARGET).item() == 0


@pytest.mark.parametrize(("name", "error"), [("balanced_mse", 0.5 * 0.25 + 0.5 * 5 / 3), ("residual", 5.25 / 4)])
def test_both_objectives_add_the_cross_entropy(name: str, error: float) -> None:
    recipe = ObjectiveRecipe(name=name, expressed_weight=2.0)
    output = Output(PREDICTION, torch.zeros(2, 2))
    assert loss(output, Targets(TARGET, TARGET), recipe).item() == pytest.approx(error + 2 * math.log(2))


def test_composition_and_state_by_hand() -> None:
    """Per count and per cell: 2 of 3 counts in a gene with probability 3/4; the cell is nearest to the second state."""
    recipe = ObjectiveRecipe(expressed_weight=0.0, composition_weight=2.0, states_weight=3.0)
    values = torch.tensor([[0.0, 2.0]])
    output = Output(
        values,
        torch.zeros(1, 2),
        composition=torch.tensor([[0.0, math.log(3)]]),
        state=torch.tensor([[math.log(4), 0.0]]),
        profiles=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    )
    expected = 2 * -(2 * math.log(3 / 4) + math.log(1 / 4)) / 3 + 3 * math.log(5)
    assert loss(output, Targets(values, torch.tensor([[1.0, 2.0]])), recipe).item() == pytest.approx(expected)


def test_every_head_gets_a_gradient() -> None:
    output = Output(PREDICTION.clone().requires_grad_(), torch.zeros(2, 2, requires_grad=True))
    loss(output, Targets(TARGET, TARGET), ObjectiveRecipe()).backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in output[:2])


def test_schedule() -> None:
    recipe = TrainRecipe(steps=1_000, learning_rate=1e-3, warmup_steps=9, max_minutes=10)
    assert learning_rate(recipe, 0, 0.0) == pytest.approx(1e-4)
    assert learning_rate(recipe, 9, 0.0) == pytest.approx(1e-3)
    assert learning_rate(recipe, 500, 0.5) == pytest.approx(1e-3 * (FLOOR + (1 - FLOOR) / 2))
    assert learning_rate(recipe, 999, 1.0) == pytest.approx(1e-3 * FLOOR)
    assert fraction_done(recipe, 100, 0.0) == pytest.approx(0.1)
    assert fraction_done(recipe, 100, 300.0) == pytest.approx(0.5), "the time used counts as well"
    assert fraction_done(recipe, 5_000, 0.0) == 1


@given(step=st.integers(0, 1_000), seconds=st.floats(0, 1e6))
def test_fraction_done_is_between_0_and_1(step: int, seconds: float) -> None:
    assert 0 <= fraction_done(TrainRecipe(steps=1_000, max_minutes=1), step, seconds) <= 1
