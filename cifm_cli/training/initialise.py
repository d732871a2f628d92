"""What is fitted before the first step instead of learned: profiles, cell states, and the blend training starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cifm_cli import keys
from cifm_cli.model.heads import ResidualHead
from cifm_cli.model.smoother import LeastSquares
from cifm_cli.model.states import fit_states, nearest_profile
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cifm_cli.model.smoother import Smoother, Terms
    from cifm_cli.training.corpus import Corpus, Example
    from cifm_cli.training.session import Run

    Pool = tuple[Tensor, Tensor]

SMOOTHER_TILES = 24  # tiles the smoother is fitted on
BELIEFS = (20.0, 200.0, 2_000.0, 20_000.0)  # queries' worth that a gene may believe in the weights of all genes
POOL_TILES = 6  # tiles on which a handful of weights is fitted
POOL_STEPS = 30
STATE_CELLS = 50_000  # training cells that the states are told from
CELLS_PER_STATE = 20  # at least, so that small tissues have few states; the others stay empty


@torch.no_grad()
def fit_head(run: Run, *, trained: bool = False) -> None:
    """Fit the `residual` objective's head on training cells, so that training begins at a baseline.

    Args:
        run: At step 0; the head of its network is changed, unless it is the paper's, which has nothing to fit.
        trained: Whether the network comes from another run. It knows its cell states then, and keeps them, and what it
            knows of genes that these slides don't measure.
    """
    head = run.network.first.head
    if not isinstance(head, ResidualHead):
        return
    head.to("cpu")
    smoother, states = head.smoother, head.states
    fill_profiles(smoother, run.corpus)
    if not trained:
        cells = run.corpus.some_cells(STATE_CELLS)
        num_states = min(len(states.frequency), max(1, cells.shape[0] // CELLS_PER_STATE))
        number = int(numpy_generator(run.seed, "states").integers(2**31))
        states.fill(*fit_states(cells, num_states, number))
    fit_smoother(run, head)
    head.to(run.device)
    for member in run.network.members:  # all start at the same baseline, and know the same states
        if isinstance(member.head, ResidualHead):
            member.head.smoother.load_state_dict(smoother.state_dict())
            member.head.states.load_state_dict(states.state_dict())


def fill_profiles(smoother: Smoother, corpus: Corpus) -> None:
    """Take over what the training cells express on average; genes that they don't measure stay as they are."""
    genes = corpus.measured_genes()
    mean, share, composition = (profile[genes] for profile in corpus.profiles())
    smoother.mean_profile[genes] = mean
    smoother.share_profile[genes] = share
    known = smoother.composition_profile[genes].sum()  # 1, where every gene is measured
    smoother.composition_profile[genes] = composition * known / composition.sum()


def fit_smoother(run: Run, head: ResidualHead) -> None:
    """Fit the blends on some training tiles: means and shares by least squares, compositions and states by likelihood.

    How much of a gene's weights is its own is what infers the validation tiles best: a few hundred spots of a few
    patients tell little of a single gene in another patient.

    Args:
        run: Whose tiles.
        head: Its profiles and states are there; the weights of its smoother are changed, for the genes of the slides.
    """
    smoother = head.smoother
    num_terms, num_genes = smoother.mean_weights.shape
    means, shares = (LeastSquares(num_terms, num_genes) for _ in range(2))
    compositions: list[Pool] = []
    states: list[Pool] = []
    for number in range(SMOOTHER_TILES):
        example = run.corpus.draw(keys.TRAIN, run.seed, "smoother", number)
        terms, frequencies = blended(head, example)
        means.add(terms.means, example.target.values, example.tile.genes)
        shares.add(terms.shares, expressed(example), example.tile.genes)
        if number < POOL_TILES:
            compositions.append((terms.compositions.log(), example.target.counts))
            states.append((frequencies.log(), actual_states(head, example)))
    looks = [run.corpus.look_example(number) for number in range(min(run.corpus.num_looks, SMOOTHER_TILES))]
    unseen = [(blended(head, part)[0], part) for part in looks]
    genes = run.corpus.measured_genes()
    mean_weights = choose_weights(means, [(terms.means, part.target.values, part.tile.genes) for terms, part in unseen])
    share_weights = choose_weights(shares, [(terms.shares, expressed(part), part.tile.genes) for terms, part in unseen])
    smoother.mean_weights[:, genes], smoother.share_weights[:, genes] = mean_weights[:, genes], share_weights[:, genes]
    smoother.composition_weights[:] = fit_pool(compositions, run.recipe.objective.pool_decay)
    smoother.state_weights[:] = fit_pool(states, run.recipe.objective.pool_decay)


def blended(head: ResidualHead, example: Example) -> tuple[Terms, Tensor]:
    """What a smoother blends for the masked cells of a tile: its terms, and (M, S + 1, K) frequencies of the states."""
    around, surrounding, genes = example.tile.around, example.tile.surrounding, example.tile.genes
    if around is None or surrounding is None:
        raise ValueError("a tile made for another objective has no surroundings")
    return head.smoother.terms(around, genes), head.states.frequencies(
        around, head.states.sort_cells(surrounding, genes)
    )


def expressed(example: Example) -> Tensor:
    """(M, P) 1 where a masked cell expresses the gene."""
    return (example.target.values > 0).float()


def actual_states(head: ResidualHead, example: Example) -> Tensor:
    """(M, K) 1 at the state that each masked cell is in."""
    profiles = head.states.profiles[:, example.tile.genes]
    return functional.one_hot(nearest_profile(example.target.values, profiles), len(profiles)).float()


def choose_weights(fit: LeastSquares, unseen: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Solve for the weights, with the belief in shared weights that infers unseen cells best.

    Args:
        fit: Gathered on training tiles.
        unseen: (M, T, P) terms, (M, P) target and (P,) vocabulary rows of some validation tiles.

    Returns:
        (T, G).
    """

    def cost(weights: Tensor) -> float:
        return sum(
            float((torch.einsum("mtp,tp->mp", terms, weights[:, genes]) - target).square().sum(dtype=torch.float64))
            for terms, target, genes in unseen
        )

    return min((fit.solve(belief) for belief in BELIEFS), key=cost)


def fit_pool(parts: Sequence[Pool], decay: float) -> Tensor:
    """Fit the weights of a logarithmic pool, one for each of its terms, by likelihood.

    Args:
        parts: Logarithms of what is pooled, (M, T, X), and how often each of the X was seen, (M, X).
        decay: How strongly the weights are drawn to each other, nats.

    Returns:
        (T,) weights before the softmax.
    """
    weights = torch.zeros(parts[0][0].shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=POOL_STEPS, line_search_fn="strong_wolfe")
    num_seen = torch.stack([seen.sum() for _, seen in parts]).sum()

    def surprise() -> Tensor:
        optimiser.zero_grad()
        pooled = [torch.einsum("mtx,t->mx", logs, weights.softmax(0)).log_softmax(1) for logs, _ in parts]
        total = torch.stack([-(seen * log).sum() for log, (_, seen) in zip(pooled, parts, strict=True)]).sum()
        value = total / num_seen + decay * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(surprise)
    return weights.detach()
