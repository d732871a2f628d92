"""Array positions of spots and bins in a table of cells, and the micrometres per stored unit that follow from them.

Letters: N cells.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from cifm_cli.data.readers.spaceranger import ARRAY, PIXELS, fit_grid
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# 10x Genomics, "Visium HD barcodes": s_008um_00602_00290-1 is the bin of 8 um at row 602, column 290. Programs that join
# samples add something before or after.
_BIN_NAME = re.compile(r"s_(\d{3})um_(\d{5})_(\d{5})")
_MOST = 0.9  # of the barcodes
PITCH_UM = 100.0  # 10x Genomics: centres of neighbouring Visium spots; only every second column of a row is used
_RATIO_TOLERANCE = 0.05
_MAX_GROUPS, _MAX_COLUMNS = 100, 20  # of columns that are tried as the sections of an array
_MIN_SPOTS = 4


class ArrayScale(NamedTuple):
    """The scale of each cell that follows from its array, in micrometres per stored unit."""

    scale: NDArray[np.float64]  # (N,) or (1,) if it is the same for all
    source: str  # in words


def array_scale(
    xy: NDArray[np.float64], obs: pd.DataFrame, bin_um: float | None, groups: Iterator[pd.Series], path: Path
) -> ArrayScale | None:
    """Derive the scale from array positions in the barcodes or in the columns `array_row` and `array_col`.

    Args:
        xy: (N, 2) coordinates as stored.
        obs: N rows indexed by barcode.
        bin_um: Size of the bins, if scale factors name it.
        groups: Sections to try if all cells together do not form one array.
        path: The download.

    Returns:
        The scale; None if there are no array positions, they do not fit the coordinates, or the pitch of the array is not
        known.
    """
    array = _from_barcodes(obs) or _from_columns(obs, bin_um)
    if array is None:
        return None
    positions, pitch_um, what = array
    table = pd.DataFrame(np.column_stack([positions, xy]), columns=[*ARRAY, *PIXELS])
    if (steps := _fit(table, path)) is not None:
        scale = _from_steps(steps, pitch_um)
        if scale is None:
            return None
        return ArrayScale(np.array([scale]), f"{what} that are {_apart(scale, pitch_um):.4g} apart in the file")
    # Sections that are placed on each other, or beside each other, are an array each, often with a scale of its own.
    for labels in groups:
        scales = np.full(len(xy), np.nan)
        for _, part in table.groupby(labels.to_numpy(), observed=True):
            steps = _fit(part, path)
            scale = None if steps is None else _from_steps(steps, pitch_um)
            scales[part.index] = np.nan if scale is None else scale
        if np.isfinite(scales[np.isfinite(xy).all(axis=1)]).all():
            return ArrayScale(scales, f"{what} of each {labels.name}")
    return None


def grouping_columns(obs: pd.DataFrame, first: tuple[str, ...] = ()) -> Iterator[pd.Series]:
    """Columns with few values, those of `first` before the others."""
    names = [str(name) for name in obs.columns]
    order = [names.index(name) for name in first if name in names]
    order += [position for position in range(len(names)) if position not in order]
    tried = 0
    for position in order:
        column = obs.iloc[:, position]
        if column.dtype == object:
            column = column.map(str, na_action="ignore")  # objects of any kind, also those that cannot be compared
        is_label = isinstance(column.dtype, pd.CategoricalDtype) or column.dtype.kind in "OiubT"
        if is_label and tried < _MAX_COLUMNS and 2 <= column.nunique() <= _MAX_GROUPS and column.notna().all():
            tried += 1
            yield column.rename(names[position])


def _from_barcodes(obs: pd.DataFrame) -> tuple[NDArray[np.float64], float, str] | None:
    """Column and row of the bins in their names, the size of the bins, and its source."""
    # Most files fail at the first barcodes already.
    if not len(obs) or not any(_BIN_NAME.search(str(name)) for name in obs.index[:100]):
        return None
    parts = obs.index.to_series().astype(str).str.extract(_BIN_NAME).astype(np.float64).to_numpy()
    named = np.isfinite(parts).all(axis=1)
    sizes = np.unique(parts[named, 0])
    if named.mean() < _MOST or len(sizes) != 1:
        return None
    return parts[:, [2, 1]], float(sizes[0]), f"barcodes s_{sizes[0]:03.0f}um name bins of {sizes[0]:g} um"


def _from_columns(obs: pd.DataFrame, bin_um: float | None) -> tuple[NDArray[np.float64], float | None, str] | None:
    """Column and row of the spots, the size of the bins or None for Visium, and the source."""
    lower = {str(name).lower(): position for position, name in enumerate(obs.columns)}
    if not set(ARRAY) <= lower.keys():
        return None
    columns = [pd.to_numeric(obs.iloc[:, lower[name]], errors="coerce") for name in ARRAY]
    positions = np.column_stack([column.to_numpy(np.float64, na_value=np.nan) for column in columns])
    known = np.isfinite(positions).all(axis=1)
    if known.mean() < _MOST or (positions[known] != positions[known].round()).any():
        return None
    if bin_um is not None:
        return positions, bin_um, f"array_row and array_col number bins of {bin_um:g} um"
    # Spots of Visium use every second column, alternating between rows.
    if len(np.unique(positions[known].sum(axis=1) % 2)) == 1:
        return positions, None, f"array_row and array_col number Visium spots, {PITCH_UM:g} um apart,"
    return None


def _fit(table: pd.DataFrame, path: Path) -> tuple[float, float] | None:
    """Stored units per array column and per array row; None if the coordinates are not a linear function of them."""
    complete = table[np.isfinite(table.to_numpy()).all(axis=1)]
    if len(complete) < _MIN_SPOTS:
        return None
    try:
        column, row = fit_grid(complete, path)
    except CifmError:  # the array positions belong to other coordinates, such as those before a registration
        return None
    return (column, row) if np.isfinite([column, row]).any() else None


def _from_steps(steps: tuple[float, float], bin_um: float | None) -> float | None:
    column, row = steps
    # Another ratio means another platform, or coordinates that were stretched.
    ratio = 1.0 if bin_um is not None else np.sqrt(3)
    if np.isfinite(row / column) and abs(row / column / ratio - 1) > _RATIO_TOLERANCE:
        return None
    if bin_um is not None:
        return float(bin_um / np.nanmean(steps))
    return float(PITCH_UM / 2 / column if np.isfinite(column) else PITCH_UM * np.sqrt(3) / 2 / row)


def _apart(scale: float, bin_um: float | None) -> float:
    return (PITCH_UM if bin_um is None else bin_um) / scale
