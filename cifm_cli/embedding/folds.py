"""Groups of cells that are held out together, and the folds of a cross-validation that never parts a group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from sklearn.model_selection import StratifiedGroupKFold

from cifm_cli import provenance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

_BLOCKS_WANTED = 100
_RADII_PER_BLOCK = 10  # narrower blocks would be mostly border


@dataclass(frozen=True)
class Groups:
    """How cells are held out.

    Args:
        unit: `block` (a square of one slide) or `sample`.
        ids: (n,) group of each cell, 0 to num - 1.
        block_um: Side of a block in micrometres; None for samples.
        buffer_um: A training cell is farther than this from every held-out cell; 0 for samples.
    """

    unit: str
    ids: Rows
    block_um: float | None = None
    buffer_um: float = 0.0

    @property
    def num(self) -> int:
        """Number of groups."""
        return int(self.ids.max(initial=-1)) + 1

    def subset(self, kept: NDArray[np.bool_]) -> Groups:
        """The groups of some of the cells, numbered anew."""
        return Groups(self.unit, np.unique(self.ids[kept], return_inverse=True)[1], self.block_um, self.buffer_um)


def block_groups(xy_um: NDArray[np.float64], radius_um: float, buffer_um: float) -> Groups:
    """Cut a slide into square blocks, about a hundred where that leaves them much wider than a neighbourhood.

    Args:
        xy_um: (n, 2) micrometres.
        radius_um: Radius of the graph.
        buffer_um: See `Groups`.

    Returns:
        One group per block that has cells.
    """
    offset_um = xy_um - xy_um.min(axis=0)
    side_um = max(math.sqrt(float(offset_um.max(axis=0).prod()) / _BLOCKS_WANTED), _RADII_PER_BLOCK * radius_um)
    _, ids = np.unique((offset_um // side_um).astype(np.int64), axis=0, return_inverse=True)
    return Groups("block", ids.ravel(), side_um, buffer_um)


def sample_groups(samples: NDArray[np.object_]) -> Groups:
    """One group per sample: what two sections of a patient share must not help.

    Args:
        samples: (n,) sample of each cell; by default its slide's name.

    Returns:
        The groups.
    """
    return Groups("sample", np.unique(samples.astype(str), return_inverse=True)[1])


def grouped_folds(
    codes: Rows, groups: Groups, xy_um: NDArray[np.float64], num_folds: int, seed: int
) -> Iterator[tuple[Rows, Rows]]:
    """Cut cells into folds along groups, each with about the same mix of classes.

    Args:
        codes: (n,) class of each cell.
        groups: Held out as a whole.
        xy_um: (n, 2) micrometres, for the buffer.
        num_folds: At most; never more than there are groups or, for samples, than the rarest class has samples, so
            that a fold holds out something of every class where that can be.
        seed: Of the shuffle.

    Yields:
        Training and held-out cells, positions. Each cell is held out once.
    """
    state = int(provenance.numpy_generator(seed, "probe folds").integers(2**31))
    most = groups.num
    if groups.unit == "sample":
        most = max(2, min(len(np.unique(groups.ids[codes == code])) for code in np.unique(codes)))
    splitter = StratifiedGroupKFold(min(num_folds, most), shuffle=True, random_state=state)
    for train, test in splitter.split(np.zeros(len(codes)), codes, groups.ids):
        if len(test):
            yield _beyond(train, test, xy_um, groups.buffer_um), test


def _beyond(train: Rows, test: Rows, xy_um: NDArray[np.float64], buffer_um: float) -> Rows:
    """Training cells whose surroundings hold no held-out cell."""
    if not buffer_um:
        return train
    distance, _ = cKDTree(xy_um[test]).query(xy_um[train], distance_upper_bound=np.nextafter(buffer_um, np.inf))
    far: Rows = train[np.isinf(distance)]
    return far
