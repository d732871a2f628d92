"""Loss functions of training. Both objectives predict a magnitude and P(expressed) of masked cells.

Letters: M masked cells, P genes of the panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional

from cifm_cli.model.states import nearest_state

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cifm_cli.model.output import Output
    from cifm_cli.recipe_sections import ObjectiveRecipe


def balanced_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared error of expressed values plus half that of zeros (Eq. 15, one slide).

    Args:
        prediction: (M, P) log-normalised.
        target: (M, P) log-normalised.

    Returns:
        The loss; the half that has no entries is zero.
    """
    squared = (prediction - target).square()
    expressed = target > 0
    # The clamp makes a half without entries zero in place of NaN.
    halves = [(squared * group).sum() / group.sum().clamp(min=1) for group in (expressed, ~expressed)]
    return (halves[0] + halves[1]) / 2  # Eq. 15


@dataclass(frozen=True)
class Targets:
    """True expression of masked cells."""

    values: Tensor  # (M, P) log-normalised expression
    counts: Tensor  # (M, P) raw counts

    def to(self, device: torch.device) -> Targets:
        """Copy to a device; returns itself if it is there already."""
        return self if self.values.device == device else Targets(self.values.to(device), self.counts.to(device))


def loss(output: Output, target: Targets, recipe: ObjectiveRecipe) -> Tensor:
    """Loss of the objective that the recipe names.

    `balanced_mse` is Eq. 15; `residual` is the mean squared error, whose minimum is the conditional mean. Both add
    the cross-entropy of P(expressed), without which no gradient reaches the second head; `residual` adds those of the
    composition, per count, and of the cell state, per cell.

    Args:
        output: Prediction for M cells and P genes.
        target: Their true expression.
        recipe: The objective section of a recipe.

    Returns:
        A scalar.
    """
    magnitude_loss = balanced_mse if recipe.name == "balanced_mse" else functional.mse_loss
    # In the type of the values, as the cross-entropy takes no booleans.
    expressed = (target.values > 0).to(target.values.dtype)
    total = magnitude_loss(output.magnitude, target.values)
    total = total + recipe.expressed_weight * functional.binary_cross_entropy_with_logits(output.logit, expressed)
    if output.composition is not None:
        # Per count, not per cell: in a multinomial likelihood deep cells, which carry more information, weigh more.
        cross_entropy = -(target.counts * output.composition.log_softmax(1)).sum() / target.counts.sum().clamp(min=1)
        total = total + recipe.composition_weight * cross_entropy
    if output.state is not None and output.profiles is not None:
        # The true state is assigned by the genes of this panel, like those of the visible cells.
        state = nearest_state(target.values, output.profiles)
        total = total + recipe.states_weight * functional.cross_entropy(output.state, state)
    return total
