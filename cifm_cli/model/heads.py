"""Heads: from the decoder's features of the inferred cells to what is predicted of them.

Letters: M inferred cells, G genes of the vocabulary, P of the panel, D features, K states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifm_cli.model.gene_maps import GeneOutput
from cifm_cli.model.layer import VoidNorm
from cifm_cli.model.output import Output
from cifm_cli.model.smoother import Smoother
from cifm_cli.model.states import CellStates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.model.masking import MaskedTile
    from cifm_cli.recipe import Recipe


class PlainHead(nn.Module):
    """Magnitude and P(expressed) straight from the decoder's features, as in the paper.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        self.norm = VoidNorm() if recipe.model.norm else nn.Identity()
        self.magnitude = GeneOutput(recipe.model.width, num_genes, rank=recipe.model.gene_rank, zero=False)
        self.logit = GeneOutput(recipe.model.width, num_genes, rank=recipe.model.gene_rank, zero=False)

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


class Dropout(nn.Module):
    """Dropout whose draws come from torch's CPU generator, so that seed and step decide them on any device.

    Args:
        share: Of the values that are zero in a training step.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of any shape; the identity outside training."""
        if not self.training or not self.share:
            return x
        kept = torch.rand(x.shape) >= self.share
        return x * kept.to(x.device) / (1 - self.share)


class Context(NamedTuple):
    """What a correction reads of M queries.

    Args:
        features: (M, D) of the decoder, normalised.
        means: (M, (S + 1) D) means at every scale, through the gene input's weights, normalised.
        mixture: (M, (S + 1) K) square roots of the frequencies of the cell states.
        amount: (M, 2 S) logarithms of how many cells were seen, and of their counts.
    """

    features: Tensor
    means: Tensor
    mixture: Tensor
    amount: Tensor


class Correction(nn.Module):
    """What is added to the smoother's four answers; zero before training.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        width, num_scales = recipe.model.width, len(recipe.objective.scales)
        num_states, rank = recipe.objective.states, recipe.model.gene_rank
        self.features = nn.Linear(width, width)
        self.means = nn.Linear((num_scales + 1) * width, width)
        self.mixture = nn.Linear((num_scales + 1) * num_states, width)
        self.amount = nn.Linear(2 * num_scales, width)
        self.hidden = nn.Linear(width, width)
        self.dropout = Dropout(recipe.model.dropout)
        self.magnitude = GeneOutput(width, num_genes, rank=rank, zero=True)
        self.logit = GeneOutput(width, num_genes, rank=rank, zero=True)
        self.composition = GeneOutput(width, num_genes, rank=rank, zero=True)
        self.state = nn.Linear(width, num_states)
        nn.init.zeros_(self.state.weight)
        nn.init.zeros_(self.state.bias)

    def forward(self, context: Context, genes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Correct M queries.

        Args:
            context: What is read.
            genes: (P,) vocabulary rows of the panel.

        Returns:
            Additions to magnitude, logit, composition and state of an `Output`.
        """
        features, means, mixture = (self.dropout(part) for part in context[:3])
        z = self.features(features) + self.means(means) + self.mixture(mixture) + self.amount(context.amount)
        z = self.dropout(functional.silu(z))
        z = self.dropout(functional.silu(self.hidden(z)) + z)
        return self.magnitude(z, genes), self.logit(z, genes), self.composition(z, genes), self.state(z)


class ResidualHead(nn.Module):
    """What the visible cells around a query say by themselves, plus corrections that start at zero.

    Four answers: expression, P(expressed), composition of the counts, cell state. The corrections read the decoder's
    features, the means at every scale, how often each cell state stands around, and how much was seen there: depth is a
    trait of places, and decides what shows. Several may learn side by side, each for itself; outside training their
    answers are averaged, which errs less than any of them.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        self.smoother = Smoother(num_genes, recipe.objective)
        self.states = CellStates(recipe.objective.states, num_genes)
        self.norm = VoidNorm()
        self.expected = nn.Parameter(torch.zeros(num_genes))  # how much of the distribution's own mean is believed
        self.corrections = nn.ModuleList(Correction(num_genes, recipe) for _ in range(recipe.model.ensemble))

    def forward(self, h: Tensor, tile: MaskedTile, gene_weight: Tensor) -> Output:
        """Predict the masked cells of the core; see `PlainHead.forward`.

        In training the answers of E corrections come one after the other, (E M, P); else their mean, (M, P).
        """
        if tile.around is None or tile.surrounding is None:
            raise ValueError("the residual head needs the surroundings of the masked cells")
        around, genes = tile.around, tile.genes
        terms = self.smoother.terms(around, genes)
        frequencies = self.states.frequencies(around, self.states.sort_cells(tile.surrounding, genes))
        context = Context(
            features=self.norm(h),
            means=self.norm(terms.means @ gene_weight[genes]).flatten(1),
            mixture=frequencies.sqrt().flatten(1),
            amount=torch.log1p(torch.cat([around.mass, around.counts.sum(-1)], dim=1)),
        )
        start = self.smoother(terms, frequencies, genes)
        profiles = self.states.profiles[:, genes]
        answers = []
        for correction in self.corrections:
            mean, logit, composition, state = (a + b for a, b in zip(start, correction(context, genes), strict=True))
            expected = state.detach().softmax(1) @ profiles.to(state.dtype)
            answers.append((mean + self.expected[genes] * expected, logit, composition, state))
        join = torch.cat if self.training else _mean
        magnitude, logit, composition, state = (join(each) for each in zip(*answers, strict=True))
        return Output(magnitude, logit, composition, state, profiles)


def _mean(answers: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(answers)).mean(0)
