"""Tiles: core cells, and the halo that makes what is computed for them exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows


@dataclass(frozen=True)
class Tile:
    """Some cells of a slide and everybody who can matter to them.

    Args:
        rows: (n,) ascending rows of the slide, core and halo.
        core: (c,) positions of the core cells in `rows`, in the order they were asked for.
        xy_um: (n, 2) micrometres.
    """

    rows: Rows
    core: Rows
    xy_um: NDArray[np.float64]


class Tiler:
    """Cuts tiles out of a part of a slide; cells outside that part do not exist for it.

    Args:
        xy_um: (N, 2) coordinates of the whole slide, micrometres.
        rows: Ascending rows of the part, such as a region of the split.
        halo_um: How far a cell can matter, micrometres.
    """

    def __init__(self, xy_um: NDArray[np.float64], rows: Rows, halo_um: float) -> None:
        self.rows = rows
        self.halo_um = halo_um
        self._xy_um = xy_um
        self._part_um = xy_um[rows]
        self._tree = cKDTree(self._part_um)

    def tile(self, core_rows: Rows) -> Tile:
        """The tile of some cells.

        Args:
            core_rows: Rows of the slide; all within the part.

        Returns:
            Core and every cell of the part within `halo_um` of a core cell.
        """
        if not len(core_rows):
            return Tile(core_rows, core_rows, self._xy_um[core_rows])
        near = self.rows[self._within_halo(self._xy_um[core_rows])]
        rows = np.union1d(near, core_rows)
        return Tile(rows, np.searchsorted(rows, core_rows), self._xy_um[rows])

    def _within_halo(self, core_um: NDArray[np.float64]) -> NDArray[np.int64]:
        """Positions of the part's cells within the halo of any core cell, by core box, then by distance."""
        low, high = core_um.min(axis=0), core_um.max(axis=0)
        half_um = (high - low).max() / 2 + self.halo_um
        boxed = np.sort(np.asarray(self._tree.query_ball_point((low + high) / 2, half_um, p=np.inf), dtype=np.int64))
        reach = np.nextafter(self.halo_um, np.inf)  # query's bound is exclusive, the radius graph's is inclusive
        distance, _ = cKDTree(core_um).query(self._part_um[boxed], distance_upper_bound=reach)
        return boxed[np.isfinite(distance)]


def chunks(rows: Rows, size: int) -> Iterator[Rows]:
    """Cut rows into consecutive cores; rows in Hilbert order give compact ones.

    Args:
        rows: (n,) rows.
        size: Cells of a core.

    Yields:
        Pieces of `size` rows, the last one shorter.
    """
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
