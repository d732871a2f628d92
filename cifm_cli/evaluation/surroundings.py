"""Means of wider and wider circles around a place, for baselines that learn how to weigh them.

Letters: Q hidden cells, P genes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.evaluation.context import Estimate
from cifm_cli.evaluation.neighbours import Pool, every_cell, pairs_within, pooled, training_estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.context import Context

RADII = (1.0, 2.0, 4.0, 8.0, 16.0)  # of the circles, in radii of the graph
WIDE_RADII = 4.0  # above it, in radii of the graph, circles are made of squares
_SQUARES = 4  # in the radius of a wide circle
_VALUES_AT_ONCE = 1_000_000  # cells times genes whose surroundings are held at a time


def surroundings(context: Context, query_um: NDArray[np.float64]) -> list[Estimate]:
    """Means of the visible cells within `RADII`.

    Args:
        context: What is visible.
        query_um: (Q, 2) micrometres.

    Returns:
        One estimate for each radius.
    """
    return radius_means(context, query_um, [scale * context.radius_um for scale in RADII])


def in_pieces(context: Context, query_um: NDArray[np.float64]) -> Iterator[list[Estimate]]:
    """Surroundings of many queries, some at a time.

    Args:
        context: What is visible.
        query_um: (Q, 2) micrometres.

    Yields:
        Surroundings of the next queries.
    """
    size = max(1, _VALUES_AT_ONCE // context.expression.shape[1])
    for start in range(0, len(query_um), size):
        yield surroundings(context, query_um[start : start + size])


def join(pieces: Iterable[Estimate]) -> Estimate:
    """Put estimates of some queries after the other together.

    Args:
        pieces: At least one, each with a composition.

    Returns:
        The whole.
    """
    parts = [(piece.mean, piece.share, piece.composition) for piece in pieces]
    return Estimate(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def radius_means(context: Context, query_um: NDArray[np.float64], radii_um: Sequence[float]) -> list[Estimate]:
    """Means of the visible cells within several radii.

    Wide circles are filled with squares of a quarter of the radius, each taken or left as a whole.

    Args:
        context: What is visible.
        query_um: (Q, 2) micrometres.
        radii_um: Ascending, micrometres.

    Returns:
        One estimate for each radius; where nobody is that near, the next wider one's, at last the training cells'.
    """
    found: list[Estimate] = []
    wider = training_estimate(context, len(query_um))
    for radius_um in reversed(radii_um):
        if radius_um > WIDE_RADII * context.radius_um:
            pool = context.once(f"squares {radius_um}", partial(_squares, context, radius_um / _SQUARES))
        else:
            pool = every_cell(context)
        weights = pairs_within(cKDTree(query_um), pool.tree, radius_um)
        wider = pooled(weights, pool, wider)
        found.insert(0, wider)
    return found


def _squares(context: Context, side_um: float) -> Pool:
    square, cell_of = np.unique(np.floor(context.xy_um / side_um), axis=0, return_inverse=True)
    cells = np.arange(len(context.xy_um))
    member = csr_matrix((np.ones(len(cells), dtype=np.float32), (cell_of.ravel(), cells)))
    number = np.asarray(member.sum(axis=1), dtype=np.float32)
    sums = [member @ values for values in (context.expression, context.expressed, context.counts)]
    return Pool(cKDTree((square + 0.5) * side_um), number, *sums)
