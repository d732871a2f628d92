"""Counts of a download: rows in blocks of bounded size, from memory or from a matrix that stays in its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import h5py
import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.data.readers.base import reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK_NONZEROS = 1 << 22  # 50 MB as 10x stores them, ten times that while they are checked


@dataclass(frozen=True)
class StoredCounts:
    """A matrix of N rows that stays in its HDF5 file.

    Args:
        path: The file.
        slot: The group that holds data, indices and indptr.
        indptr: (N + 1,) where rows begin.
        num_columns: Columns of the matrix.
        out_of_order: (N,) rows that were read and whose columns do not ascend.
    """

    path: Path
    slot: str
    indptr: NDArray[np.int64]
    num_columns: int
    out_of_order: NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, int]:
        """N and the number of columns."""
        return len(self.indptr) - 1, self.num_columns

    def read(self, first: int, last: int) -> csr_matrix:
        """Rows `first` up to `last`, as stored but for their order within each row.

        Raises:
            CifmError: The file is damaged there.
        """
        start, stop = self.indptr[first], self.indptr[last]
        with reading(self.path), h5py.File(self.path, "r") as file:
            group = file[self.slot]
            columns = _narrow(group["indices"][start:stop], self.num_columns)
            parts = (group["data"][start:stop], columns, (self.indptr[first : last + 1] - start).astype(np.int32))
            self.out_of_order[first + _falling_rows(*parts[1:])] = True
            return canonical(csr_matrix(parts, shape=(last - first, self.num_columns)))


Counts: TypeAlias = csr_matrix | StoredCounts


def stored_counts(path: Path, group: h5py.Group, shape: tuple[int, int]) -> StoredCounts:
    """Find the rows of a matrix; the caller stands inside `reading`.

    Args:
        path: The file.
        group: The group that holds data, indices and indptr of compressed rows.
        shape: What the file declares.

    Returns:
        The matrix, its values still unread.

    Raises:
        ValueError: The parts do not fit each other.
    """
    data, indices, indptr = (group[name] for name in ("data", "indices", "indptr"))
    starts = as_integers(indptr)
    if starts.shape != (shape[0] + 1,) or starts[0] != 0 or (np.diff(starts) < 0).any():
        raise ValueError(f"{indptr.name} does not tell {shape[0]} rows apart")
    if data.dtype.kind not in "iufb" or data.shape != indices.shape or data.shape < (starts[-1],):
        raise ValueError(f"{data.name} {data.shape} {data.dtype}, indices {indices.shape}, not {starts[-1]} numbers")
    return StoredCounts(path, group.name, starts, shape[1], np.zeros(shape[0], dtype=np.bool_))


def row_blocks(counts: Counts) -> Iterator[tuple[int, csr_matrix]]:
    """Go through a matrix in blocks of about `BLOCK_NONZEROS` values.

    Args:
        counts: (N, G).

    Yields:
        The first row of a block, and the block; the last one ends with row N.
    """
    for first, last in row_ranges(counts.indptr):
        yield first, counts.read(first, last) if isinstance(counts, StoredCounts) else counts[first:last]


def row_ranges(indptr: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about `BLOCK_NONZEROS` values.

    Args:
        indptr: (N + 1,) where rows begin.

    Yields:
        First row and the one after the last.
    """
    first, num_rows = 0, len(indptr) - 1
    while first < num_rows:
        full = int(np.searchsorted(indptr, indptr[first] + BLOCK_NONZEROS, side="right")) - 1
        last = min(max(full, first + 1), num_rows)
        yield first, last
        first = last


def in_memory(counts: Counts) -> csr_matrix:
    """The whole matrix, for those that know it is small."""
    return counts.read(0, counts.shape[0]) if isinstance(counts, StoredCounts) else counts


def canonical(matrix: csr_matrix) -> csr_matrix:
    """The matrix checked, its columns sorted within rows; the caller stands inside `reading`.

    Args:
        matrix: (N, G), changed in place.

    Returns:
        The matrix.

    Raises:
        ValueError: A column number is none of the matrix, or stands twice in a row.
    """
    matrix.check_format(full_check=True)  # a damaged index would crash what comes next
    stored = matrix.nnz
    matrix.sum_duplicates()
    if matrix.nnz < stored:
        raise ValueError(f"{stored - matrix.nnz:,} counts stand where there is another")
    return matrix


def as_integers(dataset: h5py.Dataset) -> NDArray[np.int64]:
    """Whole numbers, which R writes as float64; the caller stands inside `reading`."""
    values = dataset[:]
    whole: NDArray[np.int64] = values.astype(np.int64)
    if values.dtype.kind == "f" and not np.array_equal(whole, values):
        raise ValueError(f"{dataset.name} holds fractions")
    return whole


def _falling_rows(columns: NDArray[Any], indptr: NDArray[Any]) -> NDArray[np.int64]:
    """Rows in which a column is followed by a lower one."""
    later = np.flatnonzero(columns[1:] < columns[:-1]) + 1
    rows = np.searchsorted(indptr, later, side="right") - 1
    return np.unique(rows[indptr[rows] < later])


def _narrow(columns: NDArray[Any], num_columns: int) -> NDArray[np.int32]:
    """Columns as 32-bit numbers, checked before a wrong one could turn into another that looks right."""
    if len(columns) and not (columns.min() >= 0 and columns.max() < num_columns):
        raise ValueError(f"column {columns.min()} or {columns.max()} of {num_columns}")
    whole: NDArray[np.int32] = columns.astype(np.int32)
    if columns.dtype.kind == "f" and not np.array_equal(whole, columns):
        raise ValueError("a column number holds fractions")
    return whole
