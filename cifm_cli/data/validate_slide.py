"""Checks of a prepared slide: its arrays fit together, coordinates are finite, counts are finite and not negative.

`cifm prepare` writes only such files, but other programs can change them, because they are ordinary `.h5ad` files.
Compiled code reads the counts without checks of its own: a column outside of the panel would be a read outside of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from cifm_cli import keys
from cifm_cli.data.barcodes import read_barcodes
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_PREPARE_AGAIN = "prepare the download again: `cifm prepare DOWNLOAD`"


def require_valid_structure(file: h5py.File, num_genes: int, path: Path) -> NDArray[np.int64]:
    """Raise an error if the arrays of a slide do not fit together.

    Args:
        file: The open slide.
        num_genes: G, the number of rows of `var`.
        path: Path of the slide.

    Returns:
        (N + 1,) row pointers of `X`, in 64 bits, because positions in a large matrix exceed 32.

    Raises:
        CifmError: `X` is not a CSR matrix, an array has the wrong length, or the row pointers are not ascending.
    """
    matrix = file["X"]
    stored_as = matrix.attrs.get("encoding-type", "an array of unknown kind")
    if not isinstance(matrix, h5py.Group) or stored_as != "csr_matrix":
        raise CifmError(
            f"{path}: X is stored as {stored_as}, not as csr_matrix",
            "store it as CSR again (`adata.X = adata.X.tocsr()`), or prepare the download again",
        )
    arrays = {name: _dataset(matrix, name, path) for name in ("data", "indices", "indptr")}
    shapes = {name: array.shape for name, array in arrays.items()}
    kinds = {name: array.dtype.kind for name, array in arrays.items()}
    _require(
        all(len(shape) == 1 for shape in shapes.values()), "X/data, X/indices and X/indptr must have one axis", path
    )
    _require(kinds["indices"] in "iu" and kinds["indptr"] in "iu", "X/indices and X/indptr must be whole numbers", path)
    _require(kinds["data"] in "iuf", "X/data must be numbers", path)
    _require(shapes["data"] == shapes["indices"], "X/data and X/indices must have the same length", path)
    indptr: NDArray[np.int64] = matrix["indptr"][:].astype(np.int64)
    _require(len(indptr) > 1, "X must have rows", path)
    num_cells, num_nonzeros = len(indptr) - 1, shapes["data"][0]
    ascending = indptr[0] == 0 and indptr[-1] == num_nonzeros and bool((np.diff(indptr) >= 0).all())
    _require(ascending, f"X/indptr must ascend from 0 to {num_nonzeros}, the length of X/data", path)
    _require(
        tuple(matrix.attrs.get("shape", ())) == (num_cells, num_genes),
        f"X must have {num_cells} rows and {num_genes} columns",
        path,
    )
    spatial = _dataset(file, f"obsm/{keys.SPATIAL}", path)
    totals = _dataset(file, f"obs/{keys.TOTAL_COUNTS}", path)
    _require(
        spatial.shape == (num_cells, 2) and spatial.dtype.kind in "iuf",
        "obsm/spatial must have two numbers per cell",
        path,
    )
    _require(
        totals.shape == (num_cells,) and totals.dtype.kind in "iuf",
        "obs/total_counts must have one number per cell",
        path,
    )
    return indptr


def require_valid_columns(indices: NDArray[Any], num_genes: int, path: Path) -> None:
    """Raise an error if a stored count belongs to a column that does not exist; `indices` are (n,) of `X/indices`."""
    if len(indices) and (indices.min() < 0 or indices.max() >= num_genes):
        raise _damaged(f"X/indices must be columns of the {num_genes} genes", path)


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


def _dataset(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """An array of the file. Other programs store some columns, such as those with missing values, as groups."""
    if not isinstance(group[name], h5py.Dataset):
        raise _damaged(f"{name} must be an array", path)
    return group[name]


def _require(condition: bool, rule: str, path: Path) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise _damaged(rule, path)


def _damaged(rule: str, path: Path) -> CifmError:
    return CifmError(f"{path}: damaged: {rule}", _PREPARE_AGAIN)


def _is_invalid(values: NDArray[Any]) -> NDArray[np.bool_]:
    return ~((values >= 0) & (values < np.inf))  # NaN fails both comparisons


def _invalid(problem: str, row: int, file: h5py.File, path: Path) -> CifmError:
    # The name is read only for the message: reading all names takes long.
    (name,) = read_barcodes(file, np.array([row]))
    return CifmError(f"{path}: cell {name!r} (row {row}) {problem}", _PREPARE_AGAIN)
