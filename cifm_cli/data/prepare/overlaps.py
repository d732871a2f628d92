"""A test whether groups of cells are several sections that lie on each other in one coordinate system.

Cells of one section keep a distance: hardly any pair is closer than half the usual distance to the nearest cell. Two
sections that overlap are independent of each other, so their cells also come to lie at one place. Cell types and clusters
mix everywhere in a tissue, but keep the distance; fields of view that are stitched together hardly mix.

Letters: N cells, K groups, Q cells that are looked at, P pairs of one of these and another cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Fractions of the median distance to the nearest cell. Pairs closer than the first are one cell that was found twice; pairs
# closer than the second are rare within a section, and on a grid of spots or bins even those closer than the third; the
# fourth gives 20 neighbours.
_SAME, _NEAR, _NEAR_ON_GRID, _FAR = 0.2, 0.4, 0.8, 2.5
_SAMPLE_SIZE = 5_000  # Q
_MAX_PAIRS = 2_000_000
_MIN_NEAR_PAIRS = 5  # fewer are chance
_MIN_COPIES = 0.2  # of the cells with another at the same place, if one section is a copy of another
# Thresholds on the share of near pairs, relative to that of cells placed at random: 0.0 to 0.05 is measured within
# Xenium, CosMx and array sections, 0.85 to 1.1 between sections.
_INDEPENDENT, _DISTANT, _GRID, _CROWDED = 0.5, 0.3, 0.02, 0.05
MIN_SHARE = 0.02  # of all edges; fewer occur along the borders of fields that share a margin
_MIN_MIXING = 0.3  # of the edges expected if the groups were mixed evenly; for groups in which cells keep no distance


class Overlap(NamedTuple):
    """Edges between groups, at the graph radius that each group would have alone."""

    share: float  # of the edges, those that join two groups
    radius_um: float  # that radius, median over the cells
    keeps_distance: bool  # whether cells of one group keep a distance, which proves that each group is a section


class _Pairs(NamedTuple):
    """P pairs of cells within a distance of each other."""

    cell: NDArray[np.int64]  # (P,) position in the sample
    other: NDArray[np.int64]  # (P,) row of the other cell
    distance: NDArray[np.float64]  # (P,) in units of the given distance


class OverlapTest:
    """The test, for any number of groupings of the same cells.

    Args:
        xy_um: (N, 2) finite positions.
    """

    def __init__(self, xy_um: NDArray[np.float64]) -> None:
        self._xy_um, self._tree = xy_um, cKDTree(xy_um)
        size = min(_SAMPLE_SIZE, len(xy_um))
        # A fixed seed, so that the same file gives the same answer.
        self._sample = np.sort(numpy_generator(0, "overlap").choice(len(xy_um), size, replace=False))
        self._pairs: _Pairs | None = None

    def find(self, codes: NDArray[np.int64], *, suspected: bool) -> Overlap | None:
        """Test one grouping.

        Args:
            codes: (N,) group of each cell, 0 to K - 1.
            suspected: Whether a name says that the groups are sections. It counts where the positions alone do not decide:
                sections on one grid with a shift, and cells that keep no distance within a group either.

        Returns:
            The overlap; None if the groups do not overlap, or too little to matter.
        """
        # First the test that costs little, as all groupings share its pairs.
        on_top = self._on_top(codes)
        if not on_top and not suspected:
            return None
        spacings = _group_spacings(self._xy_um, codes)
        sample = self._sample[np.isfinite(spacings[codes[self._sample]])]
        if not len(sample):
            return None
        unit_um = spacings[codes[sample]]
        cell, other, distance = self._find_pairs(sample, unit_um)
        across = codes[sample[cell]] != codes[other]
        share = float(across.mean()) if len(across) else 0.0
        within, between = distance[~across], distance[across]
        num_cells = len(np.unique(cell))
        if share < MIN_SHARE or not _are_independent(within, between, num_cells, on_top=on_top, suspected=suspected):
            return None
        keeps_distance = _near_share(within, 0.0, _NEAR) <= _DISTANT
        expected = 1.0 - float(((np.bincount(codes) / len(codes)) ** 2).sum())
        if not keeps_distance and not (suspected and share >= _MIN_MIXING * expected):
            return None
        return Overlap(share, _FAR * float(np.median(unit_um)), keeps_distance)

    @property
    def is_crowded(self) -> bool:
        """Whether more cells lie on another one than in any tissue that was measured."""
        return _near_share(self._union_pairs().distance, 0.0, _NEAR) >= _CROWDED

    def _on_top(self, codes: NDArray[np.int64]) -> bool:
        """Whether cells of different groups lie on each other at the distances that all cells together have."""
        cell, other, distance = self._union_pairs()
        across = codes[self._sample[cell]] != codes[other]
        # A single pair of duplicates says nothing, and a few joined edges do no harm.
        return (
            bool(across.sum() >= MIN_SHARE / 2 * len(across))
            and _near_share(distance[across], 0.0, _NEAR) >= _INDEPENDENT
        )

    def _union_pairs(self) -> _Pairs:
        """Pairs at the distances that all cells together have; found once."""
        if self._pairs is None:
            spacing = _spacing(self._tree, self._xy_um[self._sample])
            self._pairs = self._find_pairs(self._sample, np.full(len(self._sample), spacing))
        return self._pairs

    def _find_pairs(self, sample: NDArray[np.int64], unit_um: NDArray[np.float64]) -> _Pairs:
        """Pairs within `_FAR` units of the cells of a sample, or of its first cells if there are too many."""
        if not (unit_um > 0).all():
            none = np.empty(0, dtype=np.int64)
            return _Pairs(none, none, np.empty(0))
        # In random order, so that any first part is a fair sample.
        order = numpy_generator(0, "overlap pairs").permutation(len(sample))
        sizes = self._tree.query_ball_point(self._xy_um[sample[order]], _FAR * unit_um[order], return_length=True)
        order = order[: max(1, int(np.searchsorted(np.cumsum(sizes), _MAX_PAIRS)))]
        found = self._tree.query_ball_point(self._xy_um[sample[order]], _FAR * unit_um[order])
        cell = np.repeat(order, [len(rows) for rows in found])
        other = np.concatenate([np.asarray(rows, dtype=np.int64) for rows in found])
        different = sample[cell] != other
        cell, other = cell[different], other[different]
        distance_um = np.hypot(*(self._xy_um[sample[cell]] - self._xy_um[other]).T)
        return _Pairs(cell, other, distance_um / unit_um[cell])


def _are_independent(
    within: NDArray[np.float64], between: NDArray[np.float64], num_cells: int, *, on_top: bool, suspected: bool
) -> bool:
    """Whether the places of one group are independent of those of another, given distances of their pairs."""
    # Without the closest pairs: a cell in the margin of two fields is found in both, at one place.
    is_copy = (between < _NEAR).sum() >= _MIN_COPIES * num_cells
    rings = [(0.0 if is_copy else _SAME, _NEAR)] if on_top else []
    # On a grid, spots of two sections are at one place, or all of them are shifted by the same distance.
    if _near_share(within, 0.0, _NEAR_ON_GRID) <= _GRID:
        rings += [(0.0, _NEAR)] if on_top else []
        rings += [(0.0, _NEAR), (0.0, _NEAR_ON_GRID)] if suspected else []
    return any(_near_share(between, *ring) >= _INDEPENDENT for ring in rings)


def _near_share(distance: NDArray[np.float64], low: float, high: float) -> float:
    """Number of pairs within a ring relative to that of cells placed at random, given the distances of pairs."""
    near = int(((distance >= low) & (distance < high)).sum())
    if near < _MIN_NEAR_PAIRS:
        return 0.0
    return near / (len(distance) * (high**2 - low**2) / _FAR**2)


def _spacing(tree: cKDTree, xy_um: NDArray[np.float64]) -> float:
    """Median distance of cells to the nearest cell at another place; NaN if there is none."""
    # Two neighbours more, as sections on one array of spots share their places.
    nearest = np.asarray(tree.query(xy_um, k=4)[0])[:, 1:]
    nearest = np.where((nearest > 0) & np.isfinite(nearest), nearest, np.inf).min(axis=1)
    apart = nearest[np.isfinite(nearest)]
    return float(np.median(apart)) if len(apart) else float("nan")


def _group_spacings(xy_um: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) spacing of the cells of each group; NaN for a group of less than two places."""
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))
    spacings = np.full(len(ends), np.nan)
    for group, rows in enumerate(np.split(order, ends[:-1])):
        if len(rows) >= 2:
            places = xy_um[rows]
            spacings[group] = _spacing(cKDTree(places), places[:: max(1, len(rows) // _SAMPLE_SIZE)])
    return spacings
