"""What the cells around a query express, as weighted means at several scales: where the `residual` objective starts.

Letters: M query cells, S scales, P genes of the panel, G genes of the vocabulary, V visible cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.recipe import ObjectiveRecipe

RELIABLE_COUNTS = 10.0  # depth at which a cell weighs half: sparse cells are noisy, void cells weigh nothing
PRIOR_MASS = 1.0  # mass of the next wider mean in every mean, so that a lonely query has an answer
SHARED_BELIEF = 20.0  # how many queries' worth of belief a gene has in the weights fitted over all genes
PROBABILITY_FLOOR = 1e-4


@dataclass(frozen=True)
class Surroundings:
    """Weighted sums over the visible cells around each query.

    Args:
        expression: (M, S, P) of log-normalised expression.
        expressed: (M, S, P) of "the gene is expressed", 0 or 1.
        mass: (M, S) of the weights themselves; zero where nobody is near.
    """

    expression: Tensor
    expressed: Tensor
    mass: Tensor

    def to(self, device: torch.device) -> Surroundings:
        """Copy to a device."""
        return Surroundings(self.expression.to(device), self.expressed.to(device), self.mass.to(device))


def look_around(
    query: NDArray[np.float64],
    visible: NDArray[np.float64],
    expression: csr_matrix,
    total_counts: NDArray[np.float64],
    recipe: ObjectiveRecipe,
) -> Surroundings:
    """Sum what surrounds each query, weighted by a Gaussian of distance and by the reliability of each cell.

    A visible cell at distance d, of t counts, weighs exp(-d^2 / 2 s^2) * t / (t + 10): a void cell weighs nothing.

    Args:
        query: (M, 2) places, in radii.
        visible: (V, 2) places, in radii.
        expression: (V, P) log-normalised.
        total_counts: (V,) counts.
        recipe: Scales s and cutoff, in radii.

    Returns:
        The sums, in double precision.
    """
    pairs = cKDTree(query).sparse_distance_matrix(cKDTree(visible), recipe.cutoff, output_type="ndarray")
    pairs = pairs[np.lexsort((pairs["j"], pairs["i"]))]  # slide order: a tile sums as the whole slide does
    reliability = (total_counts / (total_counts + RELIABLE_COUNTS))[pairs["j"]]
    squared = pairs["v"] ** 2
    indptr = np.searchsorted(pairs["i"], np.arange(len(query) + 1))
    weights = [
        csr_matrix((np.exp(-0.5 * squared / s**2) * reliability, pairs["j"], indptr), (len(query), len(visible)))
        for s in recipe.scales
    ]
    stacked = vstack(weights, format="csr")
    expressed = csr_matrix((np.ones_like(expression.data), expression.indices, expression.indptr), expression.shape)

    def by_query(sums: NDArray[np.float64]) -> Tensor:
        by_scale = sums.reshape(len(recipe.scales), len(query), sums.shape[1])
        return torch.from_numpy(np.ascontiguousarray(by_scale.swapaxes(0, 1)))

    return Surroundings(
        expression=by_query((stacked @ expression.astype(np.float64)).toarray()),
        expressed=by_query((stacked @ expressed.astype(np.float64)).toarray()),
        mass=by_query(np.asarray(stacked.sum(axis=1))).squeeze(-1),
    )


class Smoother(nn.Module):
    """Blends the means around a query and the training mean, with weights of each gene's own.

    Args:
        num_genes: G.
        recipe: Scales.
    """

    mean_profile: Tensor
    share_profile: Tensor

    def __init__(self, num_genes: int, recipe: ObjectiveRecipe) -> None:
        super().__init__()
        num_terms = len(recipe.scales) + 1
        self.register_buffer("mean_profile", torch.zeros(num_genes))
        self.register_buffer("share_profile", torch.zeros(num_genes))
        self.mean_weights = nn.Parameter(torch.full((num_terms, num_genes), 1 / num_terms))
        self.share_weights = nn.Parameter(torch.full((num_terms, num_genes), 1 / num_terms))

    def terms(self, around: Surroundings, genes: Tensor) -> tuple[Tensor, Tensor]:
        """What is blended: the mean at every scale, drawn a little to the next wider one, and the training mean.

        Args:
            around: Sums around M queries.
            genes: (P,) vocabulary rows of the panel.

        Returns:
            (M, S + 1, P) of expression and (M, S + 1, P) of shares.
        """
        return (
            _shrink(around.expression, around.mass, self.mean_profile[genes]),
            _shrink(around.expressed, around.mass, self.share_profile[genes]),
        )

    def forward(self, means: Tensor, shares: Tensor, genes: Tensor) -> tuple[Tensor, Tensor]:
        """Blend `terms`.

        Args:
            means: (M, S + 1, P).
            shares: (M, S + 1, P).
            genes: (P,) vocabulary rows of the panel.

        Returns:
            (M, P) expected expression and (M, P) logit of P(expressed).
        """
        mean = torch.einsum("msp,sp->mp", means, self.mean_weights[:, genes])
        share = torch.einsum("msp,sp->mp", shares, self.share_weights[:, genes])
        return mean, torch.logit(share.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR))


def _shrink(sums: Tensor, mass: Tensor, profile: Tensor) -> Tensor:
    """Means with the next wider mean as a prior, the widest with the training profile, which is the last term.

    So where nobody is near, a narrow mean is what the wider ones say, and not what the whole tissue says.
    """
    terms = [profile.expand(len(sums), -1)]
    for scale in reversed(range(sums.shape[1])):
        total = mass[:, scale, None] + PRIOR_MASS
        terms.append((sums[:, scale] + PRIOR_MASS * terms[-1]) / total)
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

    def solve(self) -> Tensor:
        """Weights of every gene, drawn to the weights that serve all genes together.

        Returns:
            (T, G) float32.
        """
        num_terms = self.gram.shape[1]
        tiny = 1e-6 * torch.eye(num_terms, dtype=torch.float64)
        pooled = self.gram.sum(0)
        shared = torch.linalg.solve(pooled + tiny * (1 + pooled.trace()), self.moment.sum(0))
        per_query = self.gram.diagonal(dim1=1, dim2=2) / self.num_queries.clamp(min=1)[:, None]
        belief = torch.diag_embed(SHARED_BELIEF * per_query) + tiny
        weights: Tensor = torch.linalg.solve(self.gram + belief, self.moment + belief @ shared)
        return weights.T.float()
