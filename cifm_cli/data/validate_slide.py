"""Whether the numbers of a prepared slide can be true: places are finite, counts are finite and not negative.

`cifm prepare` writes no others, but the file is an ordinary `.h5ad` that other programs write to as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def require_places(xy_um: NDArray[np.float64], file: h5py.File, path: Path) -> None:
    """Refuse a cell that is nowhere.

    Args:
        xy_um: (N, 2) of all cells.
        file: The open slide, which knows the cell's name.
        path: Where it is.

    Raises:
        CifmError: A place is not finite.
    """
    wrong = ~np.isfinite(xy_um).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        x, y = xy_um[row]
        raise _refusal(f"stands at ({x:g}, {y:g}) um, which is no place", row, file, path)


def require_sums(total_counts: NDArray[np.float64], file: h5py.File, path: Path) -> None:
    """Refuse a cell whose sum of counts is none.

    Args:
        total_counts: (N,) of all cells.
        file: The open slide, which knows the cell's name.
        path: Where it is.

    Raises:
        CifmError: A sum is negative or not finite.
    """
    wrong = _no_counts(total_counts)
    if wrong.any():
        row = int(wrong.argmax())
        raise _refusal(f"has {total_counts[row]:g} counts", row, file, path)


def require_counts(
    values: NDArray[np.float32], first: int, indptr: NDArray[np.int64], file: h5py.File, path: Path
) -> None:
    """Refuse a count that is none.

    Args:
        values: Stored counts of a stretch of rows.
        first: Where in the file's `X` they begin.
        indptr: (N + 1,) row pointers of the whole `X`.
        file: The open slide, which knows the cell's name.
        path: Where it is.

    Raises:
        CifmError: A count is negative or not finite.
    """
    wrong = _no_counts(values)
    if wrong.any():
        position = int(wrong.argmax())
        row = int(np.searchsorted(indptr, first + position, side="right")) - 1
        raise _refusal(f"has a count of {values[position]:g}", row, file, path)


def _no_counts(values: NDArray[Any]) -> NDArray[np.bool_]:
    return ~((values >= 0) & (values < np.inf))  # a NaN is neither


def _refusal(what: str, row: int, file: h5py.File, path: Path) -> CifmError:
    stored = file["obs"][file["obs"].attrs["_index"]]
    names = stored["values"] if isinstance(stored, h5py.Group) else stored  # a group holds missing ones too
    return CifmError(
        f"{path}: cell {names.asstr()[row]!r} (row {row}) {what}", "prepare the download again: `cifm prepare DOWNLOAD`"
    )
