"""Folds: which cells of a region are hidden together, in several geometries.

In `scattered` and `region`, the cells of the region that are not hidden are the only visible cells. In `whole`, the
region is hidden altogether, and the cells of the other regions are visible.

A region can be too large to process as a whole. Rows follow a Hilbert curve, so consecutive rows are a compact piece of
tissue, and a piece can be scored with a margin of visible cells around it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

SCATTERED, REGION, WHOLE = KINDS = ("scattered", "region", "whole")
DEFAULT_KINDS = (SCATTERED, REGION)

NUM_SCATTERED = 20  # folds that hide 5 % of the cells each (paper, B.3)
BLOCK_RADII = 5.0  # side of a hidden block: its centre is beyond the reach of one layer
MAX_BLOCK_RADII = 1e6  # wider than any tissue
BLOCK_STRIDE = 3  # one block of every 3 x 3 is hidden in a fold, so no two hidden blocks touch
WHOLE_CELLS = 4_000  # cells of a region hidden altogether that are predicted in one fold
WHOLE_BLOCK_RADII = 20.0  # side of the blocks hidden in training cells to learn for `whole`

BASELINE_REACH_RADII = 20.0  # the widest circle of the baselines, including the squares that extend beyond it
BLOCK_MARGIN_RADII = 10.0  # beyond a hidden block: within 5 radii are about as many cells as any baseline averages


@dataclass(frozen=True, eq=False)
class Fold:
    """Cells that are hidden together."""

    number: int  # position among all folds of the geometry
    visible: Rows  # ascending rows of the slide that a predictor may use
    hidden: Rows  # ascending rows to predict
    geometry: str = SCATTERED  # name of the geometry
    withheld: Rows | None = None  # ascending rows that no predictor may learn from, beyond the hidden ones


class FoldPlan(NamedTuple):
    """The folds of one slide and geometry."""

    tuning: list[Fold]  # folds on which hyper-parameters and thresholds are chosen
    scored: list[Fold]  # folds on which every predictor is scored
    notes: tuple[tuple[bool, str], ...]  # what the user should know, as (is a warning, text)
    # folds of the tuning region on which adaptation chooses weights and penalties
    adaptation: list[Fold]
    overlapping: bool  # whether these read cells that are scored in other folds


def hidden_rows(folds: Sequence[Fold]) -> Rows:
    """All rows that some folds hide, ascending."""
    return np.sort(np.concatenate([fold.hidden for fold in folds]))


def geometry_names(kinds: Sequence[str], block_radii: Sequence[float]) -> list[str]:
    """Names of an evaluation's geometries, each once; `region_10` has blocks of 10 radii, `region` the usual ones of 5.

    Raises:
        CifmError: There is no such kind, or a side is not a number of radii.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise CifmError(f"geometries: {', '.join(unknown)}", f"known are {', '.join(KINDS)}")
    for side in block_radii:
        if not 0 < side <= MAX_BLOCK_RADII:
            raise CifmError(f"blocks of {side:g} radii are not possible", "give a --block-radii above 0, such as 5")
    blocks = [REGION if side == BLOCK_RADII else f"{REGION}_{side:g}" for side in block_radii]
    return list(dict.fromkeys(name for kind in kinds for name in (blocks if kind == REGION else [kind])))


def block_side_radii(geometry: str) -> float:
    """Side of the hidden blocks in radii, from the name of the geometry."""
    _, _, side = geometry.partition("_")
    return float(side) if side else BLOCK_RADII


def training_geometry(geometry: str) -> str:
    """Geometry in which training cells are hidden, for baselines to learn for a scored geometry.

    It is the same; for `whole`, blocks so wide that most of their cells are far from every visible cell.
    """
    return f"{REGION}_{WHOLE_BLOCK_RADII:g}" if geometry == WHOLE else geometry


def make_folds(
    geometry: str, xy_um: NDArray[np.float64], rows: Rows, radius_um: float, seed: int, others: Rows | None = None
) -> list[Fold]:
    """Hide each cell of a region in exactly one fold.

    Args:
        geometry: `scattered`: 5 % of the cells, drawn at random; `region`: square blocks 5 radii wide, one of every
            3 x 3, `region_10`: 10 radii wide; `whole`: all of them, predicted in patches.
        xy_um: (N, 2) places of all cells of the slide, micrometres.
        rows: Ascending rows of the region.
        radius_um: Radius of the graph.
        seed: Decides the draw, the origin of the blocks and the order of the folds.
        others: Ascending rows that are visible in every fold.

    Returns:
        Folds that hide at least one cell and leave at least one visible.
    """
    generator = numpy_generator(seed, "hide", geometry)
    others = rows[:0] if others is None else others
    if geometry == SCATTERED:
        hidden = np.array_split(generator.permutation(rows), NUM_SCATTERED)
    elif geometry == WHOLE:
        patches = np.array_split(rows, -(-len(rows) // WHOLE_CELLS))
        hidden = [patches[number] for number in generator.permutation(len(patches))]
    else:
        hidden = _hidden_blocks(xy_um[rows], rows, block_side_radii(geometry) * radius_um, generator)
    if geometry == WHOLE:
        visible = np.setdiff1d(others, rows, assume_unique=True)
        pairs = [(visible, np.sort(part)) for part in hidden]  # the folds share one array of visible rows
    else:
        everything = np.union1d(rows, others)
        pairs = [(np.setdiff1d(everything, part, assume_unique=True), np.sort(part)) for part in hidden]
    # a fold of `whole` predicts one patch, but the rest of the region is hidden as well.
    withheld = rows if geometry == WHOLE else None
    usable = [(visible, part) for visible, part in pairs if len(visible) and len(part)]
    return [Fold(number, visible, part, geometry, withheld) for number, (visible, part) in enumerate(usable)]


def _hidden_blocks(
    xy_um: NDArray[np.float64], rows: Rows, side_um: float, generator: np.random.Generator
) -> list[Rows]:
    """Rows of every ninth block, for each of the nine positions in a square of 3 x 3 blocks."""
    # The origin is random: blocks that start at the edge of the tissue would always cut it in the same way.
    origin = xy_um.min(axis=0) - generator.uniform(0, side_um, size=2)
    column, row = ((xy_um - origin) // side_um).astype(np.int64).T % BLOCK_STRIDE
    position = row * BLOCK_STRIDE + column
    return [rows[position == number] for number in generator.permutation(BLOCK_STRIDE**2)]


def distance_to_visible(xy_um: NDArray[np.float64], fold: Fold) -> NDArray[np.float64]:
    """Distance of each hidden cell to the nearest visible one: (Q,) micrometres."""
    distance, _ = cKDTree(xy_um[fold.visible]).query(xy_um[fold.hidden])
    return np.asarray(distance, dtype=np.float64)


def exceeds_counts(slide: Slide, rows: Rows, max_counts: int) -> bool:
    """Whether cells have more counts in total than may be in memory at once."""
    return float(slide.total_counts[rows].sum()) > max_counts


def margin_um(geometry: str, radius_um: float, reach_um: float) -> float:
    """Width of the margin around a piece in which cells influence predictions: the reach of models and baselines."""
    return max(
        reach_um, BASELINE_REACH_RADII * radius_um, (block_side_radii(geometry) + BLOCK_MARGIN_RADII) * radius_um
    )


def rows_within(xy_um: NDArray[np.float64], core: Rows, rows: Rows, distance_um: float) -> Rows:
    """Select those of `rows` that are at most a distance from a cell of `core`; ascending."""
    low, high = xy_um[core].min(axis=0) - distance_um, xy_um[core].max(axis=0) + distance_um
    # The bounding box excludes most cells of a large slide before the search of neighbours.
    rows = rows[((xy_um[rows] >= low) & (xy_um[rows] <= high)).all(axis=1)]
    # The bound of the query is exclusive, but a cell exactly at the distance belongs to the margin.
    distance, _ = cKDTree(xy_um[core]).query(xy_um[rows], distance_upper_bound=np.nextafter(distance_um, np.inf))
    return np.asarray(rows[np.isfinite(distance)])


def make_folds_around(
    slide: Slide, geometry: str, core: Rows, rows: Rows, margin: float, seed: int, others: Rows | None = None
) -> list[Fold]:
    """Make folds of a piece of a region and its margin that predict the cells of the piece only.

    Cells of the margin are hidden as those of the piece are, so a cell at the edge of the piece has no more visible
    neighbours than one in its middle.

    Args:
        slide: At the radius of the graph.
        geometry: Name of the geometry.
        core: Ascending rows of the piece.
        rows: Ascending rows of the region.
        margin: Width of the margin in micrometres.
        seed: The user's seed.
        others: Ascending rows outside of the region that are visible in every fold.

    Returns:
        Folds that hide each cell of the piece once; they are numbered anew.
    """
    near = rows_within(slide.xy_um, core, rows, margin)
    near_others = None if others is None else rows_within(slide.xy_um, core, others, margin)
    folds = make_folds(geometry, slide.xy_um, near, slide.radius_um, seed, near_others)
    inner = [replace(fold, hidden=np.intersect1d(fold.hidden, core, assume_unique=True)) for fold in folds]
    return [replace(fold, number=number) for number, fold in enumerate(fold for fold in inner if len(fold.hidden))]
