"""The order of cells in a prepared slide: along a Hilbert curve, so that cells near in space are near in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS = 16  # per axis: 0.2 um on a slide of 13 mm


def hilbert_order(xy_um: NDArray[np.float64]) -> NDArray[np.int64]:
    """Sort cells along a Hilbert curve.

    Args:
        xy_um: (N, 2) finite coordinates, in any unit.

    Returns:
        (N,) permutation of the rows; cells with equal coordinates keep their order.
    """
    if not len(xy_um):
        return np.empty(0, dtype=np.int64)
    offset = xy_um - xy_um.min(axis=0)
    # One extent for both axes, so that cells of the grid are square. 1, if all cells are at one place.
    extent = offset.max() or 1.0
    grid = np.floor(offset * ((2**_BITS - 1) / extent)).astype(np.uint32)
    return np.argsort(hilbert_distance(grid[:, 0], grid[:, 1], _BITS), kind="stable")


def hilbert_distance(x: NDArray[np.uint32], y: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """Compute the distance along the Hilbert curve of order `bits`, for points of a grid.

    Args:
        x: (N,) columns, below 2**bits.
        y: (N,) rows, below 2**bits.
        bits: Order of the curve, at most 16.

    Returns:
        (N,) distances, a bijection of the grid onto 0 ... 4**bits - 1.
    """
    # 2 x 16 bits fit into 32 exactly.
    distance = np.zeros(len(x), dtype=np.uint32)
    for bit in range(bits - 1, -1, -1):
        side = np.uint32(1 << bit)
        right, upper = (x & side) > 0, (y & side) > 0
        distance += side * side * ((3 * right) ^ upper).astype(np.uint32)
        # Enter the quadrant: the lower ones are transposed, the lower right one mirrored as well.
        mirrored = right & ~upper
        x, y = np.where(mirrored, ~x, x), np.where(mirrored, ~y, y)
        x, y = np.where(upper, x, y) & (side - 1), np.where(upper, y, x) & (side - 1)
    return distance
