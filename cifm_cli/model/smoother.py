"""Weighted means of the visible cells around a query, at several scales: the start of the `residual` objective.

Letters: M query cells, S scales, T = S + 1 terms that are blended, P genes of the panel, G genes of the vocabulary,
V visible cells, E pairs of a query and a visible cell within the cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifm_cli.data.pairs import pairs_within
from cifm_cli.model.kernels import pair_weights, shrink_to_wider, weighted_sums
from cifm_cli.model.panel_genes import select_genes
from cifm_cli.statistics.regression import shared_weights, shrunk_weights

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from scipy.sparse import csr_matrix
    from torch.autograd.function import FunctionCtx

    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.recipe_sections import ObjectiveRecipe

RELIABLE_COUNTS = 10.0  # depth at which a cell has half the weight: expression of cells with few counts is noisy
PRIOR_MASS = 1.0  # weight of the next wider mean in every mean, so that a query without neighbours has a mean too
PRIOR_COUNTS = 30.0  # the same for compositions, in counts
PROBABILITY_FLOOR = 1e-4  # keeps the logit of P(expressed) finite


@dataclass(frozen=True)
class NeighbourSums:
    """Weighted sums over the visible cells around each query."""

    expression: Tensor  # (M, S, P) sums of the log-normalised expression
    expressed: Tensor  # (M, S, P) sums of the indicator "the gene is expressed", 0 or 1
    counts: Tensor  # (M, S, P) sums of the raw counts
    mass: Tensor  # (M, S) sums of the weights; zero where no visible cell is within the cutoff
    weight: Tensor  # (E, S) weights of each pair
    query: Tensor  # (E,) query of each pair, ascending
    visible: Tensor  # (E,) visible cell of each pair

    def to(self, where: torch.device | torch.dtype) -> NeighbourSums:
        """Copy to a device, or convert to a precision; the indices `query` and `visible` keep their type."""
        is_device = isinstance(where, torch.device)
        return NeighbourSums(
            expression=self.expression.to(where),
            expressed=self.expressed.to(where),
            counts=self.counts.to(where),
            mass=self.mass.to(where),
            weight=self.weight.to(where),
            query=self.query.to(where) if is_device else self.query,
            visible=self.visible.to(where) if is_device else self.visible,
        )


def reliability_of(depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight of a visible cell with t counts, t / (t + 10): zero for a void cell, and near 1 for a deep one.

    Args:
        depth: (V,) counts of each cell.

    Returns:
        (V,) weights.
    """
    return depth / (depth + RELIABLE_COUNTS)


def sum_neighbours(
    query: NDArray[np.float64],
    visible: NDArray[np.float64],
    expression: csr_matrix,
    counts: csr_matrix,
    reliability: NDArray[np.float64],
    recipe: ObjectiveRecipe,
    dtype: DTypeLike = np.float64,
) -> NeighbourSums:
    """Sum the visible cells around each query, weighted by a Gaussian of the distance and by the reliability of the cell.

    A visible cell at distance d has the weight exp(-d^2 / 2 s^2) times its reliability at scale s.

    Args:
        query: (M, 2) coordinates of the queries, in radii.
        visible: (V, 2) coordinates of the visible cells, in radii.
        expression: (V, P) log-normalised expression.
        counts: (V, P) raw counts, of the same sparsity.
        reliability: (V,) factor of each cell, see `reliability_of`.
        recipe: Scales s and cutoff, in radii.
        dtype: Type of the sums. Weights and masses are computed in double precision.

    Returns:
        The sums.
    """
    # Cells are summed in slide order, so the sums of a tile equal those of the whole slide bit for bit. Queries without any
    # visible cell within the cutoff get an empty range, and so sums of zero.
    indptr, neighbour, squared = pairs_within(query, visible, recipe.cutoff)
    pair_query = np.repeat(np.arange(len(query)), np.diff(indptr))
    weight = pair_weights(indptr, neighbour, squared, reliability, recipe.scales, dtype)
    values, expressed, raw = weighted_sums(indptr, neighbour, weight, expression, counts)
    return NeighbourSums(
        expression=torch.from_numpy(values),
        expressed=torch.from_numpy(expressed),
        counts=torch.from_numpy(raw),
        mass=torch.from_numpy(weight.mass),
        weight=torch.from_numpy(weight.weight),
        query=torch.from_numpy(pair_query),
        visible=torch.from_numpy(neighbour),
    )


class Terms(NamedTuple):
    """Estimates that a smoother blends: one for each scale, narrowest first, and last that of the whole slide.

    Every estimate is shrunk towards the next wider one, see `shrink`.
    """

    means: Tensor  # (M, T, P) log-normalised expression
    expressed: Tensor  # (M, T, P) P(expressed)
    compositions: Tensor  # (M, T, P) fraction of the counts in each gene


class Smoother(nn.Module):
    """Blend of the means around a query and the mean of the slide.

    Means and P(expressed) have blending weights for each gene. Compositions and state probabilities are blended as
    logarithms, with weights that all genes and states share. The weights are those of the slide, plus corrections that
    are trained on all slides and start at zero.

    Args:
        num_genes: G.
        recipe: Scales.
    """

    def __init__(self, num_genes: int, recipe: ObjectiveRecipe) -> None:
        super().__init__()
        num_terms = len(recipe.scales) + 1
        self.mean_weights = nn.Parameter(torch.zeros(num_terms, num_genes))
        self.expressed_weights = nn.Parameter(torch.zeros(num_terms, num_genes))
        self.composition_weights = nn.Parameter(torch.zeros(num_terms))  # before the softmax
        self.state_weights = nn.Parameter(torch.zeros(num_terms))  # before the softmax

    def forward(
        self, terms: Terms, logarithms: tuple[Tensor, Tensor], slide: SlideParameters, genes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Blend the estimates.

        Args:
            terms: From `smoother_terms`, around M queries.
            logarithms: (M, T, P) those of the compositions, and (M, T, K) those of the frequencies of the cell states.
            slide: Parameters of the slide, with the weights of P genes.
            genes: (P,) vocabulary rows of the panel.

        Returns:
            Magnitude, logit, composition and state of an `Output`, before the correction of the network.
        """
        mean_weights, expressed_weights = (
            select_genes(weights.T, genes).T for weights in (self.mean_weights, self.expressed_weights)
        )
        mean = blend(terms.means, slide.mean_weights + mean_weights)
        expressed = blend(terms.expressed, slide.expressed_weights + expressed_weights)
        # A blend with free weights can leave the interval from 0 to 1.
        logit = torch.logit(expressed.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR))
        composition = blend(logarithms[0], (slide.composition_weights + self.composition_weights).softmax(0)[:, None])
        state = blend(logarithms[1], (slide.state_weights + self.state_weights).softmax(0)[:, None])
        return mean, logit, composition, state


def smoother_terms(neighbours: NeighbourSums, slide: SlideParameters) -> Terms:
    """Compute the estimates that a smoother blends.

    Args:
        neighbours: Sums around M queries.
        slide: Parameters of the slide.

    Returns:
        The estimates, the narrowest scale first and the whole slide last.
    """
    mass, counts = neighbours.mass, neighbours.counts
    return Terms(
        shrink(neighbours.expression, mass, slide.mean, PRIOR_MASS),
        shrink(neighbours.expressed, mass, slide.expressed, PRIOR_MASS),
        shrink(counts, counts.sum(-1), slide.composition, PRIOR_COUNTS),
    )


def blend(terms: Tensor, weights: Tensor) -> Tensor:
    """Sum (M, T, P) over T, weighted by (T, P) or (T, 1) weights. An einsum would run a separate matrix product for each gene.

    Args:
        terms: (M, T, P) estimates.
        weights: (T, P) or (T, 1) weights.

    Returns:
        (M, P) sums.
    """
    result: Tensor = _Blend.apply(terms, weights)  # type: ignore[no-untyped-call]
    return result


class _Blend(torch.autograd.Function):
    """`blend` term by term, so that no product of the size of all terms is stored, and with as few new tensors as possible."""

    @staticmethod
    def forward(ctx: FunctionCtx, terms: Tensor, weights: Tensor) -> Tensor:
        """Sum (M, T, P) over T."""
        ctx.save_for_backward(terms, weights)
        blend = terms[:, 0] * weights[0]
        for term in range(1, terms.shape[1]):
            blend.addcmul_(terms[:, term], weights[term])
        return blend

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401 - torch has no type
        """Gradients by the terms and by the weights; None for one that is not needed."""
        terms, weights = ctx.saved_tensors
        of_terms = gradient[:, None] * weights if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_terms, None
        of_weights, product = torch.empty_like(weights), torch.empty_like(gradient)
        for term, own in enumerate(of_weights):
            torch.mul(gradient, terms[:, term], out=product)
            own.copy_(product.sum(0) if weights.shape[1] > 1 else product.sum())
        return of_terms, of_weights


def shrink(sums: Tensor, mass: Tensor, profile: Tensor, prior: float) -> Tensor:
    """Divide sums by their mass, with the next wider mean as a prior; the prior of the widest is the profile of the slide.

    Where few cells are near, a narrow mean thus approaches the wider ones, which are local too, and not the profile of
    the whole tissue.

    Args:
        sums: (M, S, P) weighted sums, the narrowest scale first.
        mass: (M, S) sums of the weights.
        profile: (P,) mean of the slide.
        prior: Mass of the next wider mean.

    Returns:
        (M, S + 1, P) means, the profile last.
    """
    # Term by term in memory, since they are blended one after the other.
    num_queries, num_scales, num_genes = sums.shape
    if runs_compiled(sums, mass, profile):
        written = sums.new_empty(num_scales + 1, num_queries, num_genes)
        shrink_to_wider(sums.numpy(), mass.numpy(), profile.numpy(), prior, written.numpy())
        return written.movedim(0, 1)
    # From the widest to the narrowest, since each mean is the prior of the next narrower one; the profile is that of the widest.
    terms = [profile.expand(num_queries, -1)]
    for scale in reversed(range(num_scales)):
        terms.append((sums[:, scale] + prior * terms[-1]) / (mass[:, scale, None] + prior))
    return torch.stack(terms[::-1]).movedim(0, 1)


def runs_compiled(*tensors: Tensor) -> bool:
    """Whether compiled loops can compute with tensors: on the CPU, of a type that NumPy has, and without gradients.

    Gradients are needed in the sensitivity of a simulation.
    """
    kinds = (torch.float32, torch.float64)
    return all(each.device.type == "cpu" and each.dtype in kinds and not each.requires_grad for each in tensors)


class LeastSquares:
    """Linear regression for each gene, from normal equations that are summed batch by batch.

    Args:
        num_terms: T predictors.
        num_genes: G.
    """

    def __init__(self, num_terms: int, num_genes: int) -> None:
        # In float64: normal equations square the condition number, and blended scales are similar.
        self.gram = torch.zeros(num_genes, num_terms, num_terms, dtype=torch.float64)
        self.moment = torch.zeros(num_genes, num_terms, dtype=torch.float64)
        self.num_queries = torch.zeros(num_genes, dtype=torch.float64)

    def add(self, terms: Tensor, target: Tensor, genes: Tensor) -> None:
        """Add the equations of M queries.

        Args:
            terms: (M, T, P) predictors.
            target: (M, P) values to predict.
            genes: (P,) vocabulary rows of the panel.
        """
        columns, target = terms.double().unbind(1), target.double()
        gram = self.gram.new_empty(len(genes), len(columns), len(columns))
        # Pair by pair: an einsum would run a tiny matrix product for each gene, for which threads take longer than one of them.
        for s, one in enumerate(columns):
            for t, other in enumerate(columns[: s + 1]):
                gram[:, s, t] = gram[:, t, s] = (one * other).sum(0)
        self.gram.index_add_(0, genes, gram)
        self.moment.index_add_(0, genes, torch.stack([(one * target).sum(0) for one in columns], dim=1))
        self.num_queries[genes] += len(target)

    def solve(self, prior_count: float) -> Tensor:
        """Solve for the weights of every gene, shrunk towards the weights of one regression over all genes.

        Args:
            prior_count: Number of queries that the shared weights count as.

        Returns:
            (T, G) float32 weights.
        """
        gram, moment = self.gram.numpy(), self.moment.numpy()
        # A mean per query, which makes `prior_count` a number of queries whatever the scale of a predictor.
        per_query = self.gram.diagonal(dim1=1, dim2=2) / self.num_queries.clamp(min=1)[:, None]
        # Scales that hardly differ make the equations nearly singular, hence the small ridge.
        shared = shared_weights(gram, moment, ridge=1e-6 * (1 + float(np.trace(gram.sum(axis=0)))))
        weights = shrunk_weights(gram, moment, shared, precision=prior_count * per_query.numpy() + 1e-6)
        return torch.from_numpy(weights.T).float().contiguous()
