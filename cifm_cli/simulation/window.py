"""The window: the cells of a slide that a simulation contains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

Box = tuple[float, float, float, float]
"""A rectangle x0, y0, x1, y1 in micrometres; cells on its border are inside."""


@dataclass(frozen=True)
class Window:
    """The simulated cells."""

    rows: Rows  # ascending rows of the slide
    box_um: Box  # the smallest rectangle around these cells

    def describe(self, slide: Slide) -> str:
        """One line about the size of the window."""
        if len(self.rows) == slide.num_cells:
            return f"{slide.name}: all {slide.num_cells:,} cells"
        box = ",".join(f"{edge:.0f}" for edge in self.box_um)
        return (
            f"{slide.name}: {len(self.rows):,} of {slide.num_cells:,} cells, in the window {box} um "
            "(choose another one with --crop, a larger one with --max-cells)"
        )


def choose_window(xy_um: NDArray[np.float64], crop_um: Box | None, max_cells: int) -> Window:
    """Choose the cells to simulate.

    Args:
        xy_um: (N, 2) positions of all cells of the slide, micrometres.
        crop_um: If given, only cells in this rectangle.
        max_cells: Largest number of cells. If there are more, those nearest to the median position are taken, by the
            larger of their distances in x and in y, so that they fill a square.

    Returns:
        The window.

    Raises:
        CifmError: The rectangle contains no cell.
    """
    rows = np.arange(len(xy_um))
    if crop_um is not None:
        low, high = np.array(crop_um[:2]), np.array(crop_um[2:])
        rows = np.flatnonzero(((xy_um >= low) & (xy_um <= high)).all(axis=1))
        if not len(rows):
            extent = ",".join(f"{edge:.0f}" for edge in _bounding_box(xy_um))
            # The hint has the extent in micrometres, so that a box in pixels is recognised.
            raise CifmError(
                f"no cell in the box {','.join(map(str, crop_um))}", f"the slide spans {extent} micrometres"
            )
    if len(rows) > max_cells:
        # The median is inside the tissue more often than the centre of the bounding box.
        centre = np.median(xy_um[rows], axis=0)
        distance = np.abs(xy_um[rows] - centre).max(axis=1)
        # Stable, so that cells at equal distance, as on a grid, are chosen in the same way on every machine.
        rows = np.sort(rows[np.argsort(distance, kind="stable")[:max_cells]])
    return Window(rows, _bounding_box(xy_um[rows]))


def _bounding_box(xy_um: NDArray[np.float64]) -> Box:
    (x0, y0), (x1, y1) = xy_um.min(axis=0), xy_um.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)
