"""The counts of a download: a matrix in memory or in its file, read in blocks of rows of bounded size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.data.open_hdf5 import open_for_reading
from cifm_cli.data.readers.files import reading
from cifm_cli.data.row_ranges import row_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray


@dataclass(frozen=True)
class StoredCounts:
    """A matrix of N rows that stays in its HDF5 file."""

    path: Path  # the file
    slot: str  # the group that holds data, indices and indptr
    indptr: NDArray[np.int64]  # (N + 1,) row pointers
    num_columns: int  # number of columns
    out_of_order: NDArray[np.bool_]  # (N,) whether the stored columns of a row do not ascend; set when the row is read

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self.indptr) - 1, self.num_columns

    def read(self, first: int, last: int) -> csr_matrix:
        """Read rows `first` up to but without `last`, columns sorted within rows.

        Raises:
            CifmError: The file is damaged in these rows.
        """
        start, stop = self.indptr[first], self.indptr[last]
        # Opened for each block: the object then has no open file while other code runs, and needs no closing.
        with reading(self.path), open_for_reading(self.path) as file:
            group = file[self.slot]
            columns = _narrow(group["indices"][start:stop], self.num_columns)
            # Pointers relative to the block fit into 32 bits, and SciPy wants the same type for columns and pointers.
            csr_arrays = (group["data"][start:stop], columns, (self.indptr[first : last + 1] - start).astype(np.int32))
            # Recorded before `canonical` sorts the columns. Instruments write sorted rows, so a few unsorted
            # ones are a sign of damage.
            self.out_of_order[first + _unsorted_rows(*csr_arrays[1:])] = True
            return canonical(csr_matrix(csr_arrays, shape=(last - first, self.num_columns)))


Counts: TypeAlias = csr_matrix | StoredCounts


def stored_counts(path: Path, group: h5py.Group, shape: tuple[int, int]) -> StoredCounts:
    """Open a CSR matrix of an HDF5 file. Must be called within `reading`.

    Args:
        path: The file.
        group: The group that holds data, indices and indptr.
        shape: The shape that the file declares.

    Returns:
        The matrix; its values are read later.

    Raises:
        ValueError: The arrays do not form a matrix of that shape.
    """
    # Only the pointers are read here. A wrong pointer would select values of other cells, so they are checked first.
    data, indices, indptr = (group[name] for name in ("data", "indices", "indptr"))
    starts = as_integers(indptr)
    if starts.shape != (shape[0] + 1,) or starts[0] != 0 or (np.diff(starts) < 0).any():
        raise ValueError(f"{indptr.name} does not describe {shape[0]} rows")
    if data.dtype.kind not in "iufb" or data.shape != indices.shape or data.shape < (starts[-1],):
        raise ValueError(f"{data.name} {data.shape} {data.dtype}, indices {indices.shape}, not {starts[-1]} numbers")
    return StoredCounts(path, group.name, starts, shape[1], np.zeros(shape[0], dtype=np.bool_))


def row_blocks(counts: Counts) -> Iterator[tuple[int, csr_matrix]]:
    """Iterate over a matrix in blocks of rows with at most `BLOCK_NONZEROS` values, or one row.

    Args:
        counts: (N, F).

    Yields:
        The number of the first row of a block, and the block.
    """
    for first, last in row_ranges(counts.indptr):
        yield first, counts.read(first, last) if isinstance(counts, StoredCounts) else counts[first:last]


def in_memory(counts: Counts) -> csr_matrix:
    """The whole matrix in memory."""
    return counts.read(0, counts.shape[0]) if isinstance(counts, StoredCounts) else counts


def canonical(matrix: csr_matrix) -> csr_matrix:
    """Check a matrix and sort the columns within its rows. Must be called within `reading`.

    Args:
        matrix: (N, F), changed in place.

    Returns:
        The matrix.

    Raises:
        ValueError: A column number is out of range, or occurs twice in a row.
    """
    matrix.check_format(full_check=True)  # an index out of range would crash the next line
    # Adding up repeated entries would give a valid matrix with wrong counts, so they are an error.
    stored = matrix.nnz
    matrix.sum_duplicates()
    if matrix.nnz < stored:
        raise ValueError(f"{stored - matrix.nnz:,} entries have the same row and column as another")
    return matrix


def as_integers(dataset: h5py.Dataset) -> NDArray[np.int64]:
    """Read integers, which R stores as float64. Must be called within `reading`; raises `ValueError` for fractions."""
    values = dataset[:]
    whole: NDArray[np.int64] = values.astype(np.int64)
    if values.dtype.kind == "f" and not np.array_equal(whole, values):
        raise ValueError(f"{dataset.name} holds fractions")
    return whole


def _unsorted_rows(columns: NDArray[Any], indptr: NDArray[Any]) -> NDArray[np.int64]:
    """Rows in which a column is followed by a lower one, given the columns and row pointers of a matrix."""
    later = np.flatnonzero(columns[1:] < columns[:-1]) + 1
    # The step from the last column of a row to the first of the next one is not out of order.
    rows = np.searchsorted(indptr, later, side="right") - 1
    return np.unique(rows[indptr[rows] < later])


def _narrow(columns: NDArray[Any], num_columns: int) -> NDArray[np.int32]:
    """Columns as int32, checked before the conversion, which could turn a wrong number into a valid one."""
    if len(columns) and not (columns.min() >= 0 and columns.max() < num_columns):
        raise ValueError(f"columns from {columns.min()} to {columns.max()} in a matrix of {num_columns}")
    whole: NDArray[np.int32] = columns.astype(np.int32)
    if columns.dtype.kind == "f" and not np.array_equal(whole, columns):
        raise ValueError("a column number holds fractions")
    return whole
