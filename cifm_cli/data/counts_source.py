"""Where the counts of a slide are: in memory, or in its file, read by stretches of rows.

Letters: N cells, G genes of the slide's panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import h5py
import numpy as np
from scipy.sparse import csr_matrix, vstack

from cifm_cli.data.validate_slide import require_counts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows

_STRETCH_NONZEROS = 1 << 22  # 32 MB
_FEW_ROWS = 128  # reading so many too many takes no longer than one more reading


class CountsSource(Protocol):
    """Where a slide's counts come from."""

    def read(self, rows: Rows) -> csr_matrix:
        """Counts of some cells, (len(rows), G) float32, in the order given."""
        ...


@dataclass(frozen=True)
class MemoryCounts:
    """Counts held in memory.

    Args:
        matrix: (N, G) counts.
    """

    matrix: csr_matrix

    def read(self, rows: Rows) -> csr_matrix:
        """Counts of some cells; see `CountsSource`."""
        return self.matrix[rows].astype(np.float32, copy=False)


@dataclass(frozen=True)
class FileCounts:
    """Counts in an `.h5ad`, read by stretches of rows.

    Args:
        path: The prepared slide.
        indptr: (N + 1,) row pointers of its `X`.
        num_genes: G.
    """

    path: Path
    indptr: NDArray[np.int64]
    num_genes: int

    def read(self, rows: Rows) -> csr_matrix:
        """Counts of some cells; see `CountsSource`."""
        ordered, position = np.unique(rows, return_inverse=True)
        if not len(ordered):
            return csr_matrix((0, self.num_genes), dtype=np.float32)
        # Opened for each reading: an open file survives neither a fork nor pickling, and opening one takes little.
        with h5py.File(self.path, "r") as file:
            parts = [self._stretch(file["X"], stretch) for stretch in self._stretches(ordered)]
        block = parts[0] if len(parts) == 1 else vstack(parts, format="csr")
        return block if np.array_equal(ordered, rows) else block[position]

    def _stretches(self, ordered: Rows) -> list[Rows]:
        """Cut ascending rows where many in a row are left out, and where a stretch becomes large."""
        left_out = np.diff(ordered) > _FEW_ROWS
        # Where a multiple of the limit lies between two rows, so that no stretch holds much more than one limit.
        large = np.diff(self.indptr[ordered] // _STRETCH_NONZEROS) > 0
        return np.split(ordered, np.flatnonzero(left_out | large) + 1)

    def _stretch(self, group: h5py.Group, rows: Rows) -> csr_matrix:
        """Counts of ascending rows, read with those between them; checked here, as the whole is read by nobody."""
        first, last = rows[0], rows[-1] + 1
        start, stop = self.indptr[first], self.indptr[last]
        values = group["data"][start:stop].astype(np.float32, copy=False)
        require_counts(values, start, self.indptr, group.file, self.path)
        parts = (values, group["indices"][start:stop], self.indptr[first : last + 1] - start)
        block = csr_matrix(parts, shape=(last - first, self.num_genes))
        return block if len(rows) == last - first else block[rows - first]
