"""Places of injected cells: the part of a tissue where they may be, its area, and random positions in it.

Letters: N cells of the tissue, C centres, K places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.simulation.window import Box

    Positions = NDArray[np.float64]

AREA_POINTS: Final = 100_000  # with which an area is measured
MIN_DISC_POINTS: Final = 8  # in each disc of it
GOLDEN_ANGLE: Final = np.pi * (3 - 5**0.5)
MIN_BATCH: Final = 1_024  # proposals at a time, where many are rejected
MAX_PROPOSALS: Final = 200_000  # after which the area is taken to be full
UM2_PER_MM2: Final = 1e6


@dataclass(frozen=True)
class Area:
    """All positions within a distance of some centres, in a rectangle, and in the tissue."""

    centres_um: Positions  # (C, 2) centres, micrometres
    within_um: float  # largest distance from a centre
    tissue_um: Positions  # (N, 2) cells of the tissue
    tissue_radius_um: float  # largest distance from the nearest cell of the tissue
    region_um: Box | None = None  # only positions in this rectangle

    @cached_property
    def _centres(self) -> cKDTree:
        return cKDTree(self.centres_um)

    @cached_property
    def _tissue(self) -> cKDTree:
        return self._centres if self.tissue_um is self.centres_um else cKDTree(self.tissue_um)

    def contains(self, xy_um: Positions) -> NDArray[np.bool_]:
        """(K,) whether each of (K, 2) positions is in the area."""
        near, nearest_cell = self._centres.query(xy_um)[0], self._tissue.query(xy_um)[0]
        inside = (near <= self.within_um) & (nearest_cell <= self.tissue_radius_um) & in_region(xy_um, self.region_um)
        return np.asarray(inside)

    def size_mm2(self) -> float:
        """Its size in square millimetres, within about one per cent."""
        num_points = max(MIN_DISC_POINTS, AREA_POINTS // len(self.centres_um))
        # Points on a spiral, which cover a disc evenly.
        number = np.arange(num_points)
        distance, angle = self.within_um * np.sqrt((number + 0.5) / num_points), number * GOLDEN_ANGLE
        offsets = distance[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        points = (self.centres_um[:, None] + offsets).reshape(-1, 2)
        # A point in m discs is counted once in all of them together.
        num_discs = np.maximum(self._centres.query_ball_point(points, self.within_um, return_length=True), 1)
        discs = (self.contains(points) / num_discs).sum() / num_points
        return float(discs * np.pi * self.within_um**2 / UM2_PER_MM2)

    def draw(
        self,
        count: int,
        generator: np.random.Generator,
        others_um: Positions | None = None,
        min_distance_um: float = 0.0,
    ) -> Positions:
        """Draw positions uniformly from the area.

        Args:
            count: Number of positions, K.
            generator: Source of randomness.
            others_um: (M, 2) cells to which the distance is kept.
            min_distance_um: Smallest distance to these cells, and between two positions, micrometres.

        Returns:
            (K, 2) micrometres.

        Raises:
            CifmError: There are too few such positions.
        """
        others = cKDTree(others_um) if min_distance_um and others_um is not None and len(others_um) else None
        is_restricted = self.region_um is not None or self._tissue is not self._centres
        accepted: Positions = np.empty((0, 2))
        num_proposals = 0
        while (missing := count - len(accepted)) > 0:
            # Where few proposals are accepted, many are made at a time.
            size = max(missing, MIN_BATCH) if is_restricted or min_distance_um else missing
            proposals = self._propose(size, generator)
            num_proposals += size
            if is_restricted:
                proposals = proposals[self.contains(proposals)]
            if min_distance_um:
                if others is not None:
                    proposals = proposals[others.query(proposals)[0] >= min_distance_um]
                proposals = _far_apart(proposals, accepted, min_distance_um)
            accepted = np.concatenate([accepted, proposals[:missing]])
            if num_proposals > MAX_PROPOSALS + 100 * count and len(accepted) < count:
                raise CifmError(
                    f"places for {len(accepted):,} of {count:,} cells: all others are outside of the named part of the "
                    f"tissue, or less than {min_distance_um:g} um from a cell",
                    "inject fewer cells, in a larger part of the tissue, or with a smaller minimum distance",
                )
        return accepted

    def _propose(self, size: int, generator: np.random.Generator) -> Positions:
        """Draw positions uniformly from the union of the discs: at most `size` of them, by rejection sampling."""
        centres = self.centres_um[generator.integers(len(self.centres_um), size=size)]
        # The area of a disc grows with the square of its radius, hence the square root.
        distance = self.within_um * np.sqrt(generator.random(size))
        angle = 2 * np.pi * generator.random(size)
        proposals = centres + distance[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        # A proposal is drawn in the disc of a random cell, so a position in m discs is proposed m times as often as
        # one in a single disc. It is accepted with probability 1 / m.
        num_discs = self._centres.query_ball_point(proposals, self.within_um, return_length=True)
        return np.asarray(proposals[generator.random(size) * num_discs < 1])


def in_region(xy_um: Positions, region_um: Box | None) -> NDArray[np.bool_]:
    """(K,) whether each of (K, 2) positions is in a rectangle; True without one. Its border is inside."""
    if region_um is None:
        return np.ones(len(xy_um), dtype=bool)
    return np.asarray(((xy_um >= region_um[:2]) & (xy_um <= region_um[2:])).all(axis=1))


def tissue_area(tissue_um: Positions, radius_um: float, region_um: Box | None = None) -> Area:
    """The area of all positions within a distance of a cell, in a rectangle if one is given.

    Args:
        tissue_um: (N, 2) cells of the tissue.
        radius_um: The distance.
        region_um: The rectangle.

    Returns:
        The area; it has no centre where no cell is near the rectangle.
    """
    if region_um is None:
        return Area(tissue_um, radius_um, tissue_um, radius_um)
    return area_near(tissue_um, radius_um, tissue_um, radius_um, region_um)


def area_near(
    near_um: Positions, within_um: float, tissue_um: Positions, radius_um: float, region_um: Box | None = None
) -> Area:
    """The area of all positions within a distance of some cells, and in the tissue.

    Args:
        near_um: (C', 2) cells.
        within_um: Distance from these.
        tissue_um: (N, 2) cells of the tissue.
        radius_um: Distance from the nearest cell of the tissue.
        region_um: Only positions in this rectangle.

    Returns:
        The area; it has no centre where no cell is near the rectangle.
    """
    if region_um is not None:
        # Only discs that reach into the rectangle, as proposals in all others would be rejected.
        x0, y0, x1, y1 = region_um
        near_um = near_um[in_region(near_um, (x0 - within_um, y0 - within_um, x1 + within_um, y1 + within_um))]
    return Area(near_um, within_um, tissue_um, radius_um, region_um)


def _far_apart(proposals: Positions, accepted: Positions, min_distance_um: float) -> Positions:
    """Leave out proposals near an accepted position, or near an earlier proposal that stays."""
    if len(accepted) and len(proposals):
        proposals = proposals[cKDTree(accepted).query(proposals)[0] >= min_distance_um]
    stays: NDArray[np.bool_] = np.ones(len(proposals), dtype=np.bool_)
    if len(proposals) > 1:
        pairs = cKDTree(proposals).query_pairs(np.nextafter(min_distance_um, 0), output_type="ndarray")
        # In the order of the later one of a pair, so that it is known by then whether the earlier one stays.
        for first, second in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]:
            if stays[first]:
                stays[second] = False
    return proposals[stays]
