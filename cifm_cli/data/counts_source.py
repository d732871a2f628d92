"""The counts of a slide, in memory or in its file.

Letters: N cells, G genes of the slide's panel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.sparse import csr_matrix, vstack

from cifm_cli.data.barcodes import read_barcodes
from cifm_cli.data.checksums import cell_checksums
from cifm_cli.data.content_record import changed
from cifm_cli.data.slide_file import damaged, reading_slot, reopen_slide_file
from cifm_cli.data.validate_slide import checked_rows
from cifm_cli.verification import verification_enabled

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]


_MAX_READ_NONZEROS = 1 << 22  # 32 MB
_MAX_GAP = 128  # rows; to read so many unneeded rows takes no longer than a second read


class CountsSource(Protocol):
    """The interface of counts that are read by rows."""

    def read(self, rows: Rows) -> csr_matrix:
        """Read the counts of (n,) rows, in any order, as (n, G) float32."""
        ...


@dataclass(frozen=True)
class MemoryCounts:
    """Counts in memory."""

    matrix: csr_matrix  # (N, G) counts

    def read(self, rows: Rows) -> csr_matrix:
        """Read the counts of some cells; see `CountsSource`."""
        return self.matrix[rows].astype(np.float32, copy=False)


@dataclass(frozen=True)
class CountChecksums:
    """The checksums with which the counts of a slide were written."""

    stored: NDArray[np.uint64]  # (N,) checksum of each cell
    gene_keys: NDArray[np.uint64]  # (G,) from `checksums.gene_keys`
    compared: NDArray[np.bool_] = field(init=False)  # (N,) cells whose counts were compared; rows are read many times

    def __post_init__(self) -> None:
        """Start without compared cells."""
        object.__setattr__(self, "compared", np.zeros(len(self.stored), dtype=np.bool_))


@dataclass(frozen=True)
class FileCounts:
    """Counts in an `.h5ad`, read in ranges of consecutive rows."""

    path: Path  # the prepared slide
    indptr: NDArray[np.int64]  # (N + 1,) row pointers of its `X`
    num_genes: int  # G
    checksums: CountChecksums | None = None  # None for a slide without checksums

    def read(self, rows: Rows) -> csr_matrix:
        """Read the counts of some cells; see `CountsSource`.

        Raises:
            CifmError: The counts are damaged, or were changed since they were written.
        """
        # Each row is read once and in ascending order, so that the file is read forwards.
        ordered, position = np.unique(rows, return_inverse=True)
        if not len(ordered):
            return csr_matrix((0, self.num_genes), dtype=np.float32)
        # Opened for each read: an open file cannot be forked or pickled, and opening it is cheap.
        with reopen_slide_file(self.path) as file:
            blocks = [self._read_range(file, row_range) for row_range in self._ranges(ordered)]
        # `vstack` copies the arrays, and `block[position]` copies them
        # again: both are skipped where they change nothing.
        block = blocks[0] if len(blocks) == 1 else vstack(blocks, format="csr")
        return block if np.array_equal(ordered, rows) else block[position]

    def _ranges(self, ordered: Rows) -> list[Rows]:
        """Divide ascending rows into groups that are read at once: at large gaps, and where a group becomes large."""
        gap = np.diff(ordered) > _MAX_GAP
        # Between two rows whose values lie on either side of a multiple of the limit; no group exceeds it by much.
        full = np.diff(self.indptr[ordered] // _MAX_READ_NONZEROS) > 0
        return np.split(ordered, np.flatnonzero(gap | full) + 1)

    def _read_range(self, file: h5py.File, rows: Rows) -> csr_matrix:
        """Read ascending rows together with the rows between them, and check the counts that were read."""
        first, last = int(rows[0]), int(rows[-1]) + 1
        start, stop = self.indptr[first], self.indptr[last]
        with reading_slot(self.path, "X"):
            values, indices = file["X/data"][start:stop], file["X/indices"][start:stop]
        if not len(values) == len(indices) == stop - start:
            raise damaged(self.path, "X was changed while it was read")
        # Here and not when the slide is opened, as that would read the whole matrix.
        indptr = self.indptr[first : last + 1] - start
        block = checked_rows(values, indices, indptr, self.num_genes, first, file, self.path)
        if self.checksums is not None and verification_enabled():
            self._compare(block, slice(first, last), self.checksums, file)
        return block if len(rows) == last - first else block[rows - first]

    def _compare(self, block: csr_matrix, rows: slice, checksums: CountChecksums, file: h5py.File) -> None:
        """Raise an error if counts are not those that were written."""
        if checksums.compared[rows].all():
            return
        differs = np.flatnonzero(cell_checksums(block, checksums.gene_keys) != checksums.stored[rows])
        if len(differs):
            (name,) = read_barcodes(file, differs[:1] + rows.start, self.path)
            where = f"{len(differs):,} of {block.shape[0]:,} cells that were read, the first {name!r}"
            raise changed(self.path, f"counts of {where}")
        checksums.compared[rows] = True


def row_sums(counts: csr_matrix) -> NDArray[np.float64]:
    """(N,) sum of the counts of each cell."""
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
