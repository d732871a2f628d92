"""How a slide is split into regions: the split of the paper, or strips or random blocks with a buffer in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

REGIONAL, STRIPS, BLOCKS = SPLITS = ("regional", "strips", "blocks")
TRAIN_WIDTH, TEST_HEIGHT = 0.6, 0.5  # fractions of the extent of the slide
SCORED_FRACTION = 0.2  # of the cells, for validation and for test, in strips and in blocks
GAP_RADII = 6.0  # default width of a buffer: the distance from which a cell affects another in the shipped recipes
SMALL_REGION, SMALL_CELLS = 0.05, 500  # a region below both, a fraction of the cells and a number, gets a warning
BLOCK_GAPS = 5.0  # side of a random block, in gaps; most of a block must be left between its buffers
_TRAIN, _VALIDATION, _TEST, _BUFFER = (keys.REGIONS.index(name) for name in keys.REGIONS)


@dataclass(frozen=True)
class SplitConfig:
    """How a slide is split into regions."""

    kind: str = REGIONAL  # a value of `SPLITS`
    # minimum distance between cells of different regions, in strips and blocks; None for 6 radii
    gap_um: float | None = None
    seed: int = 0  # seed of the random blocks

    def regions(self, xy_um: NDArray[np.float64], radius_um: float) -> NDArray[np.int8]:
        """Assign every cell to a region.

        Args:
            xy_um: (N, 2) coordinates, N >= 1.
            radius_um: Radius of the graph, micrometres.

        Returns:
            (N,) positions in `keys.REGIONS`.
        """
        if self.kind == STRIPS:
            return strips(xy_um[:, 1], self._gap_um(radius_um))
        if self.kind == BLOCKS:
            return random_blocks(xy_um, self._gap_um(radius_um), self.seed)
        return regional_split(xy_um)

    def describe(self, radius_um: float) -> str:
        """Describe the split for the report of the preparation, given the radius of the graph in micrometres."""
        if self.kind == REGIONAL:
            return "regional split of the paper"
        kind = "strips over the whole width" if self.kind == STRIPS else f"random blocks, seed {self.seed}"
        return f"{kind}, regions {self._gap_um(radius_um):g} um apart"

    def _gap_um(self, radius_um: float) -> float:
        return GAP_RADII * radius_um if self.gap_um is None else self.gap_um


def regional_split(xy_um: NDArray[np.float64]) -> NDArray[np.int8]:
    """Split a slide by position (paper, B.1): small x train, large x and y validation, large x and small y test.

    Train where x <= x_min + 0.6 (x_max - x_min); of the rest, validation where y >= y_min + 0.5 (y_max - y_min),
    test below it. Reports draw y downwards, so that the validation region is at the bottom right of their maps.

    Args:
        xy_um: (N, 2) coordinates, N >= 1.

    Returns:
        (N,) positions in `keys.REGIONS`.
    """
    low, high = xy_um.min(axis=0), xy_um.max(axis=0)
    threshold = low + np.array([TRAIN_WIDTH, TEST_HEIGHT]) * (high - low)
    right, upper = xy_um[:, 0] > threshold[0], xy_um[:, 1] >= threshold[1]
    return np.where(right, np.where(upper, _VALIDATION, _TEST), _TRAIN).astype(np.int8)


def strips(y_um: NDArray[np.float64], gap_um: float) -> NDArray[np.int8]:
    """Split a slide into strips over its whole width, so that every region contains all that varies along x.

    From high y to low y: test with a fifth of the cells, a gap, validation with a fifth of the cells, a gap, and train.

    Args:
        y_um: (N,) coordinates, N >= 1.
        gap_um: Width of a gap, micrometres.

    Returns:
        (N,) positions in `keys.REGIONS`.
    """
    regions = np.full(len(y_um), _TRAIN, dtype=np.int8)
    for region in (_TEST, _VALIDATION):
        # Each region is taken from the upper end of the cells that are still in training.
        is_train = regions == _TRAIN
        size = round(SCORED_FRACTION * len(y_um))
        if not 0 < size <= is_train.sum():
            break
        # The y coordinate of the lowest cell of the region; a partition is faster than sorting.
        edge_um = np.partition(y_um[is_train], -size)[-size]
        # All cells at the same y are in the same region, so a region may be slightly larger than asked.
        regions[is_train & (y_um > edge_um - gap_um)] = _BUFFER
        regions[is_train & (y_um >= edge_um)] = region
    return regions


def random_blocks(xy_um: NDArray[np.float64], gap_um: float, seed: int) -> NDArray[np.int8]:
    """Assign square blocks, 5 gaps wide, to the regions at random: a fifth of the cells to validation and to test.

    Training cells that are closer than a gap to a validation or test cell are moved to the buffer, and so are
    validation cells that are closer than a gap to a test cell.

    Args:
        xy_um: (N, 2) coordinates, N >= 1.
        gap_um: Minimum distance between cells of different regions, micrometres.
        seed: Seed of the origin of the blocks and of their regions.

    Returns:
        (N,) positions in `keys.REGIONS`.
    """
    generator = numpy_generator(seed, "split")
    side_um = BLOCK_GAPS * gap_um
    # The origin is random too, so that the blocks of different seeds do not share their edges.
    origin_um = xy_um.min(axis=0) - generator.uniform(0, side_um, size=2)
    _, block = np.unique((xy_um - origin_um) // side_um, axis=0, return_inverse=True)
    num_cells = np.bincount(block.ravel())
    order = generator.permutation(len(num_cells))
    # A block belongs to the region in which the middle one of its cells falls, counted over the shuffled blocks.
    middle = np.cumsum(num_cells[order]) - num_cells[order] / 2
    borders = np.array([SCORED_FRACTION, 2 * SCORED_FRACTION]) * len(xy_um)
    region_of_block = np.empty(len(order), dtype=np.int8)
    region_of_block[order] = np.array([_TEST, _VALIDATION, _TRAIN])[np.searchsorted(borders, middle, side="right")]
    regions = region_of_block[block.ravel()]
    for region in (_TEST, _VALIDATION):
        _clear_around(regions, xy_um, region, gap_um)
    return regions


def _clear_around(regions: NDArray[np.int8], xy_um: NDArray[np.float64], region: int, gap_um: float) -> None:
    """Move cells of regions before `region` that are closer than a gap to a cell of `region` to the buffer, in place."""
    # `keys.REGIONS` lists train before validation before test.
    others = np.flatnonzero(regions < region)
    if len(others) and (regions == region).any():
        # Cells without a neighbour within the bound get an infinite distance.
        distance_um, _ = cKDTree(xy_um[regions == region]).query(xy_um[others], distance_upper_bound=gap_um)
        regions[others[distance_um < gap_um]] = _BUFFER


def small_region_note(split: pd.Series[str]) -> str | None:
    """A warning if the training, validation or test region has no or hardly any cells; None otherwise.

    Args:
        split: (N,) region of each cell, a categorical of `keys.REGIONS`.

    Returns:
        The warning.
    """
    sizes = split.value_counts()
    empty = [region for region in keys.REGIONS if region != keys.BUFFER and not sizes[region]]
    if empty:
        return f"no cell lies in the region {' or '.join(empty)}"
    # Regions of the paper follow the bounding box, and the corner of a round or oblique tissue may be all but empty.
    small = [name for name in (keys.VALIDATION, keys.TEST) if sizes[name] < min(SMALL_REGION * len(split), SMALL_CELLS)]
    if not small or len(split) < 2 / SMALL_REGION:
        return None
    sized = " and ".join(f"{sizes[name]:,} cells in the region {name}" for name in small)
    return (
        f"only {sized}: too few to choose or to score a model on; try another --split, or hold out whole slides with "
        "cifm evaluate --leave-out"
    )
