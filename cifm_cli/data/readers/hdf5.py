"""Opening HDF5 files, with checks of damage on which the HDF5 library would crash, hang or return wrong values."""

from __future__ import annotations

from contextlib import contextmanager
from math import ceil, prod
from mmap import ACCESS_READ, mmap
from struct import Struct
from typing import TYPE_CHECKING

import h5py

from cifm_cli.data.open_hdf5 import open_for_reading, require_not_written
from cifm_cli.data.readers.files import reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# HDF5 file format specification 3.0, III.E "Global Heap": texts of variable length are stored in collections of objects.
_COLLECTION = b"GCOL\x01\0\0\0"
_SIZE = Struct("<Q")
_OBJECT = Struct("<HHIQ")  # number, reference count, reserved, size in bytes
_FREE_SPACE = 0  # number of the object that stands for the unused rest of a collection


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
        _check_heaps(path)
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
    # h5py derives the NumPy type from the size and byte order alone, so a damaged offset or precision shows only here.
    if item.dtype.kind in "iuf" and item.id.get_type() != h5py.h5t.py_create(item.dtype):
        raise ValueError(f"{item.name} has a damaged number type")
    if item.chunks and item.id.get_num_chunks() < prod(map(_num_chunks, item.shape, item.chunks)):
        raise ValueError(f"{item.name} lacks a chunk")


def _num_chunks(length: int, chunk: int) -> int:
    return ceil(length / chunk)


def _check_heaps(path: Path) -> None:
    """Check the sizes of all stored texts; with a wrong size, the library loops forever or reads beyond the end."""
    with _mapped(path) as content:
        start = content.find(_COLLECTION)
        while start >= 0:
            _check_heap(content, start)
            # Collections are found by their signature, as the library reaches them through references all over the file.
            start = content.find(_COLLECTION, start + 1)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap | bytes]:
    """The content of a file, mapped and not read: a search touches every byte, but needs no memory of its own."""
    with path.open("rb") as file:
        try:
            content = mmap(file.fileno(), 0, access=ACCESS_READ)
        except OSError:  # some network file systems cannot map files
            yield file.read()
            return
        with content:
            yield content


def _check_heap(content: mmap | bytes, start: int) -> None:
    offset = start + len(_COLLECTION) + _SIZE.size
    if offset > len(content):
        raise ValueError("the file ends within its texts")
    end = start + _SIZE.unpack_from(content, offset - _SIZE.size)[0]
    # A truncated file ends within a collection.
    if end > len(content):
        raise ValueError("the file ends within its texts")
    while offset + _OBJECT.size <= end:
        number, _, _, length = _OBJECT.unpack_from(content, offset)
        # Objects are padded to a multiple of 8 bytes.
        step = length if number == _FREE_SPACE else _OBJECT.size + ceil(length / 8) * 8
        # A step of zero would never reach the end, and one that is too long leaves the collection.
        if step < _OBJECT.size or offset + step > end:
            raise ValueError(f"the texts at byte {offset} are damaged")
        offset += step
