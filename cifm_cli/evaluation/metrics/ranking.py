"""Ranks, correlations of many rows at once, ROC-AUC and average precision.

A constant prediction or target has correlation 0 and is never dropped: dropping it would reward constant predictions.

Letters: n rows, m columns, P genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Values = NDArray[np.float32]
    Floats = NDArray[np.float64]
    Columns = NDArray[np.int64]

_VALUES_AT_ONCE = 200_000  # as many as fit into a processor's cache


def row_slices(values: NDArray[np.generic]) -> Iterator[slice]:
    """Divide the rows of a matrix into slices that fit into a processor's cache."""
    num_rows = max(1, _VALUES_AT_ONCE // max(values.shape[1], 1))
    for start in range(0, len(values), num_rows):
        yield slice(start, start + num_rows)


def average_ranks(values: Values) -> Values:
    """(n, m) ranks within each row, from 1; ties share the mean rank. Exact up to m of about 8 million."""
    ranks = np.empty(values.shape, dtype=np.float32)
    for rows in row_slices(values):
        rank_in_order(values[rows], _ascending(values[rows]), ranks[rows])
    return ranks


def _ascending(values: Values) -> Columns:
    """(n, m) columns of each row by ascending value."""
    # Most values of a row share the lowest, usually zero. Sorting is much faster when these are made distinct.
    lowest = values.min(axis=1, keepdims=True)
    lower = lowest - np.arange(1, values.shape[1] + 1, dtype=values.dtype)
    return np.argsort(np.where(values == lowest, lower, values), axis=1)


def correlations(x: Values, y: Values) -> Floats:
    """Pearson's correlation of each row of `x` with the same row of `y`; Spearman's, if given their average ranks.

    Args:
        x: (n, m).
        y: (n, m).

    Returns:
        (n,); 0 where either row is constant.
    """
    result = np.empty(len(x))
    for rows in row_slices(x):
        constant = (np.ptp(x[rows], axis=1) == 0) | (np.ptp(y[rows], axis=1) == 0)
        a, b = (z[rows] - z[rows].mean(axis=1, keepdims=True, dtype=np.float64) for z in (x, y))
        scale = np.sqrt(np.einsum("nm,nm->n", a, a) * np.einsum("nm,nm->n", b, b))
        result[rows] = np.where(constant, 0, np.einsum("nm,nm->n", a, b) / np.where(constant, 1, scale))
    return result


def detection(probability: Values, expressed: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """How well P(expressed) separates the expressed genes of a cell from the others.

    Args:
        probability: (n, P) predicted probability that a gene is expressed.
        expressed: (n, P).

    Returns:
        (n,) area under the ROC curve: the probability that an expressed gene has a higher prediction than one that is
        not, ties counting half; 0.5 for a cell with no or all genes expressed. (n,) average precision: the fraction of
        expressed genes among those predicted at least as high, averaged over the expressed genes; 0 for a cell without.
    """
    auroc, precision = np.empty(len(probability)), np.empty(len(probability))
    _detect_in_order(probability, expressed, _ascending(probability), auroc, precision)
    return auroc, precision


@compiled
def rank_in_order(values: Values, order: Columns, ranks: Values) -> None:
    """Write average ranks within each row to `ranks`; `order` (n, m) has the columns by ascending value."""
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
def order_gated(gated: Values, order: Columns, gated_order: Columns) -> None:
    """Sort rows in which some values were set to zero, from the `order` before it, without sorting anew."""
    for row in range(len(gated)):
        place = 0
        for sign in (-1, 0, 1):
            for column in order[row]:
                if np.sign(gated[row, column]) == sign:
                    gated_order[row, place] = column
                    place += 1


@compiled
def _detect_in_order(
    probability: Values, expressed: NDArray[np.bool_], order: Columns, auroc: Floats, precision: Floats
) -> None:
    """Write ROC-AUC and average precision of each row; `order` (n, P) has its genes by ascending probability."""
    num_genes = probability.shape[1]
    for row in range(len(probability)):
        start, hits, misses, lost, total = 0, 0, 0, 0.0, 0.0
        while start < num_genes:  # groups of equal probability, from the highest
            highest = order[row, num_genes - 1 - start]
            stop, here = start + 1, int(expressed[row, highest])
            while stop < num_genes and probability[row, order[row, num_genes - 1 - stop]] == probability[row, highest]:
                here += int(expressed[row, order[row, num_genes - 1 - stop]])
                stop += 1
            missed = stop - start - here
            lost += here * (misses + missed / 2)  # pairs in which the gene that is not expressed is ranked higher
            hits, misses = hits + here, misses + missed
            total += here * (hits / stop)
            start = stop
        auroc[row] = (hits * misses - lost) / (hits * misses) if hits * misses else 0.5
        precision[row] = total / hits if hits else 0.0
