"""Nearest neighbours of every cell over all samples, the cell itself excluded; exact, or approximate for many cells.

Letters: b cells of a block, k neighbours.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cifm_cli.errors import CifmError
from cifm_cli.sharing.approximate import has_faiss, prepare_search, require_faiss
from cifm_cli.sharing.exact import exact_nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.sharing.cells import Cells, Rows

Search = Literal["auto", "exact", "approximate"]
EXACT_CELLS = 100_000  # up to this number of cells, an exact search takes about a minute on two cores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Neighbours:
    """A search that was prepared."""

    blocks: Iterator[tuple[Rows, NDArray[np.int64]]]  # rows of some cells, and (b, k) rows of their neighbours
    facts: dict[str, Any]  # method and, of an approximate search, its lists and recall, as JSON


def find_neighbours(cells: Cells, database: Rows, k: int, search: Search, seed: int) -> Neighbours:
    """Prepare the search of the nearest neighbours of all cells.

    Args:
        cells: The cells.
        database: Ascending rows of the cells that can be neighbours.
        k: Number of neighbours of each cell.
        search: `exact`, `approximate`, or `auto` for exact up to `EXACT_CELLS` cells, and above if faiss is missing.
        seed: Seed of an approximate search.

    Returns:
        The search; its blocks are computed as they are read.

    Raises:
        CifmError: There are not more than k cells, or an approximate search is asked for without faiss.
    """
    require_enough_cells(database, k)
    if search == "auto":
        search = "approximate" if cells.num_cells > EXACT_CELLS else "exact"
        if search == "approximate" and not has_faiss():
            logger.warning(
                '%s cells are searched exactly, which takes long; `pip install ".[analysis]"` in the source folder of cifm adds a faster search',
                f"{cells.num_cells:,}",
            )
            search = "exact"
    every = np.arange(cells.num_cells)
    facts: dict[str, Any] = {"method": search, "k": k, "database": len(database)}
    if search == "exact":
        return Neighbours(_without_itself(exact_nearest(cells, database, k + 1, every)), facts | {"recall": 1.0})
    require_faiss()
    prepared, about = prepare_search(cells, database, k + 1, seed)
    if prepared is None:
        logger.warning("no approximate search finds enough of the neighbours, an exact one takes longer")
        return find_neighbours(cells, database, k, "exact", seed)
    return Neighbours(_without_itself(prepared.nearest(every)), facts | about)


def require_enough_cells(database: Rows, k: int) -> None:
    """Raise an error if there are not more than k cells that can be neighbours."""
    if len(database) <= k:
        raise CifmError(
            f"{len(database):,} cells, too few for {k} neighbours of each", "give more cells or a smaller --k"
        )


def _without_itself(
    blocks: Iterator[tuple[Rows, NDArray[np.int64]]],
) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
    """Remove each cell from its neighbours, or the last neighbour where the cell is not among them."""
    for rows, found in blocks:
        is_itself = found == rows[:, None]
        # By row and not by distance: other cells may have the same embedding.
        dropped = np.where(is_itself.any(axis=1), is_itself.argmax(axis=1), found.shape[1] - 1)
        kept = np.ones(found.shape, dtype=bool)
        kept[np.arange(len(rows)), dropped] = False
        yield rows, found[kept].reshape(len(rows), -1)
