"""What training minimises. Both objectives predict a magnitude and P(expressed) of masked cells.

Letters: M masked cells, P genes of the panel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from cifm_cli.model.heads import Output
    from cifm_cli.recipe import ObjectiveRecipe


def balanced_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared error of expressed values plus half that of zeros (Eq. 15, one slide).

    Args:
        prediction: (M, P) log-normalised.
        target: (M, P) log-normalised.

    Returns:
        The loss; a half without members is zero.
    """
    squared = (prediction - target).square()
    expressed = target > 0
    halves = [(squared * part).sum() / part.sum().clamp(min=1) for part in (expressed, ~expressed)]
    return (halves[0] + halves[1]) / 2  # Eq. 15


def loss(output: Output, target: Tensor, recipe: ObjectiveRecipe) -> Tensor:
    """The objective a recipe names.

    `balanced_mse` is Eq. 15; `residual` is the mean squared error, whose minimum is the conditional mean. Both add
    the cross-entropy of P(expressed), without which no gradient reaches the second head.

    Args:
        output: Prediction of M cells and P genes.
        target: (M, P) log-normalised.
        recipe: The objective section of a recipe.

    Returns:
        A scalar.
    """
    error = balanced_mse if recipe.name == "balanced_mse" else functional.mse_loss
    expressed = functional.binary_cross_entropy_with_logits(output.logit, (target > 0).to(target.dtype))
    return error(output.magnitude, target) + recipe.expressed_weight * expressed
