"""What is hidden from whom: rounds of hidden cells inside one region of a slide, in several geometries.

In `scattered` and `region`, cells of other regions do not exist: what is not hidden in the region is the whole context.
In `whole` it is the other way round: the region is hidden altogether, and the other regions are the context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows

SCATTERED, REGION, WHOLE = KINDS = ("scattered", "region", "whole")
GEOMETRIES = (SCATTERED, REGION)  # unless the user says otherwise

NUM_SCATTERED = 20  # rounds that hide 5 % each (paper, B.3)
BLOCK_RADII = 5.0  # side of a hidden block, in radii: its middle lies beyond the graph's reach of one layer
BLOCK_STRIDE = 3  # one block of every 3 x 3 is hidden in a round, so that no two hidden blocks touch
WHOLE_CELLS = 4_000  # of a region that is hidden altogether, inferred in one round
MOST_RADII = 1e6  # no tissue is that wide
WHOLE_RADII = 20.0  # side of the blocks on which baselines practise for `whole`


@dataclass(frozen=True, eq=False)
class Round:
    """One way of hiding some cells.

    Args:
        number: Its place among all rounds of the geometry.
        visible: Ascending rows of the slide that a predictor may look at.
        hidden: Ascending rows to infer.
        geometry: Its geometry.
        withheld: Ascending rows that nobody may learn from either, beyond the hidden ones; none when absent.
    """

    number: int
    visible: Rows
    hidden: Rows
    geometry: str = SCATTERED
    withheld: Rows | None = None


def geometry_names(kinds: Sequence[str], block_radii: Sequence[float]) -> list[str]:
    """Name the geometries of an evaluation.

    Args:
        kinds: Of `KINDS`.
        block_radii: Sides of the hidden blocks of `region`, in radii.

    Returns:
        `region` stands for blocks of 5 radii, `region_10` for blocks of 10.

    Raises:
        CifmError: A side is no number of radii.
    """
    for side in block_radii:
        if not 0 < side <= MOST_RADII:
            raise CifmError(f"blocks of {side:g} radii: no tissue has room for them", "choose a smaller --block-radii")
    of_region = [REGION if side == BLOCK_RADII else f"{REGION}_{side:g}" for side in block_radii]
    return [name for kind in kinds for name in (of_region if kind == REGION else [kind])]


def hide(
    geometry: str, xy_um: NDArray[np.float64], rows: Rows, radius_um: float, seed: int, others: Rows | None = None
) -> list[Round]:
    """All rounds of a geometry; each cell of the region is hidden in exactly one of them.

    Args:
        geometry: `scattered`: 5 % of the cells, drawn at random; `region`: square blocks 5 radii wide, one of every
            3 x 3, `region_10`: 10 radii wide; `whole`: all of them, inferred in patches.
        xy_um: (N, 2) places of all cells of the slide, micrometres.
        rows: Ascending rows of the region.
        radius_um: Radius of the graph.
        seed: Decides the draw, the origin of the blocks and the order of the rounds.
        others: Ascending rows that are visible in every round; none when absent.

    Returns:
        Rounds that hide at least one cell and leave at least one visible.
    """
    generator = numpy_generator(seed, "hide", geometry)
    others = rows[:0] if others is None else others
    if geometry == SCATTERED:
        parts = np.array_split(generator.permutation(rows), NUM_SCATTERED)
    elif geometry == WHOLE:
        patches = np.array_split(rows, -(-len(rows) // WHOLE_CELLS))  # rows follow a Hilbert curve
        parts = [patches[number] for number in generator.permutation(len(patches))]
    else:
        parts = _blocks(xy_um[rows], rows, side_radii(geometry) * radius_um, generator)
    if geometry == WHOLE:
        seen = np.setdiff1d(others, rows, assume_unique=True)
        rounds = [(seen, np.sort(part)) for part in parts]  # one array for all of them
    else:
        seen = np.union1d(rows, others)
        rounds = [(np.setdiff1d(seen, part, assume_unique=True), np.sort(part)) for part in parts]
    able = [(visible, hidden) for visible, hidden in rounds if len(visible) and len(hidden)]
    withheld = rows if geometry == WHOLE else None  # a patch of it is inferred, but all of it is hidden
    return [Round(number, visible, hidden, geometry, withheld) for number, (visible, hidden) in enumerate(able)]


def practised(geometry: str) -> str:
    """The geometry in which training cells are hidden to practise for another one.

    Args:
        geometry: What is practised for; for `whole`, blocks so wide that most of their cells have nobody near.

    Returns:
        Its name.
    """
    return f"{REGION}_{WHOLE_RADII:g}" if geometry == WHOLE else geometry


def side_radii(geometry: str) -> float:
    """Side of the blocks in radii, from the geometry's name."""
    _, _, side = geometry.partition("_")
    return float(side) if side else BLOCK_RADII


def _blocks(xy_um: NDArray[np.float64], rows: Rows, side_um: float, generator: np.random.Generator) -> list[Rows]:
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
