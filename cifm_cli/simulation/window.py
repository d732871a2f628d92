"""Which part of a slide is simulated: all of it, a box the user names, or a square around the middle of the tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in micrometres; cells on its border are inside."""


@dataclass(frozen=True)
class Window:
    """The cells that exist in a simulation.

    Args:
        rows: Ascending rows of the slide.
        box_um: The smallest box around them.
    """

    rows: Rows
    box_um: Box


def choose_window(xy_um: NDArray[np.float64], crop_um: Box | None, max_cells: int) -> Window:
    """Choose the cells to simulate.

    Args:
        xy_um: (N, 2) micrometres.
        crop_um: Only cells in this box.
        max_cells: At most so many: the ones nearest to the middle of the tissue, by the larger of their distances in x
            and in y, so that they fill a square.

    Returns:
        The window.

    Raises:
        CifmError: No cell is in the box.
    """
    rows = np.arange(len(xy_um))
    if crop_um is not None:
        low, high = np.array(crop_um[:2]), np.array(crop_um[2:])
        rows = np.flatnonzero(((xy_um >= low) & (xy_um <= high)).all(axis=1))
        if not len(rows):
            whole = ",".join(f"{edge:.0f}" for edge in _box(xy_um))
            raise CifmError(f"no cell in the box {','.join(map(str, crop_um))}", f"the slide spans {whole} micrometres")
    if len(rows) > max_cells:
        middle = np.median(xy_um[rows], axis=0)
        away = np.abs(xy_um[rows] - middle).max(axis=1)
        rows = np.sort(rows[np.argsort(away, kind="stable")[:max_cells]])
    return Window(rows, _box(xy_um[rows]))


def _box(xy_um: NDArray[np.float64]) -> Box:
    (x0, y0), (x1, y1) = xy_um.min(axis=0), xy_um.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)
