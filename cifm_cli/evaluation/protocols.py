"""What is hidden from whom: rounds of hidden cells inside one region of a slide, in two geometries.

Cells of other regions do not exist in a round: what is not hidden in the region is the whole context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows

SCATTERED = "scattered"
REGION = "region"
GEOMETRIES = (SCATTERED, REGION)

NUM_SCATTERED = 20  # rounds that hide 5 % each (paper, B.3)
BLOCK_RADII = 5.0  # side of a hidden block, in radii: its middle lies beyond the graph's reach of one layer
BLOCK_STRIDE = 3  # one block of every 3 x 3 is hidden in a round, so that no two hidden blocks touch


@dataclass(frozen=True)
class Round:
    """One way of hiding some cells of a region.

    Args:
        number: Its place among all rounds of the geometry.
        visible: Ascending rows of the slide that a predictor may look at.
        hidden: Ascending rows to infer.
    """

    number: int
    visible: Rows
    hidden: Rows


def hide(geometry: str, xy_um: NDArray[np.float64], rows: Rows, radius_um: float, seed: int) -> list[Round]:
    """All rounds of a geometry; each cell of the region is hidden in exactly one of them.

    Args:
        geometry: `scattered`: 5 % of the cells, drawn at random; `region`: square blocks 5 radii wide, one of every
            3 x 3.
        xy_um: (N, 2) places of all cells of the slide, micrometres.
        rows: Ascending rows of the region.
        radius_um: Radius of the graph.
        seed: Decides the draw, the origin of the blocks and the order of the rounds.

    Returns:
        Rounds that hide at least one cell and leave at least one visible.
    """
    generator = numpy_generator(seed, "hide", geometry)
    parts = _scattered(rows, generator) if geometry == SCATTERED else _blocks(xy_um[rows], rows, radius_um, generator)
    sets = [np.sort(part) for part in parts if 0 < len(part) < len(rows)]
    return [Round(number, np.setdiff1d(rows, part), part) for number, part in enumerate(sets)]


def _scattered(rows: Rows, generator: np.random.Generator) -> list[Rows]:
    return np.array_split(generator.permutation(rows), NUM_SCATTERED)


def _blocks(xy_um: NDArray[np.float64], rows: Rows, radius_um: float, generator: np.random.Generator) -> list[Rows]:
    side_um = BLOCK_RADII * radius_um
    origin = xy_um.min(axis=0) - generator.uniform(0, side_um, size=2)
    column, row = ((xy_um - origin) // side_um).astype(np.int64).T % BLOCK_STRIDE
    turn = row * BLOCK_STRIDE + column
    return [rows[turn == number] for number in generator.permutation(BLOCK_STRIDE**2)]


def distance_to_visible(xy_um: NDArray[np.float64], part: Round) -> NDArray[np.float64]:
    """How far each hidden cell is from the nearest visible one.

    Args:
        xy_um: (N, 2) places of all cells of the slide, micrometres.
        part: A round.

    Returns:
        (Q,) micrometres.
    """
    distance, _ = cKDTree(xy_um[part.visible]).query(xy_um[part.hidden])
    return np.asarray(distance, dtype=np.float64)
