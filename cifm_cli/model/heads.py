"""Heads: from the decoder's features of the inferred cells to what is predicted of them.

Letters: M inferred cells, G genes of the vocabulary, P of the panel, D features, S scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifm_cli.model.gene_maps import GeneOutput
from cifm_cli.model.layer import VoidNorm
from cifm_cli.model.smoother import Smoother

if TYPE_CHECKING:
    from cifm_cli.model.masking import MaskedTile
    from cifm_cli.recipe import Recipe


class Output(NamedTuple):
    """What every objective predicts for M masked cells and P genes.

    Args:
        magnitude: (M, P) log-normalised expression; negative values mean zero.
        logit: (M, P) logit of P(expressed).
    """

    magnitude: Tensor
    logit: Tensor


class PlainHead(nn.Module):
    """Magnitude and P(expressed) straight from the decoder's features, as in the paper.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        self.norm = VoidNorm() if recipe.model.norm else nn.Identity()
        self.magnitude = GeneOutput(recipe.model.width, num_genes, zero=False)
        self.logit = GeneOutput(recipe.model.width, num_genes, zero=False)

    def forward(self, h: Tensor, tile: MaskedTile, gene_weight: Tensor) -> Output:
        """Predict the masked cells of the core.

        Args:
            h: (M, D) their decoder features.
            tile: Where they are.
            gene_weight: (G, D) weights of the gene input; not used here.

        Returns:
            Prediction for the panel.
        """
        del gene_weight
        h = self.norm(h)
        return Output(self.magnitude(h, tile.genes), self.logit(h, tile.genes))


class ResidualHead(nn.Module):
    """A smoother of the visible cells, plus a correction that starts at zero.

    The correction reads the decoder's features and, through the gene input's own weights, the means at every scale.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        width, num_scales = recipe.model.width, len(recipe.objective.scales)
        self.smoother = Smoother(num_genes, recipe.objective)
        self.norm = VoidNorm()
        self.features = nn.Linear(width, width)
        self.means = nn.Linear((num_scales + 1) * width, width)
        self.mass = nn.Linear(num_scales, width)
        self.hidden = nn.Linear(width, width)
        self.magnitude = GeneOutput(width, num_genes, zero=True)
        self.logit = GeneOutput(width, num_genes, zero=True)

    def forward(self, h: Tensor, tile: MaskedTile, gene_weight: Tensor) -> Output:
        """Predict the masked cells of the core; see `PlainHead.forward`."""
        if tile.around is None:
            raise ValueError("the residual head needs the surroundings of the masked cells")
        means, shares = self.smoother.terms(tile.around, tile.genes)
        seen = self.norm(means @ gene_weight[tile.genes]).flatten(1)
        mass = torch.log1p(tile.around.mass)
        z = functional.silu(self.features(self.norm(h)) + self.means(seen) + self.mass(mass))
        z = functional.silu(self.hidden(z)) + z
        mean, logit = self.smoother(means, shares, tile.genes)
        return Output(mean + self.magnitude(z, tile.genes), logit + self.logit(z, tile.genes))
