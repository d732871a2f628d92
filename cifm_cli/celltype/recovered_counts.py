"""Counts of cells of which only the log-normalised expression is given.

Annotators receive expression scaled to 10,000. In a measured cell the smallest value is that of one count, from which the
others follow. A predicted mean has no counts: it is given the depth of a typical cell of the slide.

Letters: N cells, G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOLERANCE: Final = 0.02  # largest distance of a count from an integer, as a fraction of one count and of the count
_MIN_INTEGERS: Final = 0.99  # fraction of the values of a cell that must be integers


def recover_counts(expression: csr_matrix, typical_depth: float | None = None) -> csr_matrix:
    """Compute counts from log-normalised expression.

    Args:
        expression: (N, G) log1p of scaled counts.
        typical_depth: Sum of the counts of a cell whose values are no multiples of its smallest one; when absent, the median
            over the other cells.

    Returns:
        (N, G) counts, double precision.
    """
    # Copied, as eliminating zeros changes the matrix.
    counts = csr_matrix(expression, dtype=np.float64, copy=True)
    counts.eliminate_zeros()
    counts.data = np.expm1(counts.data)
    sizes = np.diff(counts.indptr)
    rows = np.flatnonzero(sizes)
    if not len(rows):
        return counts
    smallest = np.ones(counts.shape[0])
    smallest[rows] = np.minimum.reduceat(counts.data, counts.indptr[rows])
    scaled = counts.data / np.repeat(smallest, sizes)
    is_integer = np.abs(scaled - np.rint(scaled)) <= _TOLERANCE * np.maximum(1, np.minimum(scaled / 10, 10))
    is_counted = np.ones(counts.shape[0], dtype=bool)
    is_counted[rows] = (
        np.add.reduceat(is_integer.astype(np.float64), counts.indptr[rows]) >= _MIN_INTEGERS * sizes[rows]
    )
    counts.data = np.where(np.repeat(is_counted, sizes), np.rint(scaled), counts.data)
    depth = np.asarray(counts.sum(axis=1)).ravel()
    if not is_counted.all():
        counted = depth[is_counted & (sizes > 0)]
        target = typical_depth or (float(np.median(counted)) if len(counted) else 100.0)
        scale: NDArray[np.float64] = np.where(is_counted | (depth <= 0), 1.0, target / np.maximum(depth, 1e-12))
        counts.data *= np.repeat(scale, sizes)
    return counts
