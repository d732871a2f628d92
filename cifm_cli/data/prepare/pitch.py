"""A question about regular grids: whether a platform has spots or bins at that distance in micrometres.

Bins in pixels, such as 29 pixels for 8 um, would pass every other check of units, as cells can be 29 um apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAMPLE_SIZE, _MIN_CELLS = 10_000, 20
# Share of the cells whose nearest neighbour is at the median distance, within this tolerance. Cells of a tissue: 0.05.
_ON_GRID, _SPREAD = 0.7, 0.03
_SECOND_SHELL = (1.3, 1.5)  # a square grid has neighbours at 1.41 pitches, a hexagonal one has none between 1 and 1.73
_TOLERANCE = 0.015
_BEADS_UM = 5.0  # hexagonal grids below are arrays of beads
_SPOT_TOLERANCE = 0.04  # the pitch of Visium is often computed from the width of the spots
VISIUM_UM = 100.0
_BINS_UM = (2.0, 8.0, 16.0)  # of Visium HD


class _Grid(NamedTuple):
    pitch: float
    is_square: bool


def require_known_pitch(xy_um: NDArray[np.float64], where: str) -> None:
    """Raise an error if cells form a regular grid with a pitch that no platform has.

    Args:
        xy_um: (N, 2) finite coordinates that are assumed to be micrometres.
        where: The input, for the message.

    Raises:
        CifmError: They do; the hint names the scales with which the grid would be that of a platform.
    """
    grid = _find_grid(xy_um)
    if grid is None or _is_known(grid):
        return
    shape = "square" if grid.is_square else "hexagonal"
    platforms = (
        [(f"bins of {bin_um:g} um", bin_um) for bin_um in _BINS_UM] if grid.is_square else [("Visium spots", VISIUM_UM)]
    )
    scales = ", ".join(f"{pitch_um / grid.pitch:.4g} for {name}" for name, pitch_um in platforms)
    raise CifmError(
        f"{where}: the cells form a {shape} grid with a pitch of {grid.pitch:.4g}, and no platform has that pitch in "
        "micrometres",
        f"if they are pixels, give their size with --microns-per-pixel: {scales}; 1 if they are micrometres",
    )


def _find_grid(xy: NDArray[np.float64]) -> _Grid | None:
    if len(xy) < _MIN_CELLS:
        return None
    tree = cKDTree(xy)
    sample = xy[:: max(1, len(xy) // _SAMPLE_SIZE)]
    # Two neighbours more than needed, as several cells may be at one place.
    nearest = np.asarray(tree.query(sample, k=4)[0])[:, 1:]
    nearest = np.where(nearest > 0, nearest, np.inf).min(axis=1)
    pitch = float(np.median(nearest))
    if not np.isfinite(pitch):
        return None
    # Pixels are often rounded, which moves two neighbours by up to one pixel.
    spread = max(_SPREAD * pitch, 1.0 if pitch > 10.0 and (sample == sample.round()).all() else 0.0)
    if (np.abs(nearest - pitch) <= spread).mean() < _ON_GRID:
        return None
    low, high = (tree.query_ball_point(sample, shell * pitch, return_length=True).mean() for shell in _SECOND_SHELL)
    return _Grid(pitch, is_square=bool(high - low > 0.5))


def _is_known(grid: _Grid) -> bool:
    """Whether a platform has this pitch, in micrometres."""
    if not grid.is_square:
        return grid.pitch <= _BEADS_UM or abs(grid.pitch / VISIUM_UM - 1) <= _SPOT_TOLERANCE
    # Bins are joined from bins of 2 um (Visium HD) or 0.5 um (Stereo-seq, usually a multiple of 5 of them); DBiT-seq and
    # arrays of spots have multiples of 5 um. Pitches near or below 1 um are those of arrays of molecules.
    known = [*np.arange(2, 21, 2), 24, 32, 40, 48, 64, *np.arange(2.5, 25, 2.5), *np.arange(25, 401, 5)]
    return grid.pitch <= 1.05 or any(abs(grid.pitch / pitch - 1) <= _TOLERANCE for pitch in known)
