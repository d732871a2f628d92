"""Cell states: the few dozen kinds of cell that a masked place may hold, and how often each stands near it.

A masked cell between a tumour and a T-cell zone is one or the other, never their mean. So the training cells are sorted
into states, and the head infers a probability of each: a distribution over cells, where the mean belongs to none.

Letters: K states, M query cells, V visible cells, S scales, P genes of the panel, G genes of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cifm_cli.model.smoother import shrink
from cifm_cli.statistics.clustering import cluster_cells

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from cifm_cli.model.masking import Expression
    from cifm_cli.model.smoother import Surroundings

COMPONENTS = 30  # principal components in which cells are told apart
RESTARTS = 3  # of k-means; the tightest sorting is kept
FAR = 100.0  # expression of a state that no cell is in
RARE = 1e-6  # and its frequency
PRIOR_MASS = 2.0  # mass of the next wider frequencies in every frequency


class CellStates(nn.Module):
    """K profiles of expression; a cell is in the state whose profile is nearest.

    Args:
        num_states: K.
        num_genes: G.
    """

    profiles: Tensor
    frequency: Tensor

    def __init__(self, num_states: int, num_genes: int) -> None:
        super().__init__()
        self.register_buffer("profiles", torch.zeros(num_states, num_genes))
        self.register_buffer("frequency", torch.full((num_states,), 1 / num_states))

    def fill(self, profiles: Tensor, frequency: Tensor) -> None:
        """Take over what `fit_states` found; where it found fewer than K states, the others stay out of reach.

        Args:
            profiles: (n, G), n at most K.
            frequency: (n,) of the training cells.
        """
        num_found = len(frequency)
        self.profiles.fill_(FAR)
        self.profiles[:num_found] = profiles
        self.frequency.fill_(RARE)
        self.frequency[:num_found] = frequency
        self.frequency /= self.frequency.sum()

    @torch.no_grad()
    def sort_cells(self, expression: Expression, genes: Tensor) -> Tensor:
        """State of each cell; on a panel that lacks genes, the genes it has decide.

        Each cell is summed on its own, in the order of its genes: the answer does not depend on the other cells.

        Args:
            expression: Of V cells.
            genes: (P,) vocabulary rows of the panel.

        Returns:
            (V,) states.
        """
        closeness = functional.embedding_bag(
            expression.genes,
            self.profiles.T.contiguous(),
            expression.offsets,
            mode="sum",
            per_sample_weights=expression.values.to(self.profiles.dtype),
        )
        return (closeness - self.profiles[:, genes].square().sum(1) / 2).argmax(1)

    def frequencies(self, around: Surroundings, state: Tensor) -> Tensor:
        """How often each state stands around the queries, at every scale, drawn a little to the next wider one.

        Args:
            around: Pairs of M queries and visible cells.
            state: (V,) states of the visible cells.

        Returns:
            (M, S + 1, K), positive, rows sum to 1; the last term is the frequency among training cells.
        """
        num_queries, num_scales = around.mass.shape
        num_states = len(self.frequency)
        weighted = around.weight.new_zeros(num_queries * num_states, num_scales)
        weighted = weighted.index_add(0, around.query * num_states + state[around.visible], around.weight)
        sums = weighted.view(num_queries, num_states, num_scales)
        return shrink(sums.swapaxes(1, 2), around.mass, self.frequency, PRIOR_MASS)


def nearest_profile(values: Tensor, profiles: Tensor) -> Tensor:
    """State of cells given densely, as the truth is.

    Args:
        values: (M, P) log-normalised expression.
        profiles: (K, P) of the states.

    Returns:
        (M,) states.
    """
    return (values.to(profiles.dtype) @ profiles.T - profiles.square().sum(1) / 2).argmax(1)


def fit_states(expression: csr_matrix, num_states: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sort training cells into states: k-means on principal components.

    Args:
        expression: (N, P) log-normalised, at least as many cells as states.
        num_states: K.
        seed: Of components and k-means.

    Returns:
        (K, P) mean expression of each state and (K,) share of the cells in it, both float32.
    """
    dense = expression.toarray()
    label = cluster_cells(dense, num_states, num_components=COMPONENTS, seed=seed, restarts=RESTARTS)
    number = np.bincount(label, minlength=num_states)
    sums = np.zeros((num_states, dense.shape[1]))
    np.add.at(sums, label, dense)
    profiles = sums / np.maximum(number, 1)[:, None]
    return torch.from_numpy(profiles).float(), torch.from_numpy((number + 1) / (number + 1).sum()).float()
