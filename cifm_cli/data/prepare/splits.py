"""Regions of a slide: the paper's split, or one of strips or of random blocks, with a buffer between the regions."""

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
X_SHARE, Y_SHARE = 0.6, 0.5
SCORED_SHARE = 0.2  # of the cells, for each of validation and test, in strips and in blocks
GAP_RADII = 6.0  # default width of a buffer: what our recipes see around a cell
BLOCK_GAPS = 5.0  # side of a random block in gaps, so that most of a block is left between its buffers
_TRAIN, _VALIDATION, _TEST, _BUFFER = (keys.REGIONS.index(name) for name in keys.REGIONS)


@dataclass(frozen=True)
class Split:
    """How a slide is cut into regions.

    Args:
        kind: Of `SPLITS`.
        gap_um: Least distance between cells of different regions in strips and blocks; 6 radii when absent.
        seed: Decides which blocks go where.
    """

    kind: str = REGIONAL
    gap_um: float | None = None
    seed: int = 0

    def regions(self, xy_um: NDArray[np.float64], radius_um: float) -> NDArray[np.int8]:
        """Give every cell a region.

        Args:
            xy_um: (N, 2) coordinates, N >= 1.
            radius_um: Radius of the graph.

        Returns:
            (N,) positions in `keys.REGIONS`.
        """
        if self.kind == STRIPS:
            return strips(xy_um[:, 1], self._gap_um(radius_um))
        if self.kind == BLOCKS:
            return random_blocks(xy_um, self._gap_um(radius_um), self.seed)
        return regional_split(xy_um)

    def describe(self, radius_um: float) -> str:
        """The split in words."""
        if self.kind == REGIONAL:
            return "regional split of the paper"
        cut = "strips over the whole width" if self.kind == STRIPS else f"random blocks, seed {self.seed}"
        return f"{cut}, regions {self._gap_um(radius_um):g} um apart"

    def _gap_um(self, radius_um: float) -> float:
        return GAP_RADII * radius_um if self.gap_um is None else self.gap_um


def regional_split(xy_um: NDArray[np.float64]) -> NDArray[np.int8]:
    """Split a slide by position (paper, section 2): left train, upper right validation, lower right test.

    Train where x <= x_min + 0.6 (x_max - x_min); of the rest, validation where y >= y_min + 0.5 (y_max - y_min),
    test below it.

    Args:
        xy_um: (N, 2) coordinates, N >= 1.

    Returns:
        (N,) positions in `keys.REGIONS`.
    """
    low, high = xy_um.min(axis=0), xy_um.max(axis=0)
    threshold = low + np.array([X_SHARE, Y_SHARE]) * (high - low)
    right, upper = xy_um[:, 0] > threshold[0], xy_um[:, 1] >= threshold[1]
    return np.where(right, np.where(upper, _VALIDATION, _TEST), _TRAIN).astype(np.int8)


def strips(y_um: NDArray[np.float64], gap_um: float) -> NDArray[np.int8]:
    """Cut a slide into strips over its whole width, so that what varies along x is in every region.

    From high y to low: a fifth of the cells is test, then a gap, a fifth validation, a gap, and the rest train.

    Args:
        y_um: (N,) coordinates, N >= 1.
        gap_um: Width of a gap.

    Returns:
        (N,) positions in `keys.REGIONS`.
    """
    regions = np.full(len(y_um), _TRAIN, dtype=np.int8)
    for region in (_TEST, _VALIDATION):
        free = regions == _TRAIN
        wanted = round(SCORED_SHARE * len(y_um))
        if not 0 < wanted <= free.sum():
            break
        edge_um = np.partition(y_um[free], -wanted)[-wanted]
        regions[free & (y_um > edge_um - gap_um)] = _BUFFER
        regions[free & (y_um >= edge_um)] = region
    return regions


def random_blocks(xy_um: NDArray[np.float64], gap_um: float, seed: int) -> NDArray[np.int8]:
    """Give square blocks 5 gaps wide to the regions at random, a fifth of the cells to validation and to test each.

    Training cells too near a scored cell are left to the buffer, as are validation cells too near a test cell.

    Args:
        xy_um: (N, 2) coordinates, N >= 1.
        gap_um: Least distance between cells of different regions.
        seed: Decides the origin of the blocks and where each goes.

    Returns:
        (N,) positions in `keys.REGIONS`.
    """
    generator = numpy_generator(seed, "split")
    side_um = BLOCK_GAPS * gap_um
    origin_um = xy_um.min(axis=0) - generator.uniform(0, side_um, size=2)
    _, block = np.unique((xy_um - origin_um) // side_um, axis=0, return_inverse=True)
    num_cells = np.bincount(block.ravel())
    order = generator.permutation(len(num_cells))
    before = np.cumsum(num_cells[order]) - num_cells[order] / 2
    of_block = np.empty(len(order), dtype=np.int8)
    borders = np.array([SCORED_SHARE, 2 * SCORED_SHARE]) * len(xy_um)
    of_block[order] = np.array([_TEST, _VALIDATION, _TRAIN])[np.searchsorted(borders, before, side="right")]
    regions = of_block[block.ravel()]
    for region in (_TEST, _VALIDATION):
        _clear_around(regions, xy_um, region, gap_um)
    return regions


def _clear_around(regions: NDArray[np.int8], xy_um: NDArray[np.float64], region: int, gap_um: float) -> None:
    """Move cells of later regions that are less than a gap from one of this region to the buffer, in place."""
    others = np.flatnonzero(regions < region)
    if len(others) and (regions == region).any():
        distance_um, _ = cKDTree(xy_um[regions == region]).query(xy_um[others], distance_upper_bound=gap_um)
        regions[others[distance_um < gap_um]] = _BUFFER


def empty_note(split: pd.Series[str]) -> str | None:
    """A warning where a region has no cell; None where all have some.

    Args:
        split: Region of each cell, a categorical of `keys.REGIONS`.
    """
    sizes = split.value_counts()
    empty = [region for region in keys.REGIONS if region != keys.BUFFER and not sizes[region]]
    return f"no cell lies in the region {' or '.join(empty)}" if empty else None
