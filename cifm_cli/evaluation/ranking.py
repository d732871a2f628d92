"""Ranks, correlations of many rows at once, and how well a share tells what is expressed.

A constant prediction or truth has correlation 0 and is never dropped: dropping it would reward predicting nothing.

Letters: n rows, m columns, P genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.compiled import detect_in_order, rank_in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Values = NDArray[np.float32]
    Numbers = NDArray[np.float64]

_VALUES_AT_ONCE = 200_000  # what stays in a processor's cache


def pieces(values: NDArray[np.generic]) -> Iterator[slice]:
    """Cut the rows of a matrix into pieces that a processor's cache holds."""
    rows_at_once = max(1, _VALUES_AT_ONCE // max(values.shape[1], 1))
    for start in range(0, len(values), rows_at_once):
        yield slice(start, start + rows_at_once)


def average_ranks(values: Values) -> Values:
    """Ranks within each row, from 1; ties share the mean of their ranks.

    Args:
        values: (n, m), no NaN.

    Returns:
        (n, m) float32, exact up to m of about 8 million.
    """
    ranks = np.empty(values.shape, dtype=np.float32)
    for part in pieces(values):
        rank_in_order(values[part], _order(values[part]), ranks[part])
    return ranks


def _order(values: Values) -> NDArray[np.int64]:
    """(n, m) columns of each row by ascending value; the many that share the lowest are told apart first, for speed."""
    lowest = values.min(axis=1, keepdims=True)
    lower = lowest - np.arange(1, values.shape[1] + 1, dtype=values.dtype)
    return np.argsort(np.where(values == lowest, lower, values), axis=1)


def correlations(x: Values, y: Values) -> Numbers:
    """Pearson's correlation of each row of `x` with the same row of `y`; 0 where either is constant.

    Spearman's is this of their average ranks.

    Args:
        x: (n, m).
        y: (n, m).

    Returns:
        (n,).
    """
    found = np.empty(len(x))
    for part in pieces(x):
        constant = (np.ptp(x[part], axis=1) == 0) | (np.ptp(y[part], axis=1) == 0)
        a, b = (z[part] - z[part].mean(axis=1, keepdims=True, dtype=np.float64) for z in (x, y))
        scale = np.sqrt(np.einsum("nm,nm->n", a, a) * np.einsum("nm,nm->n", b, b))
        found[part] = np.where(constant, 0, np.einsum("nm,nm->n", a, b) / np.where(constant, 1, scale))
    return found


def detection(share: Values, expressed: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """How well a share tells the expressed genes of a cell from the others.

    Args:
        share: (n, P) predicted probability of expression.
        expressed: (n, P).

    Returns:
        (n,) area under the ROC curve: the probability that an expressed gene was given a higher share than one that is
        not, ties counting half; 0.5 for a cell with nothing or everything expressed. (n,) average precision: the share
        of expressed genes among those with at least the share of an expressed one, averaged over these; 0 for a cell
        with nothing expressed.
    """
    roc_area, precision = np.empty(len(share)), np.empty(len(share))
    detect_in_order(share, expressed, _order(share), roc_area, precision)
    return roc_area, precision
