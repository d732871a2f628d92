"""Weighted sums of sparse rows, compiled. They take most of the time in which a training tile is prepared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.jit import Array


def weighted_sums(
    indptr: NDArray[np.int64],
    visible: NDArray[np.int64],
    weight: NDArray[np.float64],
    expression: csr_matrix,
    counts: csr_matrix,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sum the expression of the visible cells around each query, in the order of the pairs.

    Args:
        indptr: (M + 1,) position of the first pair of each query.
        visible: (E,) visible cell of each pair.
        weight: (E, S) weights of each pair, one for each scale.
        expression: (V, P) log-normalised expression.
        counts: (V, P) raw counts, of the same sparsity.

    Returns:
        Three arrays of shape (M, S, P): sums of the expression, of the indicator "the gene is expressed", and of the
        counts.
    """
    num_scales, num_genes = weight.shape[1], expression.shape[1]
    # One array for the three kinds of sums, which the compiled loop fills together.
    sums = np.zeros((3, len(indptr) - 1, num_scales, num_genes))
    # scipy chooses int32 or int64 by the size of a matrix; a single type needs a single compilation.
    starts, genes = expression.indptr.astype(np.int64), expression.indices.astype(np.int64)
    values, raw = expression.data.astype(np.float64), counts.data.astype(np.float64)
    _add(indptr, visible, weight, starts, genes, values, raw, np.zeros((num_genes, num_scales, 3)), sums)
    return sums[0], sums[1], sums[2]


@compiled
def _add(  # noqa: PLR0913, PLR0917 - compiled code takes arrays, not objects
    indptr: Array,
    visible: Array,
    weight: Array,
    starts: Array,
    genes: Array,
    values: Array,
    counts: Array,
    buffer: Array,
    sums: Array,
) -> None:
    num_scales, num_genes = weight.shape[1], buffer.shape[0]
    for query in range(len(indptr) - 1):
        # The buffer is gene by gene, so that each non-zero value updates a few adjacent numbers.
        buffer[:] = 0
        for pair in range(indptr[query], indptr[query + 1]):
            cell = visible[pair]
            for entry in range(starts[cell], starts[cell + 1]):
                gene_sums, value, count = buffer[genes[entry]], values[entry], counts[entry]
                for scale in range(num_scales):
                    factor = weight[pair, scale]
                    gene_sums[scale, 0] += factor * value
                    gene_sums[scale, 1] += factor
                    gene_sums[scale, 2] += factor * count
        # Transposed to (S, P) only once per query.
        for scale in range(num_scales):
            for gene in range(num_genes):
                for kind in range(3):
                    sums[kind, query, scale, gene] = buffer[gene, scale, kind]
