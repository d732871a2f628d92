"""Opening HDF5 files, with checks of damage on which the HDF5 library would crash, hang or return wrong values."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import h5py

from cifm_cli.data.hdf5_safety import check_chunks, check_heaps, check_number_type
from cifm_cli.data.open_hdf5 import open_for_reading, require_not_written
from cifm_cli.data.readers.files import reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading, within `reading`.

    Args:
        path: The file.

    Yields:
        The file.

    Raises:
        CifmError: The file is damaged, or the block raised an exception that a damaged file can cause.
    """
    with reading(path):
        # First, as the texts of a file that is being written are not complete.
        require_not_written(path)
        # Before the library opens the file, as it may crash or hang while it does so.
        check_heaps(path)
        with open_for_reading(path) as file:
            yield file


def check_arrays(item: h5py.Group | h5py.Dataset) -> None:
    """Check arrays for damage that HDF5 reads silently as other values. Must be called within `reading`.

    Args:
        item: An array, or a group, whose whole content is checked.

    Raises:
        ValueError: A chunk of an array is missing, which HDF5 reads as zeros, or its number type is damaged.
    """
    if isinstance(item, h5py.Group):
        for name in item:
            check_arrays(item[name])
        return
    check_number_type(item)
    if item.chunks:
        check_chunks(item)
