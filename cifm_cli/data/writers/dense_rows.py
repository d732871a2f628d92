"""Dense matrices of an `.h5ad` that are written row by row, in any order, without ever being in memory.

HDF5 keeps a matrix without chunks as plain rows at one place of the file: each row is one ordinary write, so that
several processes may write rows of their own at once, and a full disk is an ordinary error.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import h5py
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows

_FLOAT32 = np.dtype("<f4")


@dataclass(frozen=True)
class DenseRows:
    """A matrix whose rows are written in any order.

    Args:
        path: The file.
        offset: Where the matrix begins, bytes.
        num_columns: D.
        places: (N,) row of the matrix for each row of the slide.
    """

    path: Path
    offset: int
    num_columns: int
    places: Rows

    def write(self, rows: Rows, values: NDArray[np.float32]) -> None:
        """Put rows where they belong, neighbours in one go.

        Args:
            rows: (n,) rows of the slide.
            values: (n, D).

        Raises:
            OSError: The disk is full.
        """
        places = self.places[rows]
        order = np.argsort(places)
        places, ready = places[order], np.ascontiguousarray(values[order], dtype=_FLOAT32)
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
        size = self.num_columns * _FLOAT32.itemsize
        with self.path.open("r+b") as file:
            for (first, last), place in zip(
                pairwise([*starts.tolist(), len(rows)]), places[starts].tolist(), strict=True
            ):
                file.seek(self.offset + place * size)
                file.write(ready[first:last].data)


def reserve(group: h5py.Group, name: str, shape: tuple[int, int]) -> None:
    """Make room for a matrix.

    Args:
        group: A group of an AnnData file.
        name: Name of the matrix.
        shape: N and D, both at least 1.
    """
    dataset = group.create_dataset(name, shape, _FLOAT32)
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    dataset[-1, -1] = 0  # the first value written gives the matrix its place


def reserved(path: Path, name: str, places: Rows) -> DenseRows:
    """Find the room that was made.

    Args:
        path: The file, closed.
        name: The matrix.
        places: (N,) row of the matrix for each row of the slide.

    Returns:
        The matrix, to write.
    """
    with h5py.File(path, "r") as file:
        return DenseRows(path, file[name].id.get_offset(), file[name].shape[1], places)
