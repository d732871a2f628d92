"""What the cells around a query express, as weighted means at several scales: where the `residual` objective starts.

Letters: M query cells, S scales, P genes of the panel, G genes of the vocabulary, V visible cells, E pairs of a query
and a visible cell within the cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from cifm_cli.model.kernels import sum_around
from cifm_cli.statistics.regression import shared_weights, shrunk_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.recipe_sections import ObjectiveRecipe

RELIABLE_COUNTS = 10.0  # depth at which a cell weighs half: sparse cells are noisy, void cells weigh nothing
PRIOR_MASS = 1.0  # mass of the next wider mean in every mean, so that a lonely query has an answer
PRIOR_COUNTS = 30.0  # the same for compositions, in counts
PROBABILITY_FLOOR = 1e-4


@dataclass(frozen=True)
class Surroundings:
    """Weighted sums over the visible cells around each query.

    Args:
        expression: (M, S, P) of log-normalised expression.
        expressed: (M, S, P) of "the gene is expressed", 0 or 1.
        counts: (M, S, P) of raw counts.
        mass: (M, S) of the weights themselves; zero where nobody is near.
        weight: (E, S) the weights, pair by pair.
        query: (E,) query of each pair, ascending.
        visible: (E,) visible cell of each pair.
    """

    expression: Tensor
    expressed: Tensor
    counts: Tensor
    mass: Tensor
    weight: Tensor
    query: Tensor
    visible: Tensor

    def to(self, where: torch.device | torch.dtype) -> Surroundings:
        """Copy to a device, or to a precision, which the indices have none of."""
        is_device = isinstance(where, torch.device)
        return Surroundings(
            expression=self.expression.to(where),
            expressed=self.expressed.to(where),
            counts=self.counts.to(where),
            mass=self.mass.to(where),
            weight=self.weight.to(where),
            query=self.query.to(where) if is_device else self.query,
            visible=self.visible.to(where) if is_device else self.visible,
        )


def look_around(
    query: NDArray[np.float64],
    visible: NDArray[np.float64],
    expression: csr_matrix,
    counts: csr_matrix,
    total_counts: NDArray[np.float64],
    recipe: ObjectiveRecipe,
) -> Surroundings:
    """Sum what surrounds each query, weighted by a Gaussian of distance and by the reliability of each cell.

    A visible cell at distance d, of t counts, weighs exp(-d^2 / 2 s^2) * t / (t + 10): a void cell weighs nothing.

    Args:
        query: (M, 2) places, in radii.
        visible: (V, 2) places, in radii.
        expression: (V, P) log-normalised.
        counts: (V, P) raw, of the same sparsity.
        total_counts: (V,) depth of each cell.
        recipe: Scales s and cutoff, in radii.

    Returns:
        The sums, in double precision.
    """
    pairs = cKDTree(query).sparse_distance_matrix(cKDTree(visible), recipe.cutoff, output_type="ndarray")
    pairs = pairs[np.lexsort((pairs["j"], pairs["i"]))]  # slide order: a tile sums as the whole slide does
    reliability = (total_counts / (total_counts + RELIABLE_COUNTS))[pairs["j"]]
    squared = pairs["v"] ** 2
    weight = np.stack([np.exp(-0.5 * squared / s**2) * reliability for s in recipe.scales], axis=1)
    indptr = np.searchsorted(pairs["i"], np.arange(len(query) + 1))
    near = pairs["j"].astype(np.int64)
    expressions, shares, compositions = sum_around(indptr, near, weight, expression, counts)
    mass = np.stack([np.bincount(pairs["i"], column, len(query)) for column in weight.T], axis=1)
    return Surroundings(
        expression=torch.from_numpy(expressions),
        expressed=torch.from_numpy(shares),
        counts=torch.from_numpy(compositions),
        mass=torch.from_numpy(mass),
        weight=torch.from_numpy(weight),
        query=torch.from_numpy(pairs["i"].astype(np.int64)),
        visible=torch.from_numpy(near),
    )


class Terms(NamedTuple):
    """What a smoother blends: every scale, each drawn a little to the next wider one, then the training cells.

    Args:
        means: (M, S + 1, P) of log-normalised expression.
        shares: (M, S + 1, P) of "the gene is expressed".
        compositions: (M, S + 1, P) of the counts among the genes.
    """

    means: Tensor
    shares: Tensor
    compositions: Tensor


class Smoother(nn.Module):
    """Blends the means around a query and the training mean, with weights of each gene's own.

    Compositions and state frequencies are blended as logarithms, with weights that all genes and states share.

    Args:
        num_genes: G.
        recipe: Scales.
    """

    mean_profile: Tensor
    share_profile: Tensor
    composition_profile: Tensor

    def __init__(self, num_genes: int, recipe: ObjectiveRecipe) -> None:
        super().__init__()
        num_terms = len(recipe.scales) + 1
        self.register_buffer("mean_profile", torch.zeros(num_genes))
        self.register_buffer("share_profile", torch.zeros(num_genes))
        self.register_buffer("composition_profile", torch.full((num_genes,), 1 / num_genes))
        self.mean_weights = nn.Parameter(torch.full((num_terms, num_genes), 1 / num_terms))
        self.share_weights = nn.Parameter(torch.full((num_terms, num_genes), 1 / num_terms))
        self.composition_weights = nn.Parameter(torch.zeros(num_terms))  # before the softmax
        self.state_weights = nn.Parameter(torch.zeros(num_terms))

    def terms(self, around: Surroundings, genes: Tensor) -> Terms:
        """What is blended.

        Args:
            around: Sums around M queries.
            genes: (P,) vocabulary rows of the panel.

        Returns:
            The terms, the narrowest scale first and the training cells last.
        """
        return Terms(
            shrink(around.expression, around.mass, self.mean_profile[genes], PRIOR_MASS),
            shrink(around.expressed, around.mass, self.share_profile[genes], PRIOR_MASS),
            shrink(around.counts, around.counts.sum(-1), self.composition_profile[genes], PRIOR_COUNTS),
        )

    def forward(self, terms: Terms, frequencies: Tensor, genes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Blend.

        Args:
            terms: From `terms`.
            frequencies: (M, S + 1, K) of the cell states, see `CellStates.frequencies`.
            genes: (P,) vocabulary rows of the panel.

        Returns:
            What the surroundings say by themselves: magnitude, logit, composition and state of an `Output`.
        """
        mean = _blend(terms.means, self.mean_weights[:, genes])
        share = _blend(terms.shares, self.share_weights[:, genes])
        logit = torch.logit(share.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR))
        composition = _blend(terms.compositions.log(), self.composition_weights.softmax(0)[:, None])
        state = _blend(frequencies.log(), self.state_weights.softmax(0)[:, None])
        return mean, logit, composition, state


def _blend(terms: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of (M, T, P) over T; as a batch of products it would be a product for each gene."""
    return (terms * weights).sum(1)


def shrink(sums: Tensor, mass: Tensor, profile: Tensor, prior: float) -> Tensor:
    """Means with the next wider mean as a prior, the widest with the training profile, which is the last term.

    So where nobody is near, a narrow mean is what the wider ones say, and not what the whole tissue says.

    Args:
        sums: (M, S, P) weighted sums, the narrowest scale first.
        mass: (M, S) sums of the weights.
        profile: (P,) of the training cells.
        prior: Mass of the next wider mean.

    Returns:
        (M, S + 1, P), the profile last.
    """
    terms = [profile.expand(len(sums), -1)]
    for scale in reversed(range(sums.shape[1])):
        terms.append((sums[:, scale] + prior * terms[-1]) / (mass[:, scale, None] + prior))
    return torch.stack(terms[:0:-1] + terms[:1], dim=1)


class LeastSquares:
    """Normal equations of one small regression per gene, gathered batch by batch.

    Args:
        num_terms: T predictors.
        num_genes: G.
    """

    def __init__(self, num_terms: int, num_genes: int) -> None:
        self.gram = torch.zeros(num_genes, num_terms, num_terms, dtype=torch.float64)
        self.moment = torch.zeros(num_genes, num_terms, dtype=torch.float64)
        self.num_queries = torch.zeros(num_genes, dtype=torch.float64)

    def add(self, terms: Tensor, target: Tensor, genes: Tensor) -> None:
        """Add M queries.

        Args:
            terms: (M, T, P) predictors.
            target: (M, P) what they should give.
            genes: (P,) vocabulary rows of the panel.
        """
        terms, target = terms.double(), target.double()
        self.gram.index_add_(0, genes, torch.einsum("msp,mtp->pst", terms, terms))
        self.moment.index_add_(0, genes, torch.einsum("msp,mp->ps", terms, target))
        self.num_queries[genes] += len(target)

    def solve(self, belief: float) -> Tensor:
        """Weights of every gene, drawn to the weights that serve all genes together.

        Args:
            belief: How many queries' worth of belief a gene has in the shared weights.

        Returns:
            (T, G) float32.
        """
        gram, moment = self.gram.numpy(), self.moment.numpy()
        per_query = self.gram.diagonal(dim1=1, dim2=2) / self.num_queries.clamp(min=1)[:, None]
        shared = shared_weights(gram, moment, ridge=1e-6 * (1 + float(np.trace(gram.sum(axis=0)))))
        weights = shrunk_weights(gram, moment, shared, precision=belief * per_query.numpy() + 1e-6)
        return torch.from_numpy(weights.T).float().contiguous()
