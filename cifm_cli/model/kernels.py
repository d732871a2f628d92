"""Weighted sums of sparse rows, compiled: making a training tile consists of little else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_backends.fused_compile import Array


def sum_around(
    indptr: NDArray[np.int64],
    visible: NDArray[np.int64],
    weight: NDArray[np.float64],
    expression: csr_matrix,
    counts: csr_matrix,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sum what the visible cells around each query express, in the order of the pairs.

    Args:
        indptr: (M + 1,) where the pairs of each query begin.
        visible: (E,) visible cell of each pair.
        weight: (E, S) weights of each pair.
        expression: (V, P) log-normalised.
        counts: (V, P) raw, of the same sparsity.

    Returns:
        (M, S, P) sums of expression, of "the gene is expressed", and of counts.
    """
    num_scales, num_genes = weight.shape[1], expression.shape[1]
    sums = np.zeros((3, len(indptr) - 1, num_scales, num_genes))
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
    room: Array,
    sums: Array,
) -> None:
    num_scales, num_genes = weight.shape[1], room.shape[0]
    for query in range(len(indptr) - 1):
        room[:] = 0
        for pair in range(indptr[query], indptr[query + 1]):
            cell = visible[pair]
            for place in range(starts[cell], starts[cell + 1]):
                into, value, count = room[genes[place]], values[place], counts[place]
                for scale in range(num_scales):
                    share = weight[pair, scale]
                    into[scale, 0] += share * value
                    into[scale, 1] += share
                    into[scale, 2] += share * count
        for scale in range(num_scales):
            for gene in range(num_genes):
                for kind in range(3):
                    sums[kind, query, scale, gene] = room[gene, scale, kind]
