"""Checks of a slide: its arrays fit together, coordinates are finite, counts are finite and not negative.

`cifm prepare` writes only such files, but other programs can change them, because they are ordinary `.h5ad` files.
Compiled code reads the counts without checks of its own: a column outside of the panel would be a read outside of memory.

Letters: N cells, G genes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.barcodes import read_barcodes
from cifm_cli.data.content_record import changed
from cifm_cli.data.slide_file import WRITE_AGAIN, damaged, reading_slot
from cifm_cli.data.stored_arrays import find_array, read_codes, read_numbers, read_texts
from cifm_cli.errors import CifmError
from cifm_cli.jit import compiled
from cifm_cli.verification import verification_enabled

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_MAX_COORDINATE_UM = 1e12  # beyond any tissue; squares of larger distances would overflow


class Genes(NamedTuple):
    """The genes of a slide."""

    ids: tuple[str, ...]  # G Ensembl ids
    symbols: tuple[str, ...]  # G symbols


def read_genes(file: h5py.File, path: Path) -> Genes:
    """Read the ids and symbols of the genes.

    Args:
        file: The open slide.
        path: Path of the slide.

    Returns:
        The genes, at least one.

    Raises:
        CifmError: They are not texts, are missing or repeated, or there is not a symbol for each.
    """
    with reading_slot(path, "var"):
        index = str(file["var"].attrs["_index"])
    ids = read_texts(file, f"var/{index}", path)
    _require(len(ids) > 0, "var must have genes", path)
    symbols = read_texts(file, f"var/{keys.SYMBOL}", path, len(ids))
    _require(all(ids), "var has a gene without an id", path)
    gene, times = Counter(ids).most_common(1)[0]
    _require(times == 1, f"var names the gene {gene!r} twice", path)
    return Genes(tuple(ids), tuple(symbols))


def require_valid_structure(file: h5py.File, num_genes: int, path: Path) -> NDArray[np.int64]:
    """Raise an error if the arrays of the counts do not fit together.

    Args:
        file: The open slide.
        num_genes: G, the number of rows of `var`.
        path: Path of the slide.

    Returns:
        (N + 1,) row pointers of `X`, in 64 bits, because positions in a large matrix exceed 32.

    Raises:
        CifmError: `X` is not a CSR matrix, an array has the wrong length, or the row pointers are not ascending.
    """
    with reading_slot(path, "X"):
        matrix = file["X"]
        stored_as = str(matrix.attrs.get("encoding-type", "an array of unknown kind"))
        shape = tuple(np.ravel(matrix.attrs.get("shape", ())).tolist())
    if not isinstance(matrix, h5py.Group) or stored_as != "csr_matrix":
        raise CifmError(
            f"{path}: X is stored as {stored_as}, not as csr_matrix",
            "store it as CSR again (`adata.X = scipy.sparse.csr_matrix(adata.X)`), or prepare the download again",
        )
    data = find_array(file, "X/data", path)
    indices, pointers = (find_array(file, f"X/{name}", path, "iu") for name in ("indices", "indptr"))
    one_axis = data.ndim == indices.ndim == pointers.ndim == 1
    _require(one_axis, "X/data, X/indices and X/indptr must have one axis", path)
    _require(data.shape == indices.shape, "X/data and X/indices must have the same length", path)
    # Before the row pointers are read: an array that claims to be larger than it is would be allocated.
    _require(pointers.shape == (_count_cells(file, path) + 1,), "X must have a row for each cell of obs", path)
    with reading_slot(path, "X/indptr"):
        indptr: NDArray[np.int64] = pointers[:].astype(np.int64)
    _require(len(indptr) > 1, "X must have rows", path)
    num_cells, num_nonzeros = len(indptr) - 1, len(data)
    ascending = indptr[0] == 0 and indptr[-1] == num_nonzeros and bool((np.diff(indptr) >= 0).all())
    _require(ascending, f"X/indptr must ascend from 0 to {num_nonzeros}, the length of X/data", path)
    _require(shape == (num_cells, num_genes), f"X must have {num_cells} rows and {num_genes} columns", path)
    return indptr


def _count_cells(file: h5py.File, path: Path) -> int:
    """N, the number of names in `obs`."""
    with reading_slot(path, "names of obs"):
        names = file["obs"][str(file["obs"].attrs["_index"])]
        return len(names["values"] if isinstance(names, h5py.Group) else names)


def read_coordinates(file: h5py.File, num_cells: int, path: Path) -> NDArray[np.float64]:
    """Read the coordinates of the cells.

    Args:
        file: The open slide.
        num_cells: N.
        path: Path of the slide.

    Returns:
        (N, 2) cell centres in micrometres.

    Raises:
        CifmError: There are not two finite numbers per cell; for a number that is not finite the message names the cell.
    """
    slot = f"obsm/{keys.SPATIAL}"
    _require(find_array(file, slot, path).shape == (num_cells, 2), f"{slot} must have two numbers per cell", path)
    xy_um = read_numbers(file, slot, path).astype(np.float64, copy=False)
    # NaN fails the comparison. The row is searched only where there is one, as that needs memory.
    if not -_MAX_COORDINATE_UM <= xy_um.min() <= xy_um.max() <= _MAX_COORDINATE_UM:
        row = int((~(np.abs(xy_um) <= _MAX_COORDINATE_UM).all(axis=1)).argmax())
        x, y = xy_um[row]
        raise _invalid(f"has the coordinates ({x:g}, {y:g}) um", row, file, path)
    return xy_um


def read_totals(file: h5py.File, num_cells: int, path: Path) -> NDArray[np.float64]:
    """(N,) total counts of the cells; raises a `CifmError`, which names the cell, for one that is not a number >= 0."""
    total_counts = read_column(file, keys.TOTAL_COUNTS, num_cells, path).astype(np.float64, copy=False)
    if not 0 <= total_counts.min() <= total_counts.max() < np.inf:  # NaN fails the comparison
        row = int((~((total_counts >= 0) & (total_counts < np.inf))).argmax())
        raise _invalid(f"has {total_counts[row]:g} counts", row, file, path)
    return total_counts


def read_column(file: h5py.File, name: str, num_cells: int, path: Path, kinds: str = "iuf") -> NDArray[Any]:
    """(N,) numbers of a column of `obs`; raises a `CifmError` if it is missing, damaged, or has no number per cell."""
    slot = f"obs/{name}"
    _require(find_array(file, slot, path, kinds).shape == (num_cells,), f"{slot} must have one number per cell", path)
    return read_numbers(file, slot, path, kinds)


def read_download_rows(file: h5py.File, path: Path) -> NDArray[np.int64]:
    """(N,) row of each cell in the download; raises a `CifmError` if they are missing or repeated."""
    num_cells = len(find_array(file, "X/indptr", path, "iu")) - 1
    rows = read_column(file, keys.DOWNLOAD_ROW, num_cells, path, "iu").astype(np.int64)
    ordered = np.sort(rows)
    distinct = ordered[0] >= 0 and bool((np.diff(ordered) > 0).all())
    _require(distinct, f"obs/{keys.DOWNLOAD_ROW} must be distinct rows of the download", path)
    return rows


def read_regions(file: h5py.File, num_cells: int, path: Path) -> NDArray[np.int8]:
    """Read the region of each cell.

    Args:
        file: The open slide.
        num_cells: N.
        path: Path of the slide.

    Returns:
        (N,) positions in `keys.REGIONS`.

    Raises:
        CifmError: A cell has no region, or one that does not exist.
    """
    slot = f"obs/{keys.SPLIT}"
    codes, names = read_codes(file, slot, path, num_cells)
    if unknown := set(names[np.bincount(codes, minlength=len(names)) > 0]) - set(keys.REGIONS):
        raise damaged(path, f"{slot} holds {min(unknown)!r}, not one of {', '.join(keys.REGIONS)}")
    # Categories that no cell has may have any name.
    positions = [keys.REGIONS.index(name) if name in keys.REGIONS else -1 for name in names]
    return np.array(positions, dtype=np.int8)[codes]


def checked_rows(
    values: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[np.int64],
    num_genes: int,
    first: int,
    file: h5py.File,
    path: Path,
) -> csr_matrix:
    """Make a matrix of stored counts that have been read from the file.

    Args:
        values: (n,) values of consecutive rows.
        indices: (n,) columns.
        indptr: (k + 1,) row pointers of these rows, of which the first is 0.
        num_genes: G.
        first: The first of these rows, for messages.
        file: The open slide, from which the name of a cell is read.
        path: Path of the slide.

    Returns:
        (k, G) float32, columns ascending within rows.

    Raises:
        CifmError: A count is negative, not finite, or no whole number, which names the cell; or a column does not exist or
            is repeated.
    """
    with np.errstate(over="ignore"):  # becomes infinite, which is refused below
        counts = values.astype(np.float32, copy=False)
    columns = indices
    if indices.dtype != np.int32:
        # Before the conversion, which could wrap around.
        inside = not len(indices) or bool(indices.min() >= 0 and indices.max() < num_genes)
        _require(inside, f"X/indices must be columns of the {num_genes} genes", path)
        columns = indices.astype(np.int32)
    invalid, fraction, outside, ascending = _find_problems(counts, columns, indptr, num_genes)
    if (wrong := max(invalid, fraction if verification_enabled() else -1)) >= 0:
        row = first + int(np.searchsorted(indptr, wrong, side="right")) - 1
        if wrong == invalid:
            raise _invalid(f"has a count of {counts[wrong]:g}", row, file, path)
        (name,) = read_barcodes(file, np.array([row]), path)
        raise changed(path, f"values of X are no longer counts, such as {counts[wrong]:g} in cell {name!r}")
    _require(outside < 0, f"X/indices must be columns of the {num_genes} genes", path)
    block = csr_matrix((counts, columns, indptr), shape=(len(indptr) - 1, num_genes))
    if not ascending:
        # Other programs may store the columns of a row in any order.
        block.sort_indices()
        repeated = not _find_problems(block.data, block.indices, block.indptr, num_genes)[3]
        _require(not repeated, "X/indices names a gene twice in one row", path)
    return block


@compiled
def _find_problems(
    values: NDArray[np.float32], indices: NDArray[Any], indptr: NDArray[Any], num_genes: int
) -> tuple[int, int, int, bool]:
    """Positions of an invalid value, of a fraction and of a column that does not exist; whether columns ascend.

    Positions are -1 if there is none. There is no fraction where a value is invalid.
    """
    invalid, fraction, outside, ascending = -1, -1, -1, True
    for row in range(len(indptr) - 1):
        previous = -1
        for position in range(indptr[row], indptr[row + 1]):
            value, column = values[position], indices[position]
            if not (value >= 0 and value < np.inf):  # NaN fails both comparisons
                invalid = position if invalid < 0 else invalid
            elif value != np.floor(value):
                fraction = position if fraction < 0 else fraction
            if not (column >= 0 and column < num_genes) and outside < 0:
                outside = position
            ascending = ascending and column > previous
            previous = column
    return invalid, fraction if invalid < 0 else -1, outside, ascending


def _require(condition: bool, rule: str, path: Path) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise damaged(path, rule)


def _invalid(problem: str, row: int, file: h5py.File, path: Path) -> CifmError:
    # The name is read only for the message: reading all names takes long.
    (name,) = read_barcodes(file, np.array([row]), path)
    return CifmError(f"{path}: cell {name!r} (row {row}) {problem}", WRITE_AGAIN)
