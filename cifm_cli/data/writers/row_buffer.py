"""A buffer of count rows on disk: written in the order of the download, read in the order of the slide."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.data.checksums import cell_checksums, gene_keys
from cifm_cli.data.row_ranges import row_ranges
from cifm_cli.data.writers.csr_arrays import create_csr_arrays
from cifm_cli.errors import writing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

_ENTRY = np.dtype([("column", np.int32), ("value", np.float32)])


class RowBuffer:
    """N rows of G counts in a temporary file without a name, which the system deletes even if the process is killed.

    Access to a row of a compressed download decompresses all rows before it. A download is therefore read once, in its
    own order; after that, each row is read from the buffer with one file operation, in any order.

    Args:
        folder: Folder on a disk with space for the counts.
        num_cells: N.
        gene_ids: G Ensembl ids.

    Attributes:
        num_genes: G.
        total_counts: (N,) sum of each row.
        checksums: (N,) checksum of each row, from `checksums.cell_checksums`.
        num_expressed: (N,) number of counts of each row.
    """

    def __init__(self, folder: Path, num_cells: int, gene_ids: Sequence[str]) -> None:
        self.num_genes = len(gene_ids)
        self.total_counts = np.zeros(num_cells)
        self.checksums = np.zeros(num_cells, dtype=np.uint64)
        self.num_expressed = np.zeros(num_cells, dtype=np.int64)
        self._folder, self._gene_keys = folder, gene_keys(gene_ids)
        with writing(folder):
            self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - __exit__ closes it

    def __enter__(self) -> Self:
        """The buffer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the file."""
        self._file.close()

    def write(self, first: int, block: csr_matrix) -> None:
        """Append rows.

        Args:
            first: Number of the first row, which follows the last row that was written.
            block: (n, G) counts, columns sorted within rows.

        Raises:
            CifmError: The disk is full.
        """
        rows = slice(first, first + block.shape[0])
        self.total_counts[rows] = np.asarray(block.sum(axis=1), dtype=np.float64).ravel()
        self.num_expressed[rows] = np.diff(block.indptr)
        self.checksums[rows] = cell_checksums(block, self._gene_keys)
        # Column and value of an entry are stored side by side, so that a row is one range of the file.
        entries = np.empty(block.nnz, dtype=_ENTRY)
        entries["column"], entries["value"] = block.indices, block.data
        with writing(self._folder):
            self._file.write(entries.view(np.uint8).data)
            # Rows are read through the raw file, which bypasses the buffer of the writes.
            self._file.flush()

    def write_matrix(self, group: h5py.Group, rows: NDArray[np.int64]) -> None:
        """Write some rows as a CSR matrix in the on-disk format of AnnData, in blocks, without compression.

        Args:
            group: An empty group.
            rows: (n,) rows in the order to write them.
        """
        indptr = np.concatenate([[0], np.cumsum(self.num_expressed[rows])])
        offsets = np.concatenate([[0], np.cumsum(self.num_expressed)])[rows]
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([len(rows), self.num_genes])
        columns, values = create_csr_arrays(group, indptr)
        for first, last in row_ranges(indptr):
            start, stop = indptr[first], indptr[last]
            entries = self._gather(indptr[first : last + 1] - start, offsets[first:last])
            columns[start:stop], values[start:stop] = entries["column"], entries["value"]

    def read(self, rows: NDArray[np.int64]) -> csr_matrix:
        """Read some rows as a matrix in memory.

        Args:
            rows: (n,) rows, in any order.

        Returns:
            (n, G) float32 counts.
        """
        indptr = np.concatenate([[0], np.cumsum(self.num_expressed[rows])])
        offsets = np.concatenate([[0], np.cumsum(self.num_expressed)])[rows]
        entries = self._gather(indptr, offsets)
        # Copies, as fields of a structured array are not contiguous.
        csr_arrays = (entries["value"].copy(), entries["column"].copy(), indptr)
        return csr_matrix(csr_arrays, shape=(len(rows), self.num_genes))

    def num_bytes(self, rows: NDArray[np.int64]) -> int:
        """Size of the matrix that `write_matrix` writes for some rows, in bytes."""
        return int(self.num_expressed[rows].sum()) * _ENTRY.itemsize + (len(rows) + 1) * 8

    def _gather(self, starts: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.void]:
        """Read rows from entry `offsets` of the file to entry `starts` of the result, which has (n + 1,) starts."""
        entries = np.empty(starts[-1], dtype=_ENTRY)
        target, size = entries.view(np.uint8).data, _ENTRY.itemsize
        bounds = (starts * size).tolist()
        for start, stop, offset in zip(bounds, bounds[1:], (offsets * size).tolist(), strict=False):
            # Unbuffered: the buffer of Python would read more than a short row, and throw it away at the next seek.
            self._file.raw.seek(offset)
            self._file.raw.readinto(target[start:stop])
        return entries
