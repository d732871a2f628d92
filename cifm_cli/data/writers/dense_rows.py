"""Dense matrices of an `.h5ad` that are written row by row, in any order, without holding the matrix in memory.

HDF5 stores a matrix without chunks contiguously, so a row can be written with plain file operations. Several processes
may write different rows at once, and a full disk raises an ordinary error, where HDF5 would crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.data.open_hdf5 import open_for_reading

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows


_FLOAT32 = np.dtype("<f4")


@dataclass(frozen=True)
class DenseRows:
    """A matrix of an `.h5ad` whose rows are written in any order."""

    path: Path  # the file
    offset: int  # position of the matrix in the file, bytes
    num_columns: int  # D
    target_rows: Rows  # (N,) row of the matrix for each row of the slide

    def write(self, rows: Rows, values: NDArray[np.float32]) -> None:
        """Write rows; runs of consecutive rows are written at once.

        Args:
            rows: (n,) rows of the slide.
            values: (n, D).

        Raises:
            OSError: The disk is full.
        """
        targets = self.target_rows[rows]
        # Ascending, so that neighbouring rows form runs and the file is written forwards.
        order = np.argsort(targets)
        targets, ordered = targets[order], np.ascontiguousarray(values[order], dtype=_FLOAT32)
        # The first row always starts a run, as no target is -1.
        starts = np.flatnonzero(np.diff(targets, prepend=-2) != 1)
        row_size = self.num_columns * _FLOAT32.itemsize
        # Opened for each call: the object is sent to worker processes, which cannot share an open file.
        with self.path.open("r+b") as file:
            for (first, last), target in zip(
                pairwise([*starts.tolist(), len(rows)]), targets[starts].tolist(), strict=True
            ):
                file.seek(self.offset + target * row_size)
                file.write(ordered[first:last].data)


def create_dense(group: h5py.Group, name: str, shape: tuple[int, int]) -> None:
    """Create a matrix of zeros, as AnnData stores dense matrices.

    Args:
        group: A group of an AnnData file.
        name: Name of the matrix.
        shape: N and D, both at least 1.
    """
    dataset = group.create_dataset(name, shape, _FLOAT32)
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    dataset[-1, -1] = 0  # HDF5 assigns the position in the file with the first write


def open_dense(path: Path, name: str, target_rows: Rows) -> DenseRows:
    """Open a matrix that `create_dense` created.

    Args:
        path: The file, closed.
        name: Path of the matrix in the file.
        target_rows: (N,) row of the matrix for each row of the slide.

    Returns:
        The matrix, for writing.
    """
    with open_for_reading(path) as file:
        return DenseRows(path, file[name].id.get_offset(), file[name].shape[1], target_rows)
