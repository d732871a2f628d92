"""The third coordinate: sections of a stack, the depth of a thick volume, or a few micrometres within one section.

The graph is two-dimensional. Cells of different depths would become neighbours, so that a stack or a volume is refused
unless the user chooses a range of depths or splits by them.

Letters: N cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.data.prepare.overlaps import OverlapTest
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

THICKNESS_UM = 30.0  # sections for spatial measurements are 5 to 20 um thick, and not quite flat
_FLAT_UM = 10.0  # difference of depth between neighbours in a section that is tilted or curved
_MAX_LEVELS, _MIN_CELLS = 500, 5  # of a stack; cells per section, on average
_NUM_SHOWN = 6
_SAMPLE_SIZE = 10_000

DepthRange = tuple[float, float]


def parse_depth(text: str) -> DepthRange:
    """Read a depth, or a range of depths, from the command line.

    Args:
        text: `10` or `10,20`.

    Returns:
        The lowest and the highest depth.

    Raises:
        CifmError: The text is neither.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not np.isfinite(numbers).all() or numbers[0] > numbers[-1]:
        raise CifmError(f"--z {text}: neither a depth nor a range", "write it as 10, or as 10,20")
    return numbers[0], numbers[-1]


def outside_depths(z: NDArray[np.float64] | None, depths: DepthRange | None, where: str) -> NDArray[np.bool_] | None:
    """Find the cells that `--z` leaves out.

    Args:
        z: (N,) third coordinate; None if there is none.
        depths: The lowest and the highest depth; None to keep all.
        where: The download, for the message.

    Returns:
        (N,) mask; None if all are kept.

    Raises:
        CifmError: There is no third coordinate, or no cell has such a depth.
    """
    if depths is None:
        return None
    if z is None:
        raise CifmError(f"{where}: --z, but the cells have no third coordinate", "leave out --z")
    # Single precision, as many files store it.
    tolerance = 1e-6 * max(1.0, *map(abs, depths))
    inside = (z >= depths[0] - tolerance) & (z <= depths[1] + tolerance)
    if not inside.any():
        raise CifmError(f"{where}: --z {_span(depths)}: no cell has that depth ({_describe(z)})", "choose one of these")
    return ~inside


def require_flat(xy_um: NDArray[np.float64], z: NDArray[np.float64], where: str) -> str | None:
    """Check that cells belong to one section.

    Args:
        xy_um: (N, 2) finite positions.
        z: (N,) third coordinate; NaN where unknown.
        where: The download, for the message.

    Returns:
        A note if the third coordinate differs between cells; None otherwise.

    Raises:
        CifmError: The cells are those of several sections, or of a volume.
    """
    known = np.isfinite(z)
    xy_um, z = xy_um[known], z[known]
    levels, codes = np.unique(z, return_inverse=True)
    if len(levels) < 2:
        return None
    span = float(levels[-1] - levels[0])
    described = f"the third coordinate is from {levels[0]:g} to {levels[-1]:g}"
    is_stack = len(levels) <= _MAX_LEVELS and len(levels) * _MIN_CELLS <= len(z)
    # Layers of the image within a section do not overlap: no two cells are at one place.
    overlap = OverlapTest(xy_um).find(codes.ravel().astype(np.int64), suspected=False) if is_stack else None
    if overlap is None and (span <= THICKNESS_UM or _local_difference(xy_um, z) <= _FLAT_UM):
        return f"{described}, but differs little between neighbours; distances are measured in x and y"
    if is_stack:
        joined = "" if overlap is None else f", and {overlap.share:.0%} of the edges would join two of them"
        raise CifmError(
            f"{where}: {len(levels)} sections lie on each other: {_describe(z)}{joined}",
            f"--by z makes a slide of each; keep one with --z, such as --z {_span(_middle(levels))}",
        )
    raise CifmError(
        f"{where}: a volume, not a section: {described}, and cells above each other would become neighbours",
        f"keep the cells of one section's thickness with --z LOW,HIGH, such as --z {_span(_middle_slab(z))}",
    )


def _local_difference(xy_um: NDArray[np.float64], z: NDArray[np.float64]) -> float:
    """Median difference of depth between a cell and the nearest ones."""
    rows = np.arange(0, len(z), max(1, len(z) // _SAMPLE_SIZE))
    nearest = np.asarray(cKDTree(xy_um).query(xy_um[rows], k=min(6, len(z)))[1])[:, 1:]
    return float(np.median(np.abs(z[nearest] - z[rows][:, None])))


def _middle(levels: NDArray[np.float64]) -> DepthRange:
    middle = float(levels[len(levels) // 2])
    return middle, middle


def _middle_slab(z: NDArray[np.float64]) -> DepthRange:
    """A range of depths as thick as a section, around the median."""
    low = float(np.floor(np.median(z) / 10.0) * 10.0)
    return low, low + 10.0


def _span(depths: DepthRange) -> str:
    return f"{depths[0]:g}" if depths[0] == depths[1] else f"{depths[0]:g},{depths[1]:g}"


def _describe(z: NDArray[np.float64]) -> str:
    """The depths in words: all of them if they are few."""
    levels = np.unique(z[np.isfinite(z)])
    if len(levels) <= _NUM_SHOWN:
        return f"z is {', '.join(f'{level:g}' for level in levels)}"
    shown = ", ".join(f"{level:g}" for level in levels[: _NUM_SHOWN - 2])
    return (
        f"z is {shown}, ..., {levels[-1]:g}" if len(levels) <= _MAX_LEVELS else f"z is {levels[0]:g} to {levels[-1]:g}"
    )
