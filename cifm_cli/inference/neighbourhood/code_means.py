"""Means of the codes of the cells around some cells, and the fractions of the cell states among them, within several radii.

Letters: n cells, c of them at the centres, C components, Q clusterings, S states of all clusterings, R radii.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.jit import Array

    Values = NDArray[np.float32]
    Positions = NDArray[np.int64]

# Cells of a regular grid are often exactly a radius apart: rounding of rotated coordinates must not decide about them.
_TOLERANCE = 1 + 1e-9


def mean_codes(
    xy_um: NDArray[np.float64],
    codes: Values,
    states: Positions,
    centres: Positions,
    radii_um: NDArray[np.float64],
    num_states: int,
) -> tuple[Values, NDArray[np.bool_]]:
    """Average the cells around each centre, without the cell at the centre.

    The sums of a centre have an order that depends on the cells around it alone, so that they are the same in any tile.

    Args:
        xy_um: (n, 2) positions of cells, micrometres.
        codes: (n, C) codes.
        states: (n, Q) state of each cell in each clustering; -1 for a void cell, which is not counted.
        centres: (c,) positions of the centres among the n cells.
        radii_um: (R,) ascending radii, inclusive.
        num_states: S.

    Returns:
        (c, R, C + S) mean code and fractions of the states, those of the next wider radius where there is no other cell within
        a radius; and (c,) whether there is a cell within the widest one. Values are zero where there is none.
    """
    counted = np.flatnonzero(states[:, 0] >= 0)
    side_um = float(radii_um[-1])
    # A grid of fixed origin: the order of its squares does not depend on which cells are given.
    column, row = np.floor(xy_um[counted] / side_um).T
    order = counted[np.lexsort((column, row))]  # stable: cells of a square stay in the order of the slide
    column, row = np.floor(xy_um[order] / side_um).T
    sums = np.zeros((len(centres), len(radii_um), codes.shape[1] + num_states))
    mass = np.zeros((len(centres), len(radii_um)))
    squared = np.square(radii_um) * _TOLERANCE
    _add_cells(xy_um, codes, states, centres, squared, side_um, order, column, row, sums, mass)
    # From rings to circles
    np.cumsum(sums, axis=1, out=sums)
    np.cumsum(mass, axis=1, out=mass)
    sums /= np.maximum(mass, 1)[:, :, None]
    for radius in range(len(radii_um) - 2, -1, -1):
        empty = mass[:, radius] == 0
        sums[empty, radius] = sums[empty, radius + 1]
    return sums.astype(np.float32), mass[:, -1] > 0


@compiled
def _first(row: Array, column: Array, wanted_row: float, wanted_column: float) -> int:
    """Position of the first cell, in the order of the squares, whose square is not before the wanted one."""
    low, high = 0, len(row)
    while low < high:
        middle = (low + high) // 2
        if row[middle] < wanted_row or (row[middle] == wanted_row and column[middle] < wanted_column):
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _add_cells(  # noqa: PLR0913, PLR0917 - compiled code takes arrays, not objects
    xy_um: Array,
    codes: Array,
    states: Array,
    centres: Array,
    squared: Array,
    side_um: float,
    order: Array,
    column: Array,
    row: Array,
    sums: Array,
    mass: Array,
) -> None:
    """Add each cell to the narrowest circle of each centre that contains it."""
    num_components, widest = codes.shape[1], squared[-1]
    for centre in range(len(centres)):
        own = centres[centre]
        x, y = xy_um[own, 0], xy_um[own, 1]
        own_column, own_row = np.floor(x / side_um), np.floor(y / side_um)
        for near_row in (own_row - 1, own_row, own_row + 1):
            position = _first(row, column, near_row, own_column - 1)
            while position < len(order) and row[position] == near_row and column[position] <= own_column + 1:
                cell = order[position]
                position += 1
                distance = (xy_um[cell, 0] - x) ** 2 + (xy_um[cell, 1] - y) ** 2
                # By number, not by distance: other cells at the same place are counted.
                if distance > widest or cell == own:
                    continue
                ring = 0
                while distance > squared[ring]:
                    ring += 1
                mass[centre, ring] += 1
                total = sums[centre, ring]
                for component in range(num_components):
                    total[component] += codes[cell, component]
                for state in states[cell]:
                    total[num_components + state] += 1
