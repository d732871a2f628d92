"""Fits to the training cells before the first step: gene profiles, cell states, and the weights of the smoother."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cifm_cli import keys
from cifm_cli.model.heads import ResidualHead
from cifm_cli.model.smoother import LeastSquares
from cifm_cli.model.states import fit_states, nearest_state
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cifm_cli.model.smoother import Smoother, Terms
    from cifm_cli.training.corpus import Corpus, Example
    from cifm_cli.training.session import Session

    PoolData = tuple[Tensor, Tensor]  # data of one tile; see `fit_pool`

NUM_SMOOTHER_TILES = 24  # tiles that the linear weights are fitted on
# Candidates for `prior_count` of `LeastSquares.solve`, in masked cells: from weights of each gene alone to nearly the
# same weights for all genes.
PRIOR_COUNTS = (20.0, 200.0, 2_000.0, 20_000.0)
NUM_POOL_TILES = 6  # a pool has only a handful of weights
NUM_POOL_STEPS = 30  # iterations of L-BFGS, which has few weights to fit
MAX_STATE_CELLS = 50_000  # training cells that are clustered into cell states
CELLS_PER_STATE = 20  # at least, so that small tissues have few states; the others stay empty


@torch.no_grad()
def fit_head(session: Session, *, new_weights: bool = True) -> None:
    """Fit the head of the `residual` objective, so that the first prediction equals that of a good baseline.

    The head of the paper has nothing to fit and is not changed.

    Args:
        session: At step 0; the head of every member of its network is changed.
        new_weights: Whether the network is untrained. Otherwise its cell states are kept, and so are the
            profiles and weights of genes that no slide measures.
    """
    head = session.network.first.head
    if not isinstance(head, ResidualHead):
        return
    # Tiles are made on the CPU, and the least squares are solved there.
    head.to("cpu")
    fill_profiles(head.smoother, session.corpus)
    if new_weights:
        cells = session.corpus.sample_cells(MAX_STATE_CELLS)
        # At least one state, for tissues of fewer than `CELLS_PER_STATE` cells.
        num_states = min(len(head.states.frequency), max(1, cells.shape[0] // CELLS_PER_STATE))
        seed = int(numpy_generator(session.seed, "states").integers(2**31))
        head.states.fill(*fit_states(cells, num_states, seed))
    fit_smoother(session, head)
    head.to(session.device)
    # Probabilities of states are averaged over the members, so all members have the same states.
    for member in session.network.members:
        if isinstance(member.head, ResidualHead):
            member.head.smoother.load_state_dict(head.smoother.state_dict())
            member.head.states.load_state_dict(head.states.state_dict())


def fill_profiles(smoother: Smoother, corpus: Corpus) -> None:
    """Set the gene profiles of a smoother to those of the training cells, for the genes that a slide measures."""
    genes = corpus.measured_genes()
    profiles = corpus.gene_profiles()
    smoother.mean_profile[genes] = profiles.mean[genes]
    smoother.share_profile[genes] = profiles.expressed[genes]
    composition = profiles.composition[genes]
    # The measured genes keep their total, so that the composition of all genes still sums to 1.
    total = smoother.composition_profile[genes].sum()
    smoother.composition_profile[genes] = composition * total / composition.sum()


def fit_smoother(session: Session, head: ResidualHead) -> None:
    """Fit the weights with which a smoother blends its terms.

    Those of mean expression and of the probability of expression are fitted by least squares, those of compositions and
    of cell states by likelihood. How much the weights of a gene may differ from those of all genes is chosen on the
    validation tiles: weights of a single gene that are fitted to a few hundred spots are mostly noise.

    Args:
        session: Its training and validation tiles are used.
        head: Its profiles and states are set; the weights of its smoother are changed, for the genes of the slides.
    """
    corpus, smoother, decay = session.corpus, head.smoother, session.recipe.objective.pool_decay
    num_terms, num_genes = smoother.mean_weights.shape
    means, expressed = (LeastSquares(num_terms, num_genes) for _ in range(2))
    compositions: list[PoolData] = []
    states: list[PoolData] = []
    for number in range(NUM_SMOOTHER_TILES):
        example = corpus.draw_example(keys.TRAIN, session.seed, "smoother", number)
        terms, frequencies = smoother_terms(head, example)
        means.add(terms.means, example.target.values, example.tile.genes)
        expressed.add(terms.expressed, is_expressed(example), example.tile.genes)
        if number < NUM_POOL_TILES:
            compositions.append((terms.compositions.log(), example.target.counts))
            states.append((frequencies.log(), true_states(head, example)))
    num_validated = min(corpus.num_validation_tiles, NUM_SMOOTHER_TILES)
    validation = [corpus.validation_example(number) for number in range(num_validated)]
    # Terms do not depend on the weights, so they are computed once for all candidates.
    with_terms = [(smoother_terms(head, example)[0], example) for example in validation]
    mean_weights = choose_weights(
        means, [(terms.means, example.target.values, example.tile.genes) for terms, example in with_terms]
    )
    expressed_weights = choose_weights(
        expressed, [(terms.expressed, is_expressed(example), example.tile.genes) for terms, example in with_terms]
    )
    genes = corpus.measured_genes()
    smoother.mean_weights[:, genes] = mean_weights[:, genes]
    smoother.share_weights[:, genes] = expressed_weights[:, genes]
    smoother.composition_weights[:] = fit_pool(compositions, decay)
    smoother.state_weights[:] = fit_pool(states, decay)


def smoother_terms(head: ResidualHead, example: Example) -> tuple[Terms, Tensor]:
    """The terms that a smoother blends for the M masked cells of a tile.

    Returns:
        Its terms, and (M, S + 1, K) frequencies of the K cell states.
    """
    sums, expression, genes = example.tile.neighbours, example.tile.neighbour_expression, example.tile.genes
    if sums is None or expression is None:
        raise ValueError("a tile made for another objective has no sums over neighbours")
    states = head.states.assign_states(expression, genes)
    return head.smoother.terms(sums, genes), head.states.frequencies(sums, states)


def is_expressed(example: Example) -> Tensor:
    """(M, P) 1 where a masked cell expresses the gene, 0 elsewhere."""
    return (example.target.values > 0).float()


def true_states(head: ResidualHead, example: Example) -> Tensor:
    """(M, K) 1 at the state of each masked cell, 0 elsewhere."""
    profiles = head.states.profiles[:, example.tile.genes]
    return functional.one_hot(nearest_state(example.target.values, profiles), len(profiles)).float()


def choose_weights(fit: LeastSquares, validation: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Solve a regression with the one of `PRIOR_COUNTS` whose solution has the smallest error on validation tiles.

    Args:
        fit: The regression, with the training tiles added.
        validation: (M, T, P) terms, (M, P) targets and (P,) vocabulary rows of each validation tile.

    Returns:
        (T, G) weights.
    """

    def squared_error(weights: Tensor) -> float:
        """Sum of squared errors on the validation tiles."""
        return sum(
            float((torch.einsum("mtp,tp->mp", terms, weights[:, genes]) - target).square().sum(dtype=torch.float64))
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
