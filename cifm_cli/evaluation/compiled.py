"""The loops in which an evaluation spends its time, compiled at the first call: nothing in between is stored.

Letters: Q places, V cells around them, P genes, B blocks, n rows, m columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Values = NDArray[np.float32]
    Numbers = NDArray[np.float64]
    Places = NDArray[np.int64]


def weighted_sums(weights: csr_matrix, values: csr_matrix) -> Values:
    """Sum rows of a sparse matrix, each by its weight, straight into a dense one.

    Args:
        weights: (Q, V).
        values: (V, P).

    Returns:
        (Q, P), added up in the order in which the weights are stored.
    """
    total = np.zeros((weights.shape[0], values.shape[1]), dtype=np.float32)
    _add_rows(total, *(part for matrix in (weights, values) for part in (matrix.indptr, matrix.indices, matrix.data)))
    return total


@compiled
def _add_rows(
    total: Values, first: Places, row: Places, weight: Values, first_gene: Places, gene: Places, value: Values
) -> None:
    for place in range(len(total)):
        for i in range(first[place], first[place + 1]):
            for j in range(first_gene[row[i]], first_gene[row[i] + 1]):
                total[place, gene[j]] += weight[i] * value[j]


@compiled
def rank_in_order(values: Values, order: Places, ranks: Values) -> None:
    """Ranks within each row, from 1; ties share the mean of their ranks.

    Args:
        values: (n, m).
        order: (n, m) columns of each row, by ascending value.
        ranks: (n, m) to be filled.
    """
    for row in range(len(values)):
        start = 0
        while start < values.shape[1]:
            stop = start + 1
            while stop < values.shape[1] and values[row, order[row, stop]] == values[row, order[row, start]]:
                stop += 1
            for i in range(start, stop):
                ranks[row, order[row, i]] = (start + stop + 1) / 2
            start = stop


@compiled
def order_gated(gated: Values, order: Places, found: Places) -> None:
    """Order rows of which some values have become zero.

    Args:
        gated: (n, m).
        order: (n, m) columns of each row, by ascending value before.
        found: (n, m) to be filled with those by ascending value now.
    """
    for row in range(len(gated)):
        place = 0
        for sign in (-1, 0, 1):
            for column in order[row]:
                if np.sign(gated[row, column]) == sign:
                    found[row, place] = column
                    place += 1


@compiled
def detect_in_order(
    share: Values, expressed: NDArray[np.bool_], order: Places, roc_area: Numbers, precision: Numbers
) -> None:
    """Area under the ROC curve and average precision of each row; see `ranking.detection`.

    Args:
        share: (n, P).
        expressed: (n, P).
        order: (n, P) genes of each row, by ascending share.
        roc_area: (n,) to be filled.
        precision: (n,) to be filled.
    """
    num_genes = share.shape[1]
    for row in range(len(share)):
        start, hits, misses, lost, found = 0, 0, 0, 0.0, 0.0
        while start < num_genes:  # those of one share at a time, from the highest down
            highest = order[row, num_genes - 1 - start]
            stop, here = start + 1, int(expressed[row, highest])
            while stop < num_genes and share[row, order[row, num_genes - 1 - stop]] == share[row, highest]:
                here += int(expressed[row, order[row, num_genes - 1 - stop]])
                stop += 1
            missed = stop - start - here
            lost += here * (misses + missed / 2)  # pairs in which the one that is not expressed has the higher share
            hits, misses = hits + here, misses + missed
            found += here * (hits / stop)
            start = stop
        roc_area[row] = (hits * misses - lost) / (hits * misses) if hits * misses else 0.5
        precision[row] = found / hits if hits else 0.0


@compiled
def sum_blocks(x: Values, y: Values, means: Numbers, block: Places, sums: Numbers) -> None:
    """Add up two variables, their squares and their product over the cells of each block, gene by gene.

    Args:
        x: (P, Q).
        y: (P, Q).
        means: (2, P) of both, taken off first.
        block: (Q,) block of each cell.
        sums: (5, P, B) of x, y, x x, y y, x y: to be added to.
    """
    for gene in range(len(x)):
        for cell in range(len(block)):
            a, b, place = x[gene, cell] - means[0, gene], y[gene, cell] - means[1, gene], block[cell]
            sums[0, gene, place] += a
            sums[1, gene, place] += b
            sums[2, gene, place] += a * a
            sums[3, gene, place] += b * b
            sums[4, gene, place] += a * b
