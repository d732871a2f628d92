"""Thinning: counts of visible cells are left out in training, as if the cells had been measured less deeply.

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

    A cell has the same neighbours in every tile that masks it, so a network can learn its counts by recognising them.
    Neighbours whose counts are drawn anew are harder to recognise.

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
    thinned.data = generator.binomial(counts.data.astype(np.int64), of_entry).astype(counts.dtype)
    thinned.eliminate_zeros()
    return thinned, kept
