"""Cells near other cells, by loops that are compiled.

They are faster than a tree for the few thousand cells of a tile, whose order they keep: cells are compared one after the other,
and runs of cells whose bounding box is too far away are left out. So they need cells near each other in the slide to be near
each other in their order, as those of a prepared slide are.

Letters: M queries, N cells, E pairs of a query and a cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.jit import Array

RUN = 64  # consecutive cells that share a bounding box
PART = 16  # consecutive cells of a run that share a smaller one


def pairs_within(
    query: NDArray[np.float64], cells: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Find the cells within a distance of each query, in ascending order.

    Args:
        query: (M, 2) coordinates.
        cells: (N, 2) coordinates.
        cutoff: Largest distance, inclusive.

    Returns:
        (M + 1,) position of the first pair of each query, (E,) cells and (E,) squared distances.
    """
    indptr, found, squared = _find(query, cells, *run_boxes(cells, RUN), *run_boxes(cells, PART), cutoff * cutoff)
    return indptr, found, squared


def distance_to_nearest(query: NDArray[np.float64], cells: NDArray[np.float64], cutoff: float) -> NDArray[np.float64]:
    """Distance from each query to the nearest cell.

    Args:
        query: (M, 2) coordinates.
        cells: (N, 2) coordinates.
        cutoff: Largest distance of interest, inclusive.

    Returns:
        (M,) distances; infinity where no cell is within the cutoff.
    """
    distance = np.empty(len(query))
    _find_nearest(query, cells, *run_boxes(cells, RUN), cutoff * cutoff, distance)
    return distance


def run_boxes(cells: NDArray[np.float64], length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounding boxes of runs of consecutive cells.

    Args:
        cells: (N, 2) coordinates.
        length: Cells of a run; the last run may be shorter.

    Returns:
        Lowest and highest coordinates of each run, (number of runs, 2) each.
    """
    starts = np.arange(0, len(cells), length)
    low, high = (
        extreme.reduceat(cells, starts) if len(cells) else np.empty((0, 2)) for extreme in (np.minimum, np.maximum)
    )
    return low, high


@compiled
def _find(
    query: Array,
    cells: Array,
    low: Array,
    high: Array,
    low_of_part: Array,
    high_of_part: Array,
    squared_cutoff: float,
) -> tuple[Array, Array, Array]:
    indptr = np.zeros(len(query) + 1, np.int64)
    room, position, parts = RUN * (len(query) + 1), 0, RUN // PART
    found, squared = np.empty(room, np.int64), np.empty(room, np.float64)
    for q in range(len(query)):
        x, y = query[q, 0], query[q, 1]
        for run in range(len(low)):
            if _squared_gap(x, y, low[run], high[run]) > squared_cutoff:
                continue
            if position + RUN > room:
                room *= 2
                found, squared = _extend(found, position, room), _extend(squared, position, room)
            for part in range(run * parts, min(run * parts + parts, len(low_of_part))):
                if _squared_gap(x, y, low_of_part[part], high_of_part[part]) > squared_cutoff:
                    continue
                for cell in range(part * PART, min(part * PART + PART, len(cells))):
                    distance = _squared_distance(x, y, cells[cell])
                    # Without a branch, which the processor could not foresee: what is too far away is overwritten.
                    found[position], squared[position] = cell, distance
                    position += distance <= squared_cutoff
        indptr[q + 1] = position
    return indptr, found[:position].copy(), squared[:position].copy()


@compiled
def _extend(values: Array, length: int, room: int) -> Array:
    """The first values, in an array with more room."""
    extended = np.empty(room, values.dtype)
    extended[:length] = values[:length]
    return extended


@compiled
def _find_nearest(query: Array, cells: Array, low: Array, high: Array, squared_cutoff: float, distance: Array) -> None:
    last = -1  # nearest cell of the query before
    for q in range(len(query)):
        x, y, bound = query[q, 0], query[q, 1], squared_cutoff
        # That cell is near this query too, so that few runs are looked at.
        nearest = -1
        if last >= 0 and _squared_distance(x, y, cells[last]) <= bound:
            nearest, bound = last, _squared_distance(x, y, cells[last])
        for run in range(len(low)):
            if _squared_gap(x, y, low[run], high[run]) <= bound:
                for cell in range(run * RUN, min(run * RUN + RUN, len(cells))):
                    squared = _squared_distance(x, y, cells[cell])
                    if squared <= bound:
                        nearest, bound = cell, squared
        distance[q] = np.sqrt(bound) if nearest >= 0 else np.inf
        last = nearest if nearest >= 0 else last


@compiled
def _squared_distance(x: float, y: float, cell: Array) -> float:
    dx, dy = cell[0] - x, cell[1] - y
    squared: float = dx * dx + dy * dy
    return squared


@compiled
def _squared_gap(x: float, y: float, low: Array, high: Array) -> float:
    """Squared distance to a box, zero inside."""
    gap_x, gap_y = max(low[0] - x, x - high[0], 0.0), max(low[1] - y, y - high[1], 0.0)
    squared: float = gap_x * gap_x + gap_y * gap_y
    return squared
