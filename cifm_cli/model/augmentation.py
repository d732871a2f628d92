"""Augmentation: what the visible cells tell is varied in training, so that a network cannot recognise them.

A cell has the same neighbours in every tile that masks it, so a network can learn its counts by recognising them.
Neighbours that are drawn anew are harder to recognise.

Letters: V visible cells, P genes of the panel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


def thin_counts(
    counts: csr_matrix, largest: float, generator: np.random.Generator
) -> tuple[csr_matrix, NDArray[np.float64]]:
    """Keep every single count of a cell with a probability that is drawn for the cell.

    The cells are then what they would be if they had been measured less deeply.

    Args:
        counts: (V, P) whole numbers.
        largest: Largest fraction left out; that of a cell is drawn uniformly from 0 to it.
        generator: Source of randomness.

    Returns:
        The (V, P) counts that are left, and the (V,) probability with which each cell kept its counts.
    """
    kept = generator.uniform(1 - largest, 1, size=counts.shape[0])
    thinned = counts.copy()
    of_entry = np.repeat(kept, np.diff(counts.indptr))
    # Most counts are ones, for which a comparison draws the same distribution in a tenth of the time.
    thinned.data = (generator.random(len(of_entry)) < of_entry).astype(counts.dtype)
    several = np.flatnonzero(counts.data > 1)
    thinned.data[several] = generator.binomial(counts.data[several].astype(np.int64), of_entry[several])
    thinned.eliminate_zeros()
    return thinned, kept


def bootstrap_weights(num_cells: int, variance: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw weights of cells, with which their sums vary as if other cells had been drawn from the same tissue.

    A variance of 1 is the Bayesian bootstrap (Rubin 1981, Annals of Statistics 9:130-134), whose weights are exponential.

    Args:
        num_cells: V.
        variance: Variance of the weights, positive.
        generator: Source of randomness.

    Returns:
        (V,) positive weights of mean 1, from a gamma distribution.
    """
    return generator.gamma(1 / variance, variance, size=num_cells)
