"""Tiles: core cells, and a halo of cells around them, with which results for the core equal those of the whole slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.data.pairs import distance_to_nearest, run_boxes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows


# Consecutive cells that share a bounding box, which is small, as cells near on the Hilbert curve are near in the tissue.
_RUN = 128


@dataclass(frozen=True)
class Tile:
    """Core cells of a slide, with all cells that can affect them."""

    rows: Rows  # (n,) ascending rows of the slide, core and halo
    core: Rows  # (c,) positions of the core cells in `rows`, in the order of the request
    xy_um: NDArray[np.float64]  # (n, 2) cell centres, micrometres
    distance_um: NDArray[np.float64]  # (n,) distance from each cell to the nearest core cell; zero in the core


class Tiler:
    """Makes tiles of a part of a slide; cells outside that part are never included.

    Args:
        xy_um: (N, 2) coordinates of the whole slide, micrometres.
        rows: Ascending rows of the part, such as a region of the split.
        halo_um: Largest distance at which a cell can affect a core cell, micrometres.
    """

    def __init__(self, xy_um: NDArray[np.float64], rows: Rows, halo_um: float) -> None:
        self.rows = rows
        self.halo_um = halo_um
        self._xy_um = xy_um
        self._part_um = xy_um[rows]
        self._low_um, self._high_um = run_boxes(self._part_um, _RUN)

    def tile(self, core_rows: Rows) -> Tile:
        """Make the tile of some core cells.

        Args:
            core_rows: (c,) rows of the slide, all in the part.

        Returns:
            The core cells, and all cells of the part within `halo_um` of one.
        """
        # An empty array has no bounding box.
        near, distance_um = self._within_halo(core_rows) if len(core_rows) else (core_rows, np.zeros(0))
        rows = self.rows[near]
        return Tile(rows, np.searchsorted(rows, core_rows), self._part_um[near], distance_um)

    def _within_halo(self, core_rows: Rows) -> tuple[Rows, NDArray[np.float64]]:
        """Positions in the part of the cells within the halo of any core cell, and their distance to it."""
        core_um = self._xy_um[core_rows]
        # Slightly larger than the halo, so that rounding excludes no cell at its border.
        margin_um = self.halo_um + 1.0
        # Two steps: the boxes of runs exclude most of the slide without a look at its cells, and the few cells that are left
        # have exact distances.
        boxed = self._within(core_um.min(axis=0) - margin_um, core_um.max(axis=0) + margin_um)
        # Core cells have the distance zero by definition, and need no query.
        outside = np.ones(len(boxed), dtype=bool)
        outside[np.searchsorted(self.rows[boxed], core_rows)] = False
        distance_um = np.zeros(len(boxed))
        distance_um[outside] = distance_to_nearest(self._part_um[boxed[outside]], core_um, margin_um)
        inside = distance_um <= self.halo_um  # inclusive, like the radius graph
        return boxed[inside], distance_um[inside]

    def _within(self, low_um: NDArray[np.float64], high_um: NDArray[np.float64]) -> Rows:
        """Ascending positions in the part of the cells in a rectangle."""
        runs = np.flatnonzero(((self._low_um <= high_um) & (self._high_um >= low_um)).all(axis=1))
        near = (runs[:, None] * _RUN + np.arange(_RUN)).ravel()
        # The last run may be shorter than `_RUN`.
        near = near[near < len(self.rows)]
        near_um = self._part_um[near]
        inside: Rows = near[((near_um >= low_um) & (near_um <= high_um)).all(axis=1)]
        return inside


def chunks(rows: Rows, size: int) -> Iterator[Rows]:
    """Divide rows into consecutive chunks. Chunks of rows in Hilbert order are compact in space.

    Args:
        rows: (n,) rows.
        size: Number of rows of a chunk.

    Yields:
        Chunks of `size` rows; the last one may be shorter.
    """
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
