"""Names of cells, as an `.h5ad` stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from cifm_cli.data.slide_file import reading_slot

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_NAMES_AT_ONCE = 100_000  # Python strings take ten times the space that they take in the file


def read_barcodes(file: h5py.File, rows: NDArray[np.int64], path: Path) -> NDArray[Any]:
    """Read the names of some cells.

    Args:
        file: An open AnnData file.
        rows: (n,) rows of `obs`, in any order.
        path: Path of the file.

    Returns:
        (n,) names as text.

    Raises:
        CifmError: The names are damaged.
    """
    with reading_slot(path, "names of obs"):
        return _read_names(file, rows)


def _read_names(file: h5py.File, rows: NDArray[np.int64]) -> NDArray[Any]:
    stored = file["obs"][file["obs"].attrs["_index"]]
    # An index that may hold missing values is a group of values and a mask.
    texts = (stored["values"] if isinstance(stored, h5py.Group) else stored).asstr()
    names = np.empty(len(rows), dtype=object)
    # In blocks, as all names together may need more memory than the slide.
    for block in np.unique(rows // _NAMES_AT_ONCE):
        first = int(block) * _NAMES_AT_ONCE
        # HDF5 reads a range much faster than single rows, so the whole block is read.
        in_block = rows // _NAMES_AT_ONCE == block
        names[in_block] = texts[first : first + _NAMES_AT_ONCE][rows[in_block] - first]
    return names
