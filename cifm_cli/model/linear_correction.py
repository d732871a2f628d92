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
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.recipe_sections import ObjectiveRecipe

LINEAR = "linear."  # prefix of the tensors of `LinearCorrection` in files
# Errors are fitted in units that carry over to slides of another depth: those of probabilities as changes of the logit, those
# of compositions as changes of the logarithm. Genes that hardly any cell expresses have a bounded slope.
SMALL_VARIANCE = 0.1  # added to the variance of "is expressed"
SMALL_SHARE = 1.0  # added to the fraction of the counts, in units of the fraction of a mean gene
MAX_CHANGE = 2.3  # of a logit or logarithm: a factor of about ten


class Corrections(NamedTuple):
    """What is added to the estimates of a smoother."""

    mean: Tensor  # (M, P) to the mean log-normalised expression
    logit: Tensor  # (M, P) to the logit of P(expressed)
    composition: Tensor  # (M, P) to the logarithm of the fraction of the counts in each gene


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
        mean, logit, composition = (features @ self.outputs[:, :, genes]).unbind()
        return bounded(mean, logit, composition)

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


def bounded(mean: Tensor, logit: Tensor, composition: Tensor) -> Corrections:
    """Limit corrections of logits and logarithms, so that nothing becomes impossible."""
    return Corrections(mean, logit.clamp(-MAX_CHANGE, MAX_CHANGE), composition.clamp(-MAX_CHANGE, MAX_CHANGE))


def linear_errors(
    values: Tensor, counts: Tensor, estimates: Corrections, slide: SlideParameters, mean_depth: float
) -> Tensor:
    """Errors of a smoother that a linear correction is fitted to.

    Args:
        values: (M, P) true log-normalised expression.
        counts: (M, P) true counts.
        estimates: Mean, logit of P(expressed), and logarithm of the composition, up to a constant, of the smoother.
        slide: Parameters of the slide.
        mean_depth: Mean number of counts of the cells of the slide; deeper cells have larger weights in the composition.

    Returns:
        (M, 3, P), in the order of `Corrections`.
    """
    variance = slide.expressed * (1 - slide.expressed)
    fractions = counts.sum(1, keepdim=True) * estimates.composition.softmax(1)
    return torch.stack(
        [
            values - estimates.mean,
            ((values > 0).to(values.dtype) - estimates.logit.sigmoid()) / (variance + SMALL_VARIANCE),
            (counts - fractions) / (mean_depth * (slide.composition + SMALL_SHARE / slide.num_genes)),
        ],
        dim=1,
    )
