"""What is fitted before the first step instead of learned: profiles, cell states, and the blend training starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cifm_cli import keys
from cifm_cli.model.heads import ResidualHead
from cifm_cli.model.smoother import LeastSquares
from cifm_cli.model.states import fit_states
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from cifm_cli.training.run import Run

SMOOTHER_TILES = 24  # tiles the smoother is fitted on
STATE_CELLS = 50_000  # training cells that the states are told from
CELLS_PER_STATE = 20  # at least, so that small tissues have few states; the others stay empty


@torch.no_grad()
def fit_head(run: Run) -> None:
    """Fit the `residual` objective's head on training cells, so that training begins at a baseline.

    Args:
        run: At step 0; the head of its network is changed, unless it is the paper's, which has nothing to fit.
    """
    head = run.network.head
    if not isinstance(head, ResidualHead):
        return
    head.to("cpu")
    smoother, states = head.smoother, head.states
    for profile, found in zip(
        (smoother.mean_profile, smoother.share_profile, smoother.composition_profile),
        run.corpus.profiles(),
        strict=True,
    ):
        profile.copy_(found)
    cells = run.corpus.some_cells(STATE_CELLS)
    num_states = min(len(states.frequency), max(1, cells.shape[0] // CELLS_PER_STATE))
    number = int(numpy_generator(run.seed, "states").integers(2**31))
    states.fill(*fit_states(cells, num_states, number))
    fit_smoother(run, head)
    head.to(run.device)


def fit_smoother(run: Run, head: ResidualHead) -> None:
    """Fit the blend of every gene by least squares on some training tiles.

    Args:
        run: Whose tiles.
        head: Its profiles are there; the weights of its smoother are changed.
    """
    smoother = head.smoother
    num_terms, num_genes = smoother.mean_weights.shape
    means, shares = (LeastSquares(num_terms, num_genes) for _ in range(2))
    for number in range(SMOOTHER_TILES):
        example = run.corpus.draw(keys.TRAIN, run.seed, "smoother", number)
        if example.tile.around is None:
            raise ValueError("a tile made for another objective has no surroundings")
        terms = smoother.terms(example.tile.around, example.tile.genes)
        means.add(terms.means, example.target.values, example.tile.genes)
        shares.add(terms.shares, (example.target.values > 0).float(), example.tile.genes)
    smoother.mean_weights[:], smoother.share_weights[:] = means.solve(), shares.solve()
