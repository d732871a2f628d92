"""Fit of the parameters of a slide, in closed form, from examples: tiles of it in which cells are hidden for practice.

Nothing here depends on a training run: a slide that a model has never seen can be fitted as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cifm_cli.model.smoother import LeastSquares, blend
from cifm_cli.model.states import nearest_state
from cifm_cli.model.surroundings import describe_surroundings, slide_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from cifm_cli.model.example import Example
    from cifm_cli.model.slide_parameters import SlideParameters

    PoolData = tuple[Tensor, Tensor]  # data of one tile; see `fit_pool`

# Candidates for `prior_count` of `LeastSquares.solve`, in masked cells: from weights of each gene alone to nearly the
# same weights for all genes.
PRIOR_COUNTS = (20.0, 200.0, 2_000.0, 20_000.0)
NUM_POOL_TILES = 6  # a pool has only a handful of weights
NUM_POOL_STEPS = 30  # iterations of L-BFGS, which has few weights to fit


@torch.no_grad()
def fit_slide_parameters(
    start: SlideParameters,
    examples: Iterable[Example],
    validation: Iterable[Example],
    pool_decay: float,
    *,
    whole_vocabulary: bool = False,
) -> SlideParameters:
    """Fit the weights with which a smoother blends its terms on a slide.

    Those of mean expression and of the probability of expression are fitted by least squares, those of compositions and
    of cell states by likelihood. How much the weights of a gene may differ from those of all genes is chosen on the
    validation examples: weights of a single gene that are fitted to a few hundred spots are mostly noise.

    Args:
        start: Profiles and states of the slide, from `start_parameters`.
        examples: Examples to fit, on the CPU. Each has parameters of its slide, whose profiles are best those without
            the masked cells; their weights are not used.
        validation: Examples of other masked cells.
        pool_decay: See `fit_pool`.
        whole_vocabulary: Whether `start` is over the whole vocabulary, and the examples come from slides with panels of
            their own. Otherwise the genes of the examples are those of `start`.

    Returns:
        `start` with fitted weights.
    """
    num_terms, num_genes = start.mean_weights.shape

    def places(example: Example) -> Tensor:
        """Positions of the genes of an example among those of `start`."""
        return example.tile.genes if whole_vocabulary else torch.arange(num_genes)

    means, expressed = (LeastSquares(num_terms, num_genes) for _ in range(2))
    compositions: list[PoolData] = []
    states: list[PoolData] = []
    for example in examples:
        surroundings = describe_surroundings(example.tile, linear=None)
        terms = surroundings.terms
        means.add(terms.means, example.target.values, places(example))
        expressed.add(terms.expressed, is_expressed(example), places(example))
        if len(compositions) < NUM_POOL_TILES:
            compositions.append((surroundings.logarithms[0], example.target.counts))
            states.append((surroundings.logarithms[1], true_states(example)))
    # Terms do not depend on the weights, so they are computed once for all candidates.
    validated = [(describe_surroundings(example.tile, linear=None).terms, example) for example in validation]
    return replace(
        start,
        mean_weights=choose_weights(
            means, [(terms.means, example.target.values, places(example)) for terms, example in validated]
        ),
        expressed_weights=choose_weights(
            expressed, [(terms.expressed, is_expressed(example), places(example)) for terms, example in validated]
        ),
        composition_weights=fit_pool(compositions, pool_decay),
        state_weights=fit_pool(states, pool_decay),
    )


def is_expressed(example: Example) -> Tensor:
    """(M, P) 1 where a masked cell expresses the gene, 0 elsewhere."""
    return (example.target.values > 0).float()


def true_states(example: Example) -> Tensor:
    """(M, K) 1 at the state of each masked cell, 0 elsewhere."""
    slide = slide_of(example.tile)
    return functional.one_hot(nearest_state(example.target.values, slide.state_profiles), slide.num_states).float()


def choose_weights(fit: LeastSquares, validation: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Solve a regression with the one of `PRIOR_COUNTS` whose solution has the smallest error on validation tiles.

    Args:
        fit: The regression, with the training tiles added.
        validation: (M, T, P) terms, (M, P) targets and (P,) positions of the genes of each validation tile.

    Returns:
        (T, G) weights.
    """

    def squared_error(weights: Tensor) -> float:
        """Sum of squared errors on the validation tiles."""
        return sum(
            float((blend(terms, weights[:, genes]) - target).square().sum(dtype=torch.float64))
            for terms, target, genes in validation
        )

    return min((fit.solve(prior_count) for prior_count in PRIOR_COUNTS), key=squared_error)


def fit_pool(tiles: Sequence[PoolData], decay: float) -> Tensor:
    """Fit the weights of a logarithmic pool of T distributions over X outcomes by maximum likelihood.

    Args:
        tiles: For each tile, the (M, T, X) logarithms of the distributions, and the (M, X) numbers of observations.
        decay: Penalty in nats on the squares of the weights before the softmax, which makes them more equal.

    Returns:
        (T,) weights before the softmax.
    """
    # Zeros are equal weights after the softmax.
    weights = torch.zeros(tiles[0][0].shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=NUM_POOL_STEPS, line_search_fn="strong_wolfe")
    num_observed = torch.stack([observed.sum() for _, observed in tiles]).sum()

    def cross_entropy() -> Tensor:
        """Compute the penalised cross-entropy per count and its gradient."""
        optimiser.zero_grad()
        pooled = [torch.einsum("mtx,t->mx", logs, weights.softmax(0)).log_softmax(1) for logs, _ in tiles]
        total = torch.stack([-(observed * log).sum() for log, (_, observed) in zip(pooled, tiles, strict=True)]).sum()
        value = total / num_observed + decay * weights.square().sum()
        value.backward()
        return value

    # The callers run without gradients.
    with torch.enable_grad():
        optimiser.step(cross_entropy)
    return weights.detach()
