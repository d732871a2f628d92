"""Groups of cells that are held out together, and the folds of a cross-validation over groups."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from sklearn.model_selection import StratifiedGroupKFold

from cifm_cli import provenance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

BLOCK, STRIP, SAMPLE = "block", "strip", "sample"  # units that are held out
_TARGET_BLOCKS = 100
_MIN_BLOCK_RADII = 10  # in narrower blocks most cells would be near a border, and lost to the buffer


@dataclass(frozen=True)
class Groups:
    """Groups of cells that are held out together."""

    unit: str  # `block` (a square of one slide), `strip` (across one slide) or `sample`
    ids: Rows  # (n,) group of each cell, 0 to num - 1
    block_um: float | None = None  # side of a block, or mean width of a strip, in micrometres; None for samples
    buffer_um: float = 0.0  # training cells are farther than this from every held-out cell; 0 for samples

    @property
    def num(self) -> int:
        """Number of groups."""
        return int(self.ids.max(initial=-1)) + 1

    def subset(self, mask: NDArray[np.bool_]) -> Groups:
        """Select some of the cells; their groups are renumbered.

        Args:
            mask: (n,) whether a cell is selected.

        Returns:
            The groups of the selected cells.
        """
        return Groups(self.unit, np.unique(self.ids[mask], return_inverse=True)[1], self.block_um, self.buffer_um)


def block_groups(xy_um: NDArray[np.float64], radius_um: float, buffer_um: float) -> Groups:
    """Divide a slide into square blocks: about a hundred, but never narrower than ten radii.

    Args:
        xy_um: (n, 2) positions in micrometres.
        radius_um: Radius of the graph in micrometres.
        buffer_um: See `Groups`.

    Returns:
        One group for each block that has cells.
    """
    offset_um = xy_um - xy_um.min(axis=0)
    side_um = max(math.sqrt(float(offset_um.max(axis=0).prod()) / _TARGET_BLOCKS), _MIN_BLOCK_RADII * radius_um)
    _, ids = np.unique((offset_um // side_um).astype(np.int64), axis=0, return_inverse=True)
    return Groups(BLOCK, ids.ravel(), side_um, buffer_um)


def strip_groups(xy_um: NDArray[np.float64], num_strips: int, buffer_um: float) -> Groups:
    """Divide a slide into strips across its longest direction, with about the same number of cells in each.

    A strip that is held out loses fewer training cells to the buffer than blocks that are scattered over the slide, so a
    section of a few radii can be divided like this, and not into blocks.

    Args:
        xy_um: (n, 2) positions in micrometres.
        num_strips: Number of strips; each is a fold.
        buffer_um: See `Groups`.

    Returns:
        One group for each strip.
    """
    along_um = _along_length(xy_um)
    order = np.argsort(along_um, kind="stable")
    ids = np.empty(len(order), dtype=np.int64)
    ids[order] = np.arange(len(order)) * num_strips // len(order)
    # With fewer cells than strips, some have none.
    ids = np.unique(ids, return_inverse=True)[1]
    return Groups(STRIP, ids, float(np.ptp(along_um)) / num_strips, buffer_um)


def section_length_um(xy_um: NDArray[np.float64]) -> float:
    """Extent of a slide in its longest direction, in micrometres; `xy_um` are (n, 2) positions."""
    return float(np.ptp(_along_length(xy_um)))


def least_length_um(num_strips: int, buffer_um: float) -> float:
    """Length that a section must have so that strips of equal width can be held out.

    Args:
        num_strips: Number of strips.
        buffer_um: Training cells are farther than this from every held-out cell.

    Returns:
        The length at which nothing is left on either side of the middle strip and its buffer.
    """
    return buffer_um * num_strips / (num_strips // 2)


def _along_length(xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) positions along the direction in which a slide extends farthest, its first principal component."""
    centred = xy_um - xy_um.mean(axis=0)
    along: NDArray[np.float64] = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
    return along


def sample_groups(samples: NDArray[np.object_]) -> Groups:
    """Group cells by sample, because sections of one patient resemble each other.

    Args:
        samples: (n,) sample of each cell; by default the name of its slide.

    Returns:
        One group for each sample.
    """
    return Groups(SAMPLE, np.unique(samples.astype(str), return_inverse=True)[1])


def join_groups(groups: Sequence[Groups]) -> Groups:
    """Number the blocks of several slides one after the other.

    Args:
        groups: Blocks of each slide.

    Returns:
        The groups of all cells, with the widest block and buffer.
    """
    starts = np.cumsum([0, *(each.num for each in groups)])
    ids = np.concatenate([each.ids + start for each, start in zip(groups, starts, strict=False)])
    return Groups(
        groups[0].unit, ids, max(each.block_um or 0.0 for each in groups), max(each.buffer_um for each in groups)
    )


def grouped_folds(
    codes: Rows, groups: Groups, xy_um: NDArray[np.float64], num_folds: int, seed: int
) -> Iterator[tuple[Rows, Rows]]:
    """Split cells into folds of whole groups, each fold with about the same frequencies of the classes.

    Args:
        codes: (n,) class of each cell.
        groups: Groups that are held out together.
        xy_um: (n, 2) positions in micrometres, for the buffer.
        num_folds: Largest number of folds. There are no more folds than groups and, for samples, no more than the
            rarest class has samples, so that every fold can hold out cells of every class. Each strip is a fold.
        seed: Seed of the assignment of groups to folds.

    Yields:
        Positions of the training cells and of the held-out cells. Each cell is held out once.
    """
    # scikit-learn takes an integer; it is derived from the seed, so that other uses of the seed are independent of it.
    state = int(provenance.numpy_generator(seed, "probe folds").integers(2**31))
    max_folds = groups.num
    if groups.unit == SAMPLE:
        max_folds = max(2, min(len(np.unique(groups.ids[codes == code])) for code in np.unique(codes)))
    if groups.unit == STRIP or (groups.unit == SAMPLE and min(num_folds, max_folds) == groups.num):
        # One sample at a time, as the splitter may put two into one fold and leave another empty; and one strip, as the
        # buffers of two that are apart would take most of a small section.
        for group in range(groups.num):
            train, test = np.flatnonzero(groups.ids != group), np.flatnonzero(groups.ids == group)
            yield _outside_buffer(train, test, xy_um, groups.buffer_um), test
        return
    splitter = StratifiedGroupKFold(min(num_folds, max_folds), shuffle=True, random_state=state)
    with warnings.catch_warnings():
        # Of a class with fewer cells than there are folds, which is then missing from some of them.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splits = list(splitter.split(np.zeros(len(codes)), codes, groups.ids))
    for train, test in splits:
        # A fold can be empty if there are few groups of very different sizes.
        if len(test):
            yield _outside_buffer(train, test, xy_um, groups.buffer_um), test


def _outside_buffer(train: Rows, test: Rows, xy_um: NDArray[np.float64], buffer_um: float) -> Rows:
    """The training cells that are farther than the buffer from every held-out cell."""
    if not buffer_um:
        return train
    # The upper bound of `query` is exclusive; a cell at exactly the distance of the buffer is still too near.
    distance, _ = cKDTree(xy_um[test]).query(xy_um[train], distance_upper_bound=np.nextafter(buffer_um, np.inf))
    # `query` returns infinity where no held-out cell is within the bound.
    far: Rows = train[np.isinf(distance)]
    return far
