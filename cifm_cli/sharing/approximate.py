"""Approximate search of nearest neighbours with faiss, at a recall that is measured against an exact search.

Cells are divided into lists of similar cells, of which the nearest few are searched: as few as the recall allows. Embeddings
that vary in most of their features alike have no such lists. They are compared by short codes instead (product quantisation,
4 bits for two features), and the distances of the best candidates are computed exactly: as few candidates as the recall allows.
Lists and codes are made by one thread, so that the result does not depend on the number of threads.

Letters: b queries of a block.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
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
_SCANNED_CELLS = 25_000  # cells in lists that are compared with a query; with more of them, codes are faster
_MAX_CANDIDATES = 64  # times the number of neighbours; with more of them, an exact search is faster
_TRAINING_CELLS_OF_CODES = 20_000
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
        raise CifmError(
            "an approximate search needs faiss",
            'install it with `pip install ".[analysis]"` in the source folder of cifm',
        )


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


@dataclass(frozen=True)
class Reference:
    """Queries whose nearest cells are known."""

    queries: Rows  # (n,) ascending rows
    nearest: NDArray[np.int64]  # (n, num) rows of the nearest cells, in any order

    def recall(self, found: NDArray[np.int64]) -> float:
        """Fraction of the nearest cells that are among those found."""
        return float(np.mean([np.isin(one, other).mean() for one, other in zip(self.nearest, found, strict=True)]))


def draw_reference(cells: Cells, database: Rows, num: int, seed: int) -> Reference:
    """Search the nearest cells of random cells exactly.

    Args:
        cells: The cells.
        database: Ascending rows of the cells among which neighbours are searched.
        num: Number of neighbours.
        seed: Seed of the draw.

    Returns:
        `RECALL_QUERIES` cells and those nearest to them.
    """
    generator = provenance.numpy_generator(seed, "sharing recall")
    size = min(RECALL_QUERIES, cells.num_cells)
    queries = np.sort(generator.choice(cells.num_cells, size, replace=False))
    return Reference(queries, np.concatenate([found for _, found in exact_nearest(cells, database, num, queries)]))


class ListSearch:
    """Lists of similar cells, of which the nearest are searched."""

    def __init__(self, cells: Cells, database: Rows, num: int, seed: int) -> None:
        """Make the lists.

        Args:
            cells: The cells.
            database: Ascending rows of the cells among which neighbours are searched.
            num: Number of neighbours.
            seed: Seed of the lists.
        """
        import faiss

        self._cells, self._database, self._num = cells, database, num
        self.num_lists = max(1, min(round(math.sqrt(len(database))), len(database) // 39))
        self.num_searched = 1
        with _faiss_threads(1):
            self._quantizer: Any = faiss.IndexFlatL2(cells.width)
            self._index: Any = faiss.IndexIVFFlat(self._quantizer, cells.width, self.num_lists)
            self._index.cp.niter, self._index.cp.seed = _ROUNDS, 1 + seed % 1_000_000
            self._index.cp.max_points_per_centroid = _TRAINING_CELLS_PER_LIST
            self._index.train(_draw_training_cells(cells, database, _TRAINING_CELLS_PER_LIST * self.num_lists, seed))
            for rows in cells.blocks(database):
                self._index.add(cells.read(rows))

    def tune(self, reference: Reference) -> float:
        """Search as few lists as the recall allows, but not more cells than pay off; returns the recall."""
        limit = min(max(1, _SCANNED_CELLS * self.num_lists // len(self._database)), self.num_lists)
        while True:
            recall = reference.recall(self._search(reference.queries, self.num_searched))
            if recall >= MIN_RECALL or self.num_searched >= limit:
                return recall
            self.num_searched = min(max(self.num_searched + 1, round(self.num_searched * 1.25)), limit)

    def _search(self, rows: Rows, searched: int) -> NDArray[np.int64]:
        """(b, num) rows of the cells nearest to each query, or -1 where the lists hold fewer."""
        values = self._cells.read(rows)
        with _faiss_threads(1):
            distance, lists = self._quantizer.search(values, searched)
        # Queries of the same list follow each other, which keeps its cells in the cache.
        order = np.argsort(lists[:, 0], kind="stable")
        self._index.nprobe = searched
        with _faiss_threads(num_threads()):
            _, found = self._index.search_preassigned(values[order], self._num, lists[order], distance[order])
        places = np.empty_like(found)
        places[order] = found
        return np.where(places >= 0, self._database[places], -1)

    def nearest(self, queries: Rows) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
        """Find the nearest cells; see `exact_nearest`. A query with too few cells in its lists gets more lists."""
        for rows in self._cells.blocks(queries, _QUERIES):
            found, searched = self._search(rows, self.num_searched), self.num_searched
            while (short := np.flatnonzero((found < 0).any(axis=1))).size:
                searched = min(2 * searched, self.num_lists)
                found[short] = self._search(rows[short], searched)
            yield rows, found

    @property
    def facts(self) -> dict[str, Any]:
        """Description as JSON."""
        return {"index": "lists", "lists": self.num_lists, "searched_lists": self.num_searched}


class CodeSearch:
    """Codes of all cells, whose best candidates are compared exactly."""

    def __init__(self, cells: Cells, database: Rows, num: int, seed: int) -> None:
        """Make the codes; arguments as `ListSearch`."""
        import faiss

        self._cells, self._database, self._num = cells, database, num
        num_codes = cells.width // 2 if cells.width % 2 == 0 else cells.width
        factory: Any = faiss.index_factory
        with _faiss_threads(1):
            self._index = factory(cells.width, f"PQ{num_codes}x4fs,RFlat")
            self._index.train(_draw_training_cells(cells, database, _TRAINING_CELLS_OF_CODES, seed))
            for rows in cells.blocks(database):
                self._index.add(cells.read(rows))
        self._index.k_factor = 2

    def tune(self, reference: Reference) -> float:
        """Compare as few candidates exactly as the recall allows; returns the recall."""
        limit = min(_MAX_CANDIDATES, len(self._database) // self._num)
        while True:
            recall = reference.recall(self._search(reference.queries))
            if recall >= MIN_RECALL or self._index.k_factor * 1.5 > limit:
                return recall
            self._index.k_factor = round(self._index.k_factor * 1.5)

    def _search(self, rows: Rows) -> NDArray[np.int64]:
        with _faiss_threads(num_threads()):
            _, found = self._index.search(self._cells.read(rows), self._num)
        return np.asarray(self._database[found])

    def nearest(self, queries: Rows) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
        """Find the nearest cells; see `exact_nearest`."""
        for rows in self._cells.blocks(queries, _QUERIES):
            yield rows, self._search(rows)

    @property
    def facts(self) -> dict[str, Any]:
        """Description as JSON."""
        return {"index": "codes", "candidates": int(self._index.k_factor) * self._num}


def prepare_search(
    cells: Cells, database: Rows, num: int, seed: int
) -> tuple[ListSearch | CodeSearch | None, dict[str, Any]]:
    """Prepare the fastest search that reaches the recall.

    Args:
        cells: The cells.
        database: Ascending rows of the cells among which neighbours are searched.
        num: Number of neighbours.
        seed: Seed of the index and of the queries whose recall is measured.

    Returns:
        The search and its description with the recall; None if no approximate search reaches it.
    """
    reference = draw_reference(cells, database, num, seed)
    for kind in (ListSearch, CodeSearch):
        search = kind(cells, database, num, seed)
        recall = search.tune(reference)
        if recall >= MIN_RECALL:
            return search, {"recall": recall, **search.facts}
        del search  # it holds a copy of the embeddings
    return None, {}


def _draw_training_cells(cells: Cells, database: Rows, number: int, seed: int) -> NDArray[np.float32]:
    generator = provenance.numpy_generator(seed, "sharing index")
    return cells.read(np.sort(generator.choice(database, min(len(database), number), replace=False)))
