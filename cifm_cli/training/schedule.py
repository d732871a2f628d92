"""The learning rate over a run: linear warm-up, then a cosine down to a hundredth of the peak."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cifm_cli.recipe_sections import TrainRecipe

FLOOR = 0.01  # the last learning rate, as a fraction of the peak


def fraction_done(recipe: TrainRecipe, step: int, seconds: float) -> float:
    """Fraction of a run that is over, by steps or by time, whichever is larger.

    Args:
        recipe: The train section.
        step: Steps taken.
        seconds: Training time, which counts only where the recipe has `max_minutes`.

    Returns:
        A number from 0 to 1.
    """
    # With a time limit the cosine reaches its end when the time does, however many steps that allows.
    by_time = seconds / (60 * recipe.max_minutes) if recipe.max_minutes else 0.0
    return min(1.0, max(step / recipe.steps, by_time))


def learning_rate(recipe: TrainRecipe, step: int, fraction: float) -> float:
    """Learning rate of a step.

    Args:
        recipe: The train section.
        step: Steps taken before this one.
        fraction: Fraction of the run that is over, from `fraction_done`.

    Returns:
        The rate.
    """
    # Plus one, so that the rate of the first step is not zero, which would waste a step.
    warmup = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    cosine = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * fraction))
    return recipe.learning_rate * warmup * cosine
