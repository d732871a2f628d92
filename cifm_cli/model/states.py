"""Cell states: clusters of the training cells by expression, and their frequencies around a query.

A masked cell between a tumour and a T-cell zone is a cell of one or the other; the mean of both is the expression of
neither. Therefore the head infers a probability for each state in addition to the mean.

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
    from cifm_cli.model.smoother import NeighbourSums

COMPONENTS = 30  # principal components that cells are clustered in
RESTARTS = 3  # of k-means; the clustering with the smallest inertia is used
FAR = 100.0  # expression of unused states, so far from any cell that none is assigned to them
RARE = 1e-6  # frequency of unused states, positive because logarithms are taken
PRIOR_MASS = 2.0  # weight of the next wider frequencies in every frequency


class CellStates(nn.Module):
    """K mean profiles of expression. The state of a cell is that of the nearest profile.

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
        """Set the states from `fit_states`. If there are fewer than K, no cell is assigned to the others.

        Args:
            profiles: (n, G) mean expression of each state, n at most K.
            frequency: (n,) fraction of the training cells in each state.
        """
        num_used = len(frequency)
        self.profiles.fill_(FAR)
        self.profiles[:num_used] = profiles
        self.frequency.fill_(RARE)
        self.frequency[:num_used] = frequency
        # The small frequencies of the unused states are part of the total.
        self.frequency /= self.frequency.sum()

    @torch.no_grad()
    def assign_states(self, expression: Expression, genes: Tensor) -> Tensor:
        """Assign cells to states by the genes of a panel.

        Each cell is summed separately, in the order of its genes, so its state does not depend on the other cells.

        Args:
            expression: Expression of V cells.
            genes: (P,) vocabulary rows of the panel.

        Returns:
            (V,) states.
        """
        # argmin |x - p|^2 = argmax <x, p> - |p|^2 / 2, and <x, p> needs the non-zero genes only.
        product = functional.embedding_bag(
            expression.genes,
            self.profiles.T.contiguous(),
            expression.offsets,
            mode="sum",
            per_sample_weights=expression.values.to(self.profiles.dtype),
        )
        return (product - self.profiles[:, genes].square().sum(1) / 2).argmax(1)

    def frequencies(self, neighbours: NeighbourSums, state: Tensor) -> Tensor:
        """Frequency of each state around the queries, at every scale, shrunk towards the next wider scale.

        Args:
            neighbours: Pairs of M queries and visible cells.
            state: (V,) states of the visible cells.

        Returns:
            (M, S + 1, K) positive frequencies that sum to 1 over K; the last term is that of the training cells.
        """
        num_queries, num_scales = neighbours.mass.shape
        num_states = len(self.frequency)
        # One flat index of query and state, so that a single `index_add` gives all sums.
        weighted = neighbours.weight.new_zeros(num_queries * num_states, num_scales)
        weighted = weighted.index_add(0, neighbours.query * num_states + state[neighbours.visible], neighbours.weight)
        sums = weighted.view(num_queries, num_states, num_scales)
        return shrink(sums.swapaxes(1, 2), neighbours.mass, self.frequency, PRIOR_MASS)


def nearest_state(values: Tensor, profiles: Tensor) -> Tensor:
    """Assign cells to states, given dense expression.

    Args:
        values: (M, P) log-normalised expression.
        profiles: (K, P) mean expression of the states.

    Returns:
        (M,) states.
    """
    return (values.to(profiles.dtype) @ profiles.T - profiles.square().sum(1) / 2).argmax(1)


def fit_states(expression: csr_matrix, num_states: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cluster training cells into states by k-means on principal components.

    Args:
        expression: (N, P) log-normalised expression of at least K cells.
        num_states: K.
        seed: Seed of the principal components and of k-means.

    Returns:
        (K, P) mean expression of each state and (K,) fraction of the cells in it, both float32.
    """
    dense = expression.toarray()
    label = cluster_cells(dense, num_states, num_components=COMPONENTS, seed=seed, restarts=RESTARTS)
    number = np.bincount(label, minlength=num_states)
    # In float64, as a state may have thousands of cells.
    sums = np.zeros((num_states, dense.shape[1]))
    np.add.at(sums, label, dense)
    profiles = sums / np.maximum(number, 1)[:, None]
    # One cell more in every state, so that no frequency is zero and logarithms are finite.
    return torch.from_numpy(profiles).float(), torch.from_numpy((number + 1) / (number + 1).sum()).float()
