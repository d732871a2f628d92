"""Approximate search of nearest neighbours with faiss: lists of similar cells, of which the nearest few are searched.

The number of lists that are searched is the smallest at which the recall, measured against an exact search, is high enough.
Lists are made by one thread, so that the result does not depend on the number of threads.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli import provenance
from cifm_cli.errors import CifmError
from cifm_cli.sharing.exact import exact_nearest, num_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.sharing.cells import Cells, Rows

MIN_RECALL: Final = 0.95
RECALL_QUERIES: Final = 1_000
_QUERIES = 32_768
_TRAINING_CELLS_PER_LIST = 64
_ROUNDS = 10  # of the k-means that makes the lists


def has_faiss() -> bool:
    """Whether faiss, of the extra `analysis`, can be imported."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


def require_faiss() -> None:
    """Raise an error with the command that installs faiss, if it is missing."""
    if not has_faiss():
        raise CifmError("an approximate search needs faiss", 'install it with `pip install "cifm[analysis]"`')


@contextmanager
def _faiss_threads(number: int) -> Iterator[None]:
    """Set the number of threads of faiss within a block. It is that of other libraries too, such as torch."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class ApproximateSearch:
    """Lists of similar cells, and how many of them are searched."""

    def __init__(self, cells: Cells, database: Rows, num: int, seed: int) -> None:
        """Make the lists and choose how many are searched.

        Args:
            cells: The cells.
            database: Ascending rows of the cells among which neighbours are searched.
            num: Number of neighbours.
            seed: Seed of the lists and of the queries whose recall is measured.
        """
        self.cells, self.database, self.num = cells, database, num
        self.num_lists = max(1, min(round(math.sqrt(len(database))), len(database) // 39))
        with _faiss_threads(1):
            self._index = self._make_lists(seed)
        self.num_searched, self.recall = self._choose(seed)

    def _make_lists(self, seed: int) -> Any:  # noqa: ANN401 - faiss has no types
        import faiss

        self._quantizer = faiss.IndexFlatL2(self.cells.width)
        index = faiss.IndexIVFFlat(self._quantizer, self.cells.width, self.num_lists)
        index.cp.niter, index.cp.seed = _ROUNDS, 1 + seed % 1_000_000
        index.cp.max_points_per_centroid = _TRAINING_CELLS_PER_LIST
        generator = provenance.numpy_generator(seed, "sharing lists")
        size = min(len(self.database), _TRAINING_CELLS_PER_LIST * self.num_lists)
        index.train(self.cells.read(np.sort(generator.choice(self.database, size, replace=False))))
        for rows in self.cells.blocks(self.database):
            index.add(self.cells.read(rows))
        return index

    def _choose(self, seed: int) -> tuple[int, float]:
        """Smallest number of lists with the required recall, and that recall."""
        generator = provenance.numpy_generator(seed, "sharing recall")
        size = min(RECALL_QUERIES, self.cells.num_cells)
        queries = np.sort(generator.choice(self.cells.num_cells, size, replace=False))
        exact = np.concatenate([found for _, found in exact_nearest(self.cells, self.database, self.num, queries)])
        searched = 1
        while True:
            found = self._search(queries, searched)
            recall = float(np.mean([np.isin(one, other).mean() for one, other in zip(exact, found, strict=True)]))
            if recall >= MIN_RECALL or searched == self.num_lists:
                return searched, recall
            searched = min(max(searched + 1, round(searched * 1.25)), self.num_lists)

    def _search(self, rows: Rows, searched: int) -> NDArray[np.int64]:
        """(b, num) rows of the cells nearest to each query, or -1 where the lists hold fewer."""
        values = self.cells.read(rows)
        with _faiss_threads(1):
            distance, lists = self._quantizer.search(values, searched)
        # Queries of the same list follow each other, which keeps its cells in the cache.
        order = np.argsort(lists[:, 0], kind="stable")
        self._index.nprobe = searched
        with _faiss_threads(num_threads()):
            _, found = self._index.search_preassigned(values[order], self.num, lists[order], distance[order])
        places = np.empty_like(found)
        places[order] = found
        return np.where(places >= 0, self.database[places], -1)

    def nearest(self, queries: Rows) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
        """Find the nearest cells; see `exact_nearest`. A query with too few cells in its lists gets more lists."""
        for rows in self.cells.blocks(queries, _QUERIES):
            found, searched = self._search(rows, self.num_searched), self.num_searched
            while (short := np.flatnonzero((found < 0).any(axis=1))).size:
                searched = min(2 * searched, self.num_lists)
                found[short] = self._search(rows[short], searched)
            yield rows, found
