"""HDF5 files opened with care: what the library takes on trust, and would crash, hang or misread on, is looked at first."""

from __future__ import annotations

from contextlib import contextmanager
from math import ceil, prod
from mmap import ACCESS_READ, mmap
from struct import Struct
from typing import TYPE_CHECKING

import h5py

from cifm_cli.data.readers.base import reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# HDF5 file format specification 3.0, III.E "Global Heap": texts of variable length lie in collections of objects.
_COLLECTION = b"GCOL\x01\0\0\0"
_SIZE = Struct("<Q")
_OBJECT = Struct("<HHIQ")  # number, references, nothing, bytes
_FREE_SPACE = 0  # the number of the object that is the rest of a collection


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file to read it; whatever is wrong with it becomes an error of the user's.

    Args:
        path: The file.

    Yields:
        The file.

    Raises:
        CifmError: It is damaged, or the block could not make sense of it.
    """
    with reading(path):
        _check_heaps(path)
        with h5py.File(path, "r") as file:
            yield file


def check_arrays(item: h5py.Group | h5py.Dataset) -> None:
    """Refuse arrays of numbers that HDF5 would fill up or convert without a word; the caller stands inside `reading`.

    Args:
        item: An array, or a group with all that it holds.

    Raises:
        ValueError: A chunk of an array is missing, which reads as zeros, or its type is none that software writes.
    """
    if isinstance(item, h5py.Group):
        for name in item:
            check_arrays(item[name])
        return
    if item.dtype.kind in "iuf" and item.id.get_type() != h5py.h5t.py_create(item.dtype):
        raise ValueError(f"{item.name} is of a type of number that no software writes")
    if item.chunks and item.id.get_num_chunks() < prod(map(_num_chunks, item.shape, item.chunks)):
        raise ValueError(f"{item.name} lacks a part")


def _num_chunks(length: int, chunk: int) -> int:
    return ceil(length / chunk)


def _check_heaps(path: Path) -> None:
    """Walk the texts of a file as the library does, which never ends or reads beyond where a size in between is damaged."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        start = content.find(_COLLECTION)
        while start >= 0:
            _check_heap(content, start)
            start = content.find(_COLLECTION, start + 1)


def _check_heap(content: mmap, start: int) -> None:
    place = start + len(_COLLECTION) + _SIZE.size
    if place > len(content):
        raise ValueError("it ends within its texts")
    end = start + _SIZE.unpack_from(content, place - _SIZE.size)[0]
    if end > len(content):
        raise ValueError("it ends within its texts")
    while place + _OBJECT.size <= end:
        number, _, _, length = _OBJECT.unpack_from(content, place)
        step = length if number == _FREE_SPACE else _OBJECT.size + ceil(length / 8) * 8
        if step < _OBJECT.size or place + step > end:
            raise ValueError(f"its texts at byte {place} are garbled")
        place += step
