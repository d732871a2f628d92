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


_RUN = 128  # consecutive cells with one bounding box: neighbours on the Hilbert curve are neighbours in the tissue


@dataclass(frozen=True)
class Tile:
    """Some cells of a slide and everybody who can matter to them.

    Args:
        rows: (n,) ascending rows of the slide, core and halo.
        core: (c,) positions of the core cells in `rows`, in the order they were asked for.
        xy_um: (n, 2) micrometres.
        distance_um: (n,) from each cell to the nearest core cell; zero in the core.
    """

    rows: Rows
    core: Rows
    xy_um: NDArray[np.float64]
    distance_um: NDArray[np.float64]


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
        starts = np.arange(0, len(rows), _RUN)
        self._low_um, self._high_um = (
            extreme.reduceat(self._part_um, starts) if len(rows) else np.empty((0, 2))
            for extreme in (np.minimum, np.maximum)
        )

    def tile(self, core_rows: Rows) -> Tile:
        """The tile of some cells.

        Args:
            core_rows: Rows of the slide; all within the part.

        Returns:
            Core and every cell of the part within `halo_um` of a core cell.
        """
        near, distance_um = self._within_halo(core_rows) if len(core_rows) else (core_rows, np.zeros(0))
        rows = self.rows[near]
        return Tile(rows, np.searchsorted(rows, core_rows), self._part_um[near], distance_um)

    def _within_halo(self, core_rows: Rows) -> tuple[Rows, NDArray[np.float64]]:
        """Positions of the part's cells within the halo of any core cell, and their distance to it."""
        core_um = self._xy_um[core_rows]
        margin_um = self.halo_um + 1.0
        boxed = self._within(core_um.min(axis=0) - margin_um, core_um.max(axis=0) + margin_um)
        outside = ~np.isin(self.rows[boxed], core_rows)
        distance_um = np.zeros(len(boxed))
        distance_um[outside], _ = cKDTree(core_um).query(self._part_um[boxed[outside]], distance_upper_bound=margin_um)
        found = distance_um <= self.halo_um  # inclusive, as the radius graph is; the query's own bound is not
        return boxed[found], distance_um[found]

    def _within(self, low_um: NDArray[np.float64], high_um: NDArray[np.float64]) -> Rows:
        """Ascending positions of the part's cells in a rectangle."""
        runs = np.flatnonzero(((self._low_um <= high_um) & (self._high_um >= low_um)).all(axis=1))
        near = (runs[:, None] * _RUN + np.arange(_RUN)).ravel()
        near = near[near < len(self.rows)]
        places_um = self._part_um[near]
        inside: Rows = near[((places_um >= low_um) & (places_um <= high_um)).all(axis=1)]
        return inside


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
