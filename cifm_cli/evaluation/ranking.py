"""Ranks, correlations of many rows at once, and how well a share tells what is expressed.

A constant prediction or truth has correlation 0 and is never dropped: dropping it would reward predicting nothing.

Letters: n rows, m columns, P genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
        order = np.argsort(values[part], axis=1)
        order += np.arange(len(order))[:, None] * values.shape[1]
        ordered = values[part].ravel()[order.ravel()].reshape(order.shape)
        is_first = np.ones(order.shape, dtype=bool)
        np.not_equal(ordered[:, 1:], ordered[:, :-1], out=is_first[:, 1:])
        first = np.flatnonzero(is_first)
        length = np.diff(first, append=order.size)
        middle = (first % values.shape[1] + (length + 1) / 2).astype(np.float32)
        ranks[part].ravel()[order.ravel()] = np.repeat(middle, length)
    return ranks


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
    order = np.argsort(-share, axis=1)
    ordered, hit = np.take_along_axis(share, order, axis=1), np.take_along_axis(expressed, order, axis=1)
    num_genes = share.shape[1]
    is_last = np.ones(share.shape, dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=is_last[:, :-1])
    place = np.where(is_last, np.arange(num_genes), num_genes)
    last = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]  # of the genes with the same share
    hits_so_far = hit.cumsum(axis=1, dtype=np.int32)
    precision = np.take_along_axis(hits_so_far, last, axis=1) / (last + 1.0)
    num_expressed = expressed.sum(axis=1).astype(np.float64)
    average_precision = (precision * hit).sum(axis=1) / np.maximum(num_expressed, 1)
    return _auroc(last, is_last, hit, num_expressed), average_precision


def _auroc(
    last: NDArray[np.int64], is_last: NDArray[np.bool_], hit: NDArray[np.bool_], num_expressed: Numbers
) -> Numbers:
    """Mann-Whitney's U from average ranks, from the highest share down."""
    num_genes = hit.shape[1]
    first = np.zeros_like(last)
    first[:, 1:] = np.where(is_last[:, :-1], np.arange(1, num_genes), 0)
    first = np.maximum.accumulate(first, axis=1)
    rank_sum = (hit * (num_genes - (first + last) / 2)).sum(axis=1)
    num_pairs = num_expressed * (num_genes - num_expressed)
    wins = rank_sum - num_expressed * (num_expressed + 1) / 2
    return np.where(num_pairs > 0, wins / np.maximum(num_pairs, 1), 0.5)
