"""A linear map from the means of all genes around a query to the errors of the smoother, fitted in closed form.

It is fitted to all training slides together before the first step and not trained by gradients, so that a network starts
where a ridge regression ends.

Letters: M queries, S scales of the smoother, G genes of the vocabulary, P of the panel, r rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from cifm_cli.recipe_sections import ObjectiveRecipe

LINEAR = "linear."  # prefix of the tensors of `LinearCorrection` in files
# A fraction of the counts is changed by at most this factor: the error of a rare gene may exceed its estimate.
MAX_RATIO = 10.0


class Corrections(NamedTuple):
    """What is added to the estimates of a smoother."""

    mean: Tensor  # (M, P) to the mean log-normalised expression
    expressed: Tensor  # (M, P) to P(expressed)
    composition: Tensor  # (M, P) to the fraction of the counts in each gene


class LinearCorrection(nn.Module):
    """Map of rank r, as buffers. It starts at zero.

    Args:
        num_genes: G.
        recipe: Scales and rank.
    """

    reduce: Tensor  # (S, G, r) from the differences between the means and those of the slide to r features
    outputs: Tensor  # (3, r, G) from the features to the `Corrections`, in their order

    def __init__(self, num_genes: int, recipe: ObjectiveRecipe) -> None:
        super().__init__()
        rank = recipe.linear_rank
        # The rank does not depend on the number of genes, so that a vocabulary can grow; columns that are not used are zero.
        self.register_buffer("reduce", torch.zeros(len(recipe.scales), num_genes, rank))
        self.register_buffer("outputs", torch.zeros(len(Corrections._fields), rank, num_genes))

    def forward(self, differences: Tensor, genes: Tensor) -> Corrections:
        """Compute the corrections of M queries.

        Args:
            differences: (M, S, P) means around the queries minus those of the slide.
            genes: (P,) vocabulary rows of the panel.

        Returns:
            The corrections.
        """
        features = differences.flatten(1) @ self.reduce[:, genes].flatten(0, 1)
        return Corrections(*(features @ self.outputs[:, :, genes]).unbind())

    @torch.no_grad()
    def fill(self, reduce: Tensor, outputs: Tensor) -> None:
        """Store a fitted map.

        Args:
            reduce: (S, G, q) with q <= r.
            outputs: (3, q, G).
        """
        rank = reduce.shape[2]
        self.reduce.zero_()
        self.outputs.zero_()
        self.reduce[:, :, :rank] = reduce
        self.outputs[:, :rank] = outputs


def correct_composition(logs: Tensor, correction: Tensor) -> Tensor:
    """Add to fractions that are given as logarithms.

    Args:
        logs: (M, P) logarithms of fractions, up to a constant for each query.
        correction: (M, P) what is added to the fractions.

    Returns:
        (M, P) logarithms of the new fractions, up to a constant.
    """
    ratio = 1 + correction / logs.softmax(1)
    # A gene that was counted nearby stays possible.
    return logs + ratio.clamp(1 / MAX_RATIO, MAX_RATIO).log()
