"""The counts of a slide, in memory or in its file.

Letters: N cells, G genes of the slide's panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.sparse import csr_matrix, vstack

from cifm_cli.data.open_hdf5 import open_for_reading
from cifm_cli.data.validate_slide import require_valid_columns, require_valid_counts

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
class FileCounts:
    """Counts in an `.h5ad`, read in ranges of consecutive rows."""

    path: Path  # the prepared slide
    indptr: NDArray[np.int64]  # (N + 1,) row pointers of its `X`
    num_genes: int  # G

    def read(self, rows: Rows) -> csr_matrix:
        """Read the counts of some cells; see `CountsSource`."""
        # Each row is read once and in ascending order, so that the file is read forwards.
        ordered, position = np.unique(rows, return_inverse=True)
        if not len(ordered):
            return csr_matrix((0, self.num_genes), dtype=np.float32)
        # Opened for each read: an open file cannot be forked or pickled, and opening it is cheap.
        with open_for_reading(self.path) as file:
            blocks = [self._read_range(file["X"], row_range) for row_range in self._ranges(ordered)]
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

    def _read_range(self, group: h5py.Group, rows: Rows) -> csr_matrix:
        """Read ascending rows together with the rows between them, and check the counts that were read."""
        first, last = rows[0], rows[-1] + 1
        start, stop = self.indptr[first], self.indptr[last]
        values = group["data"][start:stop].astype(np.float32, copy=False)
        # Here and not when the slide is opened, as that would read the whole matrix.
        require_valid_counts(values, start, self.indptr, group.file, self.path)
        indices = group["indices"][start:stop]
        require_valid_columns(indices, self.num_genes, self.path)
        csr_arrays = (values, indices, self.indptr[first : last + 1] - start)
        block = csr_matrix(csr_arrays, shape=(last - first, self.num_genes))
        return block if len(rows) == last - first else block[rows - first]


def row_sums(counts: csr_matrix) -> NDArray[np.float64]:
    """(N,) sum of the counts of each cell."""
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
