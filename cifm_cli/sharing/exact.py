"""Exact search of nearest neighbours: matrix products of blocks, of which a compiled loop keeps the smallest distances.

The result depends on the data only, not on the number of threads: each block is computed by one thread.

Letters: b queries of a block, m cells of the database in a block, K neighbours that are kept.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numba
import numpy as np
from threadpoolctl import threadpool_limits

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.sharing.cells import Cells, Rows

_QUERIES = 1_024
_DATABASE = 8_192  # 32 MB of products for each thread


@compiled
def _keep_nearest(  # pragma: no cover - compiled
    products: NDArray[np.float32],
    norms: NDArray[np.float32],
    first: int,
    distance: NDArray[np.float32],
    place: NDArray[np.int64],
) -> None:
    """Update heaps, (b, K), of the nearest cells; the farthest is at 0, and of equally far ones that with the largest place."""
    num_kept = distance.shape[1]
    for i in range(products.shape[0]):
        for j in range(products.shape[1]):
            value = norms[j] - 2 * products[i, j]
            number = first + j
            if value > distance[i, 0] or (value == distance[i, 0] and number > place[i, 0]):
                continue
            parent = 0
            while True:
                child = 2 * parent + 1
                if child >= num_kept:
                    break
                other = child + 1
                if other < num_kept and (
                    distance[i, other] > distance[i, child]
                    or (distance[i, other] == distance[i, child] and place[i, other] > place[i, child])
                ):
                    child = other
                if distance[i, child] < value or (distance[i, child] == value and place[i, child] < number):
                    break
                distance[i, parent] = distance[i, child]
                place[i, parent] = place[i, child]
                parent = child
            distance[i, parent] = value
            place[i, parent] = number


def num_threads() -> int:
    """Number of threads of a search, which its result does not depend on."""
    # `numba.get_num_threads` would start the threads of numba, and change the number that torch uses.
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]  # set when numba is imported


def exact_nearest(cells: Cells, database: Rows, num: int, queries: Rows) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
    """Find the nearest cells of a database.

    Args:
        cells: The cells.
        database: Ascending rows of the cells among which neighbours are searched.
        num: Number of neighbours, at most the size of the database.
        queries: Ascending rows of the cells whose neighbours are searched.

    Yields:
        Some of the queries, and (b, num) rows of the cells nearest to each; the last column is the farthest, the others
        are in no order. Of equally far cells, those with the smallest rows. A query is its own neighbour.
    """
    stored = cells.read(database)
    norms = (stored**2).sum(axis=1)

    def search(rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
        """Search the neighbours of some of the queries."""
        values = cells.read(rows)
        distance = np.full((len(rows), num), np.inf, dtype=np.float32)
        place = np.full((len(rows), num), len(database), dtype=np.int64)
        for first in range(0, len(database), _DATABASE):
            block = slice(first, first + _DATABASE)
            _keep_nearest(values @ stored[block].T, norms[block], first, distance, place)
        # The root of the heap is the farthest.
        return rows, database[np.roll(place, -1, axis=1)]

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_threads()) as pool:
        yield from pool.map(search, cells.blocks(queries, _QUERIES))
