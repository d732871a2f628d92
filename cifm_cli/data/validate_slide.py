"""Checks of the numbers of a prepared slide: coordinates are finite, counts are finite and not negative.

`cifm prepare` writes only such numbers, but other programs can change the file, which is an ordinary `.h5ad`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.data.barcodes import read_barcodes
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray


def require_finite_coordinates(xy_um: NDArray[np.float64], file: h5py.File, path: Path) -> None:
    """Raise an error if a coordinate is not finite.

    Args:
        xy_um: (N, 2) cell centres.
        file: The open slide, from which the name of the cell is read.
        path: Path of the slide.

    Raises:
        CifmError: A coordinate is not finite; the message names the cell.
    """
    wrong = ~np.isfinite(xy_um).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        x, y = xy_um[row]
        raise _invalid(f"has the coordinates ({x:g}, {y:g}) um", row, file, path)


def require_valid_totals(total_counts: NDArray[np.float64], file: h5py.File, path: Path) -> None:
    """Raise an error if the total count of a cell is negative or not finite.

    Args:
        total_counts: (N,) total counts.
        file: The open slide, from which the name of the cell is read.
        path: Path of the slide.

    Raises:
        CifmError: A total is not valid; the message names the cell.
    """
    wrong = _is_invalid(total_counts)
    if wrong.any():
        row = int(wrong.argmax())
        raise _invalid(f"has {total_counts[row]:g} counts", row, file, path)


def require_valid_counts(
    values: NDArray[np.float32], first: int, indptr: NDArray[np.int64], file: h5py.File, path: Path
) -> None:
    """Raise an error if a count is negative or not finite.

    Args:
        values: (n,) stored counts of consecutive rows.
        first: Position of the first of them in `X/data`.
        indptr: (N + 1,) row pointers of `X`.
        file: The open slide, from which the name of the cell is read.
        path: Path of the slide.

    Raises:
        CifmError: A count is not valid; the message names the cell.
    """
    wrong = _is_invalid(values)
    if wrong.any():
        position = int(wrong.argmax())
        # Positions count from the beginning of the file's array, as the row pointers do.
        row = int(np.searchsorted(indptr, first + position, side="right")) - 1
        raise _invalid(f"has a count of {values[position]:g}", row, file, path)


def _is_invalid(values: NDArray[Any]) -> NDArray[np.bool_]:
    return ~((values >= 0) & (values < np.inf))  # NaN fails both comparisons


def _invalid(problem: str, row: int, file: h5py.File, path: Path) -> CifmError:
    # The name is read only for the message: reading all names takes long.
    (name,) = read_barcodes(file, np.array([row]))
    return CifmError(
        f"{path}: cell {name!r} (row {row}) {problem}", "prepare the download again: `cifm prepare DOWNLOAD`"
    )
