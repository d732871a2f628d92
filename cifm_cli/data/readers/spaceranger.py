"""Files that Space Ranger writes beside its matrices: positions of spots and bins, and scale factors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from cifm_cli.data.readers.files import LATIN_1, first_existing, open_maybe_gzip, read_parquet, reading
from cifm_cli.data.readers.text_tables import separator, to_numbers
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BARCODE, IN_TISSUE = "barcode", "in_tissue"
ARRAY = ["array_col", "array_row"]
PIXELS = ["pxl_col_in_fullres", "pxl_row_in_fullres"]  # x, y
POSITIONS_PARQUET = "spatial/tissue_positions.parquet"
# The names that Space Ranger gives the file for Visium HD, since version 2, and before.
_POSITIONS = (
    POSITIONS_PARQUET,
    *(
        f"spatial/{name}.csv{ending}"
        for name in ("tissue_positions", "tissue_positions_list")
        for ending in ("", ".gz")
    ),
)  # repositories compress every file
_SCALES = ("spatial/scalefactors_json.json", "spatial/scalefactors_json.json.gz")
_COLUMNS = [BARCODE, IN_TISSUE, *ARRAY[::-1], *PIXELS[::-1]]  # the order in files without a header
# 10x Genomics, "Visium HD barcodes": s_008um_00602_00290-1 is the bin at row 602, column 290.
_BIN_NAME = r"s_\d{3}um_(\d{5})_(\d{5})-\d+"
_LARGEST_RESIDUAL = 0.5  # in steps of the grid; genuine files stay below 0.15


class Grid(NamedTuple):
    """Distance in pixels between array columns and between array rows; NaN if the positions do not determine it."""

    column_px: float
    row_px: float


def find_positions(folder: Path) -> Path | None:
    """The positions file of a folder, in the format of any version; None if there is none."""
    return first_existing(folder, _POSITIONS)


def read_positions(path: Path) -> pd.DataFrame:
    """Read `tissue_positions`, Parquet or CSV, with or without header.

    Args:
        path: The file.

    Returns:
        One row per barcode, the index, in the order of the file; columns in_tissue (bool), array_row, array_col and the
        two pixel coordinates.

    Raises:
        CifmError: The file cannot be read, lacks a column, or has a text in a column of numbers; or a barcode has two
            rows.
    """
    with reading(path):
        if path.suffix == ".parquet":
            table = read_parquet(path, BARCODE)
        else:
            with open_maybe_gzip(path) as handle:
                fields = pd.read_csv(handle, sep=separator(path), header=None, dtype=str, encoding_errors=LATIN_1)
                table = _with_header(fields.apply(lambda column: column.str.strip()))
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise CifmError(
            f"{path}: no column {', '.join(missing)} (it has {', '.join(map(str, table.columns))})",
            "take the positions as Space Ranger wrote them",
        )
    barcodes = pd.Index(table[BARCODE], dtype=object, name=None)
    if not barcodes.is_unique:
        repeated = barcodes[barcodes.duplicated()][0]
        raise CifmError(
            f"{path}: barcode {repeated!r} has two rows", "remove the repeated rows, one spot has one position"
        )
    values = to_numbers(table, _COLUMNS[1:], path)
    with reading(path):
        numbers = pd.DataFrame(values, index=barcodes, columns=_COLUMNS[1:]).astype(dict.fromkeys(ARRAY, np.int64))
    if not numbers[IN_TISSUE].isin([0, 1]).all():
        raise CifmError(
            f"{path}: {IN_TISSUE} holds values other than 0 and 1", "take the positions as Space Ranger wrote them"
        )
    # Only now: any number other than zero would have become True.
    return numbers.astype({IN_TISSUE: bool})


def _with_header(table: pd.DataFrame) -> pd.DataFrame:
    """Name the columns after the first row if it is a header, else by position."""
    # Read without header and then inspected: with the header of pandas, the first spot of an old file would be lost.
    first = [str(name).strip().lower() for name in table.iloc[0]]
    # Space Ranger writes a header since version 2.
    if BARCODE in first:
        return table.iloc[1:].set_axis(first, axis=1)
    return table.set_axis([*_COLUMNS, *range(len(_COLUMNS), table.shape[1])][: table.shape[1]], axis=1)


def match_positions(positions: pd.DataFrame, barcodes: NDArray[np.object_], path: Path) -> pd.DataFrame:
    """Reorder positions to the cells of a matrix.

    Args:
        positions: Return value of `read_positions`.
        barcodes: N barcodes of the matrix.
        path: The positions file, for the message.

    Returns:
        N rows.

    Raises:
        CifmError: A barcode has no position.
    """
    # A matrix of cells in the tissue has fewer rows than there are positions, so they are matched by barcode.
    rows = positions.index.get_indexer(pd.Index(barcodes, dtype=object))
    if (num_missing := int((rows < 0).sum())) > 0:
        raise CifmError(
            f"{path}: no position for {num_missing:,} of the {len(barcodes):,} barcodes of the matrix, such as "
            f"{barcodes[int(rows.argmin())]!r} (it has {', '.join(map(repr, positions.index[:1]))}, ...)",
            "take the matrix and the positions from the same run; if the first spot is missing, it was read as a header",
        )
    return positions.iloc[rows]


def missing_spots_notes(positions: pd.DataFrame, matched: pd.DataFrame) -> tuple[str, ...]:
    """Count the spots or bins in the tissue that the matrix lacks; a complete download has none.

    Args:
        positions: Return value of `read_positions`, all spots or bins of the array.
        matched: Return value of `match_positions`, those of the matrix.

    Returns:
        A note if any is missing.
    """
    num_missing = int(positions[IN_TISSUE].sum() - matched[IN_TISSUE].sum())
    return (f"{num_missing:,} spots or bins in the tissue are not in the matrix",) if num_missing > 0 else ()


def check_bin_names(positions: pd.DataFrame, path: Path) -> None:
    """Compare the names of bins, which contain row and column, with their array positions.

    Args:
        positions: Return value of `read_positions`.
        path: The positions file, for the message.

    Raises:
        CifmError: The name of a bin contradicts its array position.
    """
    # Row and column are stored twice, so that damage to one of them shows.
    named = positions.index.to_series().str.extract(_BIN_NAME).dropna().astype(np.int64)
    wrong = (named.to_numpy() != positions.loc[named.index, ARRAY[::-1]].to_numpy()).any(axis=1)
    if wrong.any():
        raise CifmError(
            f"{path}: {wrong.sum():,} bins are not at the row and column in their names, such as "
            f"{named.index[int(wrong.argmax())]!r}",
            "take the positions as Space Ranger wrote them",
        )


def read_scales(folder: Path) -> tuple[dict[str, float], Path]:
    """Read `scalefactors_json.json`.

    Args:
        folder: The folder that holds `spatial/`.

    Returns:
        The scale factors by name, and the file.

    Raises:
        CifmError: The file is missing or damaged.
    """
    path = first_existing(folder, _SCALES) or folder / _SCALES[0]
    with reading(path), open_maybe_gzip(path) as handle:
        content = dict(json.load(handle))
        return {name: float(value) for name, value in content.items() if isinstance(value, int | float)}, path


def fit_grid(positions: pd.DataFrame, path: Path) -> Grid:
    """Fit the linear map from array positions to pixels by least squares.

    Args:
        positions: Return value of `read_positions`.
        path: The positions file, for the message.

    Returns:
        The distances between columns and between rows; the grid may be rotated and mirrored relative to the image.

    Raises:
        CifmError: The pixels are not a linear function of the array positions.
    """
    ordered = positions.sort_values(ARRAY)  # so that rounding does not depend on the order of the file
    # A position without pixels would make all of the solution NaN.
    complete = ordered[np.isfinite(ordered[PIXELS]).all(axis=1)]
    array_positions = complete[ARRAY].to_numpy(dtype=np.float64)
    # A single row or column determines only one of the two distances.
    spread = array_positions.max(axis=0, initial=-np.inf) > array_positions.min(axis=0, initial=np.inf)
    # Too few positions to detect an error.
    if len(array_positions) < 4 or not spread.any():
        return Grid(np.nan, np.nan)
    design = np.column_stack([array_positions[:, spread], np.ones(len(array_positions))])
    pixels = complete[PIXELS].to_numpy()
    solution = np.linalg.lstsq(design, pixels, rcond=None)[0]
    steps = np.full(2, np.nan)
    steps[spread] = np.hypot(*solution[:-1].T)
    # The largest one, as a single moved spot must be noticed. Shuffled pixels give residuals of many steps.
    residual = float(np.abs(design @ solution - pixels).max())
    # Written with `not`, so that NaN is refused too.
    if not residual <= _LARGEST_RESIDUAL * np.nanmax(steps):
        raise CifmError(
            f"{path}: array and pixel positions do not form one grid (off by {residual:.4g} pixels, its steps are "
            f"{steps[0]:.4g} and {steps[1]:.4g})",
            "take the positions as Space Ranger wrote them, unsorted columns and all",
        )
    return Grid(float(steps[0]), float(steps[1]))
