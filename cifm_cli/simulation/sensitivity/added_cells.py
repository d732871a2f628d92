"""The cells whose infinitesimal addition is studied: copies of a typical cell of a type, at the free places of a grid.

Letters: N residents, X places, S source cells, P genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.data.slide import log_normalise
from cifm_cli.errors import CifmError
from cifm_cli.simulation.edits.places import UM2_PER_MM2, tissue_area

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.simulation.edits.apply import Addition
    from cifm_cli.simulation.edits.places import Area
    from cifm_cli.simulation.source_cells import SourceCells
    from cifm_cli.simulation.tissue import TissueState

    Positions = NDArray[np.float64]

MAX_PLACES: Final = 20_000  # above it, the grid is made coarser
FREE_FRACTION: Final = 0.5  # smallest distance of a free place to a cell, in spacings of the grid, unless it is given
TYPICAL_DEPTHS: Final = (0.25, 0.75)  # quantiles of the depths between which a typical cell is looked for


@dataclass(frozen=True)
class AddedCells:
    """Copies of one cell."""

    cell_type: str  # its label
    xy_um: Positions  # (X, 2) places, micrometres
    counts: csr_matrix  # (1, P) counts
    total_counts: float  # depth that normalisation divides by

    @property
    def num_cells(self) -> int:
        """X."""
        return len(self.xy_um)


def no_cells(num_genes: int) -> AddedCells:
    """No added cells, among P genes."""
    return AddedCells("", np.empty((0, 2)), csr_matrix((1, num_genes), dtype=np.float32), 0.0)


@dataclass(frozen=True)
class Grid:
    """Free places of a tissue."""

    xy_um: Positions  # (X, 2) micrometres
    spacing_um: float | None  # distance between neighbours on the grid; None for places that were given
    min_distance_um: float  # smallest distance to a cell


def free_places(tissue: TissueState, addition: Addition) -> Grid:
    """The places of a grid where a cell may be added.

    The grid has the mean spacing of the cells. Places are in the area of the addition, and not near a cell.

    Args:
        tissue: The residents.
        addition: Area and minimum distance, or the places themselves.

    Returns:
        The places.

    Raises:
        CifmError: There is no free place.
    """
    if addition.at_um is not None or addition.area is None:
        return Grid(np.empty((0, 2)) if addition.at_um is None else addition.at_um, None, 0.0)
    cells_um = tissue.slide.xy_um[tissue.slide.total_counts > 0]
    area = addition.area
    size_um2 = area.size_mm2() * UM2_PER_MM2
    spacing_um = max(_mean_spacing_um(cells_um, tissue.slide.radius_um), float(np.sqrt(size_um2 / MAX_PLACES)))
    min_distance_um = addition.min_distance_um or FREE_FRACTION * spacing_um
    places = _grid_in(area, spacing_um)
    if len(places):
        places = places[cKDTree(cells_um).query(places)[0] >= min_distance_um]
    if not len(places):
        raise CifmError(
            f"no free place: all places of the grid are less than {min_distance_um:.3g} um from a cell, or outside of the "
            "named part of the tissue",
            "name a larger part of the tissue, or a smaller --min-distance",
        )
    return Grid(places, spacing_um, min_distance_um)


def typical_cell(source: SourceCells, target_sum: float) -> int:
    """The cell of a type whose expression is most similar to the mean of the type, among those of usual depth.

    Args:
        source: The cells of the type.
        target_sum: Sum of the normalised counts of a cell.

    Returns:
        Its row.
    """
    low, high = np.quantile(source.total_counts, TYPICAL_DEPTHS)
    usual = np.flatnonzero((source.total_counts >= low) & (source.total_counts <= high))
    expression = log_normalise(source.counts, source.total_counts, target_sum)
    mean = np.asarray(expression.mean(axis=0)).ravel()
    norms = np.sqrt(np.asarray(expression[usual].multiply(expression[usual]).sum(axis=1)).ravel())
    similarity = np.asarray(expression[usual] @ mean).ravel() / np.maximum(norms, np.finfo(np.float32).tiny)
    return int(usual[similarity.argmax()])


def _mean_spacing_um(cells_um: Positions, radius_um: float) -> float:
    """Spacing of a square grid with as many places in the tissue as it has cells."""
    return float(np.sqrt(tissue_area(cells_um, radius_um).size_mm2() * UM2_PER_MM2 / len(cells_um)))


def _grid_in(area: Area, spacing_um: float) -> Positions:
    """(X, 2) places of a square grid that are in an area, row by row."""
    # Only the blocks around centres are filled: the box around a tissue of several pieces may be much larger than they are.
    block_um = max(area.within_um, spacing_um)
    own = np.unique(np.floor(area.centres_um / block_um).astype(np.int64), axis=0)
    offsets = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), axis=-1).reshape(-1, 2)
    blocks = np.unique((own[:, None] + offsets).reshape(-1, 2), axis=0)
    parts = []
    for block in blocks:
        first = np.ceil(block * block_um / spacing_um).astype(np.int64)
        last = np.ceil((block + 1) * block_um / spacing_um).astype(np.int64)
        steps = np.stack(np.meshgrid(*(np.arange(first[i], last[i]) for i in range(2))), axis=-1).reshape(-1, 2)
        if len(steps):
            parts.append(steps[area.contains(steps * spacing_um)])
    steps = np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.int64)
    return steps[np.lexsort(steps.T)] * spacing_um
