"""Heads: from the decoder features of the inferred cells to their prediction.

Letters: M inferred cells, G genes of the vocabulary, P of the panel, D features, K states, S scales of the smoother.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifm_cli.model.bias_free import VoidNorm
from cifm_cli.model.dropout import Dropout
from cifm_cli.model.gene_maps import GeneOutput
from cifm_cli.model.output import Output
from cifm_cli.model.panel_genes import select_genes
from cifm_cli.model.products import Linear, product
from cifm_cli.model.release_layer import release_trunk
from cifm_cli.model.smoother import PROBABILITY_FLOOR, Smoother
from cifm_cli.model.states import StateMaps
from cifm_cli.model.surroundings import describe_surroundings, slide_of

if TYPE_CHECKING:
    from cifm_cli.model.masking import MaskedTile
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.model.surroundings import Surroundings
    from cifm_cli.recipe import Recipe


DETECTION_WEIGHT = 0.4  # 0.3 and 0.5 are as good on the validation strip of docs/study.md
AMOUNT_SCALE = 0.2  # logarithms of numbers of cells and counts, up to 8, become about as large as the other inputs


class PlainHead(nn.Module):
    """Magnitude and P(expressed) as linear maps of the decoder features, as in the paper.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        self.norm = VoidNorm() if recipe.model.norm else nn.Identity()
        self.magnitude = GeneOutput(recipe.model.width, num_genes, rank=recipe.model.gene_rank, zero=False)
        self.logit = GeneOutput(recipe.model.width, num_genes, rank=recipe.model.gene_rank, zero=False)

    def forward(self, h: Tensor, tile: MaskedTile, gene_weight: Tensor, surroundings: Surroundings | None) -> Output:
        """Predict the masked cells of the core.

        Args:
            h: (M, D) decoder features of the masked cells.
            tile: The tile, for its panel.
            gene_weight: (G, D) weights of the gene input; this head does not use them.
            surroundings: What the visible cells around the masked cells tell; this head does not use it.

        Returns:
            Prediction for M cells and P genes.
        """
        del gene_weight, surroundings
        h = self.norm(h)
        return Output(self.magnitude(h, tile.genes), self.logit(h, tile.genes))


class ReleaseHead(PlainHead):
    """The heads of the public release: an MLP each for the magnitude and for P(expressed), whose last maps are to genes.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__(num_genes, recipe)
        self.magnitude_trunk = release_trunk(recipe.model)
        self.logit_trunk = release_trunk(recipe.model)

    def forward(self, h: Tensor, tile: MaskedTile, gene_weight: Tensor, surroundings: Surroundings | None) -> Output:
        """Predict the masked cells of the core; see `PlainHead.forward`."""
        del gene_weight, surroundings
        return Output(self.magnitude(self.magnitude_trunk(h), tile.genes), self.logit(self.logit_trunk(h), tile.genes))


class HeadCorrections(NamedTuple):
    """What a `ResidualHead` adds to the smoother. It does not depend on the weights with which this blends its terms."""

    features: Tensor  # (M, D) that the maps to the genes read
    magnitude: Tensor  # (M, P)
    logit: Tensor  # (M, P)
    composition: Tensor  # (M, P)
    state: Tensor  # (M, K)


class ResidualHead(nn.Module):
    """A smoother of the visible cells around a query, plus a correction that starts at zero.

    There are four outputs: expression, P(expressed), composition of the counts, and cell state. The correction is a
    small MLP of four inputs: the decoder features; the means at every scale minus the mean of the slide, mapped by the
    weights of the gene input; the frequencies of the cell states around the query; and the number of cells and counts
    there, because depth varies over a section and decides which genes are detected. Weights are shared by all slides;
    what differs between slides is in the `SlideParameters` of a tile.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        width, rank, num_scales = recipe.model.width, recipe.model.gene_rank, len(recipe.objective.scales)
        self.smoother = Smoother(num_genes, recipe.objective)
        self.states = StateMaps(width, num_scales + 1)
        self.norm = VoidNorm()
        self.features = Linear(width, width)
        # The mean of the slide, the last term, is what the others are centred on, and has no number of neighbours.
        self.means = Linear(num_scales * width, width)
        self.amount = Linear(2 * num_scales, width)
        self.hidden = Linear(width, width)
        self.dropout = Dropout(recipe.model.dropout)
        self.expected = nn.Parameter(torch.zeros(num_genes))  # weight of the mean over the inferred cell states
        # All corrections start at zero, so training starts at the smoother.
        self.magnitude = GeneOutput(width, num_genes, rank=rank, zero=True)
        self.logit = GeneOutput(width, num_genes, rank=rank, zero=True)
        self.composition = GeneOutput(width, num_genes, rank=rank, zero=True)

    def forward(self, h: Tensor, tile: MaskedTile, gene_weight: Tensor, surroundings: Surroundings | None) -> Output:
        """Predict the masked cells of the core; see `PlainHead.forward`."""
        surroundings = surroundings or describe_surroundings(tile, linear=None)
        return self.join(self.correct(h, tile, gene_weight, surroundings), tile, surroundings)

    def correct(self, h: Tensor, tile: MaskedTile, gene_weight: Tensor, surroundings: Surroundings) -> HeadCorrections:
        """Compute the corrections of the smoother, as `forward` adds them."""
        genes, slide, frequencies = tile.genes, slide_of(tile), surroundings.frequencies
        # The weights of the gene input map any panel to the same D features.
        gene_rows = select_genes(gene_weight, genes)
        means = map_scales(surroundings.differences, gene_rows)
        states = self.states.describe(slide, gene_rows)
        # The square root keeps rare states visible beside frequent ones.
        h, means, roots = (self.dropout(features) for features in (self.norm(h), means, frequencies.sqrt()))
        z = self.features(h) + self.means(means) + self.states.read(roots, states)
        z = z + self.amount(AMOUNT_SCALE * surroundings.amount)
        z = self.dropout(functional.silu(z))
        z = self.dropout(functional.silu(self.hidden(z)) + z)
        return HeadCorrections(
            features=z,
            magnitude=self.magnitude(z, genes),
            logit=self.logit(z, genes),
            composition=self.composition(z, genes),
            state=self.states.correct(z, states),
        )

    def join(self, corrections: HeadCorrections, tile: MaskedTile, surroundings: Surroundings) -> Output:
        """Add corrections to the smoother, with the weights of the slide of a tile."""
        genes, slide = tile.genes, slide_of(tile)
        smoothed = mean, logit, composition, state = self.smoother(
            surroundings.terms, surroundings.logarithms, slide, genes
        )
        if linear := surroundings.linear:
            mean, logit, composition = mean + linear.mean, logit + linear.logit, composition + linear.composition
        state = state + corrections.state
        # Detached in training: the loss of the magnitude must not change the probabilities of the states.
        known = state.detach() if self.training else state
        expected = product(known.softmax(1), (slide.state_profiles - slide.mean).T)
        magnitude = mean + select_genes(self.expected, genes) * expected + corrections.magnitude
        logit = logit + corrections.logit
        return Output(
            # Averaged by a trained network only: the loss of an average would not make its parts good predictors.
            magnitude=magnitude if self.training else average_with_detection(magnitude, logit, slide),
            logit=logit,
            composition=composition + corrections.composition,
            state=state,
            profiles=slide.state_profiles,
            features=corrections.features,
            frequencies=surroundings.frequencies,
            smoothed_magnitude=smoothed[0],
            smoothed_logit=smoothed[1],
            smoothed_composition=smoothed[2],
        )


def average_with_detection(magnitude: Tensor, logit: Tensor, slide: SlideParameters) -> Tensor:
    """Average the magnitude with a second estimate of it: P(expressed) times the mean level of the expressing cells.

    Both estimate the mean expression, from losses of their own, so part of their errors cancels. The level is that of the
    slide. That is a good estimate for a gene that few cells express, and a bad one for a gene whose cells differ in level,
    so the weight of the second estimate falls with the fraction of the cells that express the gene.

    Args:
        magnitude: (M, P) first estimate.
        logit: (M, P) logit of P(expressed).
        slide: Parameters of the slide, of P genes.

    Returns:
        (M, P) averages, not negative.
    """
    level = slide.mean / slide.expressed.clamp(min=PROBABILITY_FLOOR)
    # No cell of the slide tells the level of a gene that none of them expresses.
    weight = DETECTION_WEIGHT * (1 - slide.expressed) * (slide.expressed > 0)
    return torch.lerp(magnitude.clamp(min=0), logit.sigmoid() * level, weight)


def map_scales(differences: Tensor, gene_rows: Tensor) -> Tensor:
    """Map the means at S scales to features, side by side.

    Args:
        differences: (M, S, P) means minus the mean of the slide.
        gene_rows: (P, D) weights of the gene input for the panel.

    Returns:
        (M, S D) features.
    """
    # Scale by scale, as they are in memory, so that one matrix product maps all of them without a copy.
    return product(differences.movedim(1, 0), gene_rows.T).movedim(0, 1).flatten(1)
