"""Cell states: clusters of the cells of a slide by expression, and their frequencies around a query.

A masked cell between a tumour and a T-cell zone is a cell of one or the other; the mean of both is the expression of
neither. Therefore the head infers a probability for each state in addition to the mean.

Letters: K states, M query cells, V visible cells, S scales, T = S + 1 terms, P genes of the panel, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cifm_cli.model.bias_free import VoidNorm
from cifm_cli.model.kernels import add_by_state
from cifm_cli.model.products import Linear, product
from cifm_cli.model.smoother import runs_compiled, shrink
from cifm_cli.statistics.clustering import cluster_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.model.masking import Expression
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.model.smoother import NeighbourSums

COMPONENTS = 30  # principal components that cells are clustered in
RESTARTS = 3  # of k-means; the clustering with the smallest inertia is used
CELLS_PER_STATE = 20  # at least, so that small tissues have few states
PRIOR_MASS = 2.0  # weight of the next wider frequencies in every frequency


class StateMaps(nn.Module):
    """Reads the states around a query, and corrects their logits. A state enters through its profile only.

    Therefore slides may have states of their own, in any number and order.

    Args:
        width: D.
        num_terms: T.
    """

    def __init__(self, width: int, num_terms: int) -> None:
        super().__init__()
        self.norm = VoidNorm()
        self.mixture = Linear(num_terms * width, width)
        self.query = Linear(width, width)
        self.key = Linear(width, width, bias=False)
        # The correction starts at zero.
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)

    def describe(self, slide: SlideParameters, gene_rows: Tensor) -> Tensor:
        """Describe the states by the difference between their profiles and the mean of the slide.

        Args:
            slide: Parameters of the slide.
            gene_rows: (P, D) weights of the gene input for the panel.

        Returns:
            (K, D) features of the states.
        """
        return self.norm((slide.state_profiles - slide.mean) @ gene_rows)  # type: ignore[no-any-return]

    def read(self, roots: Tensor, states: Tensor) -> Tensor:
        """Map the states around queries to features.

        Args:
            roots: (M, T, K) square roots of the frequencies.
            states: (K, D) features from `describe`.

        Returns:
            (M, D) features.
        """
        # With rows of norm 1: a step of the optimiser changes the product with a larger input more, whatever the weights are, and
        # the states would outweigh the other inputs of the head.
        rows = states / states.shape[1] ** 0.5
        return self.mixture(product(roots, rows.T).flatten(1))  # type: ignore[no-any-return]

    def correct(self, z: Tensor, states: Tensor) -> Tensor:
        """Correct the logits of the states.

        Args:
            z: (M, D) features of the queries.
            states: (K, D) features from `describe`.

        Returns:
            (M, K) corrections.
        """
        return product(self.query(z), self.key(states)) / z.shape[1] ** 0.5  # type: ignore[no-any-return]


@torch.no_grad()
def assign_states(expression: Expression, profiles: Tensor) -> Tensor:
    """Assign cells to the states with the nearest profiles.

    Each cell is summed separately, in the order of its genes, so its state does not depend on the other cells.

    Args:
        expression: Expression of V cells.
        profiles: (K, P) mean expression of the states.

    Returns:
        (V,) states.
    """
    # argmin |x - p|^2 = argmax <x, p> - |p|^2 / 2, and <x, p> needs the non-zero genes only.
    product = functional.embedding_bag(
        expression.columns,
        profiles.T.contiguous(),
        expression.offsets,
        mode="sum",
        per_sample_weights=expression.values.to(profiles.dtype),
    )
    return (product - profiles.square().sum(1) / 2).argmax(1)


def state_frequencies(neighbours: NeighbourSums, state: Tensor, frequency: Tensor) -> Tensor:
    """Frequency of each state around the queries, at every scale, shrunk towards the next wider scale.

    Args:
        neighbours: Pairs of M queries and visible cells.
        state: (V,) states of the visible cells.
        frequency: (K,) frequency of each state in the whole slide.

    Returns:
        (M, S + 1, K) positive frequencies that sum to 1 over K; the last term is that of the whole slide.
    """
    num_queries, num_scales = neighbours.mass.shape
    sums = neighbours.weight.new_zeros(num_queries, num_scales, len(frequency))
    query, states = neighbours.query, state[neighbours.visible]
    if runs_compiled(neighbours.weight, neighbours.mass):
        add_by_state(query.numpy(), states.numpy(), neighbours.weight.numpy(), sums.numpy())
    else:
        scales = torch.arange(num_scales, device=query.device)
        sums = sums.index_put((query[:, None], scales, states[:, None]), neighbours.weight, accumulate=True)
    return shrink(sums, neighbours.mass, frequency, PRIOR_MASS)


def nearest_state(values: Tensor, profiles: Tensor) -> Tensor:
    """Assign cells to states, given dense expression.

    Args:
        values: (M, P) log-normalised expression.
        profiles: (K, P) mean expression of the states.

    Returns:
        (M,) states.
    """
    return (values.to(profiles.dtype) @ profiles.T - profiles.square().sum(1) / 2).argmax(1)


def fit_states(expression: csr_matrix, max_states: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cluster cells into states by k-means on principal components.

    Args:
        expression: (N, P) log-normalised expression of cells with counts.
        max_states: Largest number of states; there are fewer if N is below `CELLS_PER_STATE` times that.
        seed: Seed of the principal components and of k-means.

    Returns:
        (K, P) mean expression of each state and (K,) fraction of the cells in it, both float32.
    """
    num_cells, num_genes = expression.shape
    num_states = max(1, min(max_states, num_cells // CELLS_PER_STATE))
    dense = expression.toarray()
    label = cluster_cells(dense, num_states, num_components=COMPONENTS, seed=seed, restarts=RESTARTS)
    number = np.bincount(label, minlength=num_states)
    # In float64, as a state may have thousands of cells.
    sums = np.zeros((num_states, num_genes))
    np.add.at(sums, label, dense)
    profiles = sums / np.maximum(number, 1)[:, None]
    return torch.from_numpy(profiles).float(), _frequencies(number)


def count_states(expression: csr_matrix, profiles: Tensor) -> Tensor:
    """Count the cells in each of several states that are given.

    Args:
        expression: (N, P) log-normalised expression of cells with counts.
        profiles: (K, P) mean expression of the states.

    Returns:
        (K,) fraction of the cells in each state, float32, positive.
    """
    label = nearest_state(torch.from_numpy(expression.toarray()), profiles)
    return _frequencies(np.bincount(label.numpy(), minlength=len(profiles)))


def _frequencies(number: NDArray[np.int64]) -> Tensor:
    """Fractions of the cells in each state: one cell more than found, so that no logarithm is infinite."""
    return torch.from_numpy((number + 1) / (number + 1).sum()).float()
