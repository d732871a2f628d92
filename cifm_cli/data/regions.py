"""Regions of a slide: the paper's regional split into train, validation and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import keys

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

X_SHARE, Y_SHARE = 0.6, 0.5


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
    regions = np.where(right, np.where(upper, keys.REGIONS.index(keys.VALIDATION), keys.REGIONS.index(keys.TEST)), 0)
    return regions.astype(np.int8)


def empty_note(split: pd.Series[str]) -> str | None:
    """A warning where a region has no cell; None where all have some.

    Args:
        split: Region of each cell, a categorical of `keys.REGIONS`.
    """
    sizes = split.value_counts()
    empty = [region for region in keys.REGIONS if not sizes[region]]
    return f"no cell lies in the region {' or '.join(empty)}" if empty else None
