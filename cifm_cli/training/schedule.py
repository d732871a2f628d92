"""Learning rate over a run: linear warm-up, then a cosine down to a hundredth of the peak."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cifm_cli.recipe_sections import TrainRecipe

FLOOR = 0.01


def progress(recipe: TrainRecipe, step: int, seconds: float) -> float:
    """How much of a run is over.

    Args:
        recipe: The train section.
        step: Steps done.
        seconds: Training time so far; it counts only where the recipe has `max_minutes`.

    Returns:
        A share; 1 when the steps, or the minutes, are used up.
    """
    time_share = seconds / (60 * recipe.max_minutes) if recipe.max_minutes else 0.0
    return min(1.0, max(step / recipe.steps, time_share))


def learning_rate(recipe: TrainRecipe, step: int, done: float) -> float:
    """Learning rate of a step.

    Args:
        recipe: The train section.
        step: Steps done before this one.
        done: Share of the run that is over, from `progress`.

    Returns:
        The rate.
    """
    warm = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    cosine = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))
    return recipe.learning_rate * warm * cosine
