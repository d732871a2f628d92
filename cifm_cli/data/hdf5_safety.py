"""Checks of an HDF5 file before its content is read.

The HDF5 library trusts the file: it opens other files that the file names, allocates what an array claims to hold, and
crashes or loops forever on damaged texts.
"""

from __future__ import annotations

from contextlib import contextmanager
from math import ceil, prod
from mmap import ACCESS_READ, mmap
from struct import Struct
from typing import TYPE_CHECKING

import h5py

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# HDF5 file format specification 3.0, III.E "Global Heap": texts of variable length are stored in collections of objects.
_COLLECTION = b"GCOL\x01\0\0\0"
_SIZE = Struct("<Q")
_OBJECT = Struct("<HHIQ")  # number, reference count, reserved, size in bytes
_FREE_SPACE = 0  # number of the object that stands for the unused rest of a collection

_MAX_DEPTH = 32  # groups within groups; libraries read them by recursion
_MAX_ITEMS = 100_000  # groups and arrays of a file
_MAX_RATIO = 1_100  # bytes per stored byte of one array; that of deflate is below 1,032
_MAX_FILE_RATIO = 100  # bytes of all arrays per byte of the file; that of compressed counts is below 20
_SMALL = 1 << 20  # bytes that are allowed with any ratio


def check_content(file: h5py.File) -> None:
    """Check the links, sizes and texts of a file. No array is read.

    Args:
        file: The open file.

    Raises:
        ValueError: The file refers to another file, an array is larger than the stored bytes can hold, or texts are
            damaged. HDF5 raises other exceptions for other damage.
    """
    path, claimed = file.filename, 0
    plain: list[tuple[int, int]] = []  # first byte and end of arrays that hold numbers
    for array in _arrays(file):
        claimed += check_array(array)
        if (offset := array.id.get_offset()) is not None and array.dtype.kind in "iufb":
            plain.append((offset, offset + array.id.get_storage_size()))
    if claimed > max(_SMALL, _MAX_FILE_RATIO * file.id.get_filesize()):
        raise ValueError(f"its arrays claim {claimed:,} bytes, the file has {file.id.get_filesize():,}")
    check_heaps(path, plain)


def check_array(array: h5py.Dataset) -> int:
    """Check that an array is stored in the file, in the size that it claims.

    Args:
        array: The array.

    Returns:
        The size that it claims, bytes.

    Raises:
        ValueError: The array is in another file, is not stored completely, cannot be decompressed, or has a damaged
            number type.
    """
    name, settings = array.name, array.id.get_create_plist()
    if settings.get_layout() == h5py.h5d.VIRTUAL or settings.get_external_count():
        raise ValueError(f"{name} is stored in another file")
    filters = [settings.get_filter(number) for number in range(settings.get_nfilters())]
    for code, _, _, title in filters:
        if not h5py.h5z.filter_avail(code):
            raise ValueError(f"{name} is compressed by a method that is not installed ({title.decode()!r}, {code})")
    check_number_type(array)
    item_size = array.id.get_type().get_size()
    claimed, stored = (array.size or 0) * item_size, array.id.get_storage_size()
    if array.chunks and claimed:
        check_chunks(array)
        # A chunk is decompressed as a whole, however small the array is.
        claimed = max(claimed, prod(array.chunks) * item_size)
    limit = stored * _MAX_RATIO if filters else stored if not array.chunks else stored + _SMALL
    if claimed > max(limit, _SMALL if filters or array.chunks else 0):
        raise ValueError(f"{name} claims {claimed:,} bytes, stored are {stored:,}")
    return int(claimed)


def check_number_type(array: h5py.Dataset) -> None:
    """Check the number type of an array; raises a `ValueError` for a damaged one."""
    # h5py derives the NumPy type from the size and byte order alone, so a damaged offset or precision shows only here.
    if array.dtype.kind in "iuf" and array.id.get_type() != h5py.h5t.py_create(array.dtype):
        raise ValueError(f"{array.name} has a damaged number type")


def check_chunks(array: h5py.Dataset) -> None:
    """Check that every chunk of an array is stored, as HDF5 reads a missing one as zeros; raises a `ValueError`."""
    if array.id.get_num_chunks() < prod(map(_num_chunks, array.shape, array.chunks)):
        raise ValueError(f"{array.name} lacks a chunk")


def check_heaps(path: Path | str, without: Iterable[tuple[int, int]] = ()) -> None:
    """Check the sizes of all stored texts; with a wrong size, the library loops forever or reads beyond the end.

    Args:
        path: The file.
        without: Ranges of bytes that hold no texts.

    Raises:
        ValueError: A size is wrong.
    """
    with _mapped(path) as content:
        position = 0
        for start, stop in (*sorted(without), (len(content), len(content))):
            _check_heaps_between(content, position, start)
            position = max(position, stop)


@contextmanager
def _mapped(path: Path | str) -> Iterator[mmap | bytes]:
    """The content of a file, mapped and not read: a search touches every byte, but needs no memory of its own."""
    with open(path, "rb") as file:  # noqa: PTH123 - may be text
        try:
            content = mmap(file.fileno(), 0, access=ACCESS_READ)
        except OSError:  # some network file systems cannot map files
            yield file.read()
            return
        with content:
            yield content


def _arrays(file: h5py.File) -> Iterator[h5py.Dataset]:
    """All arrays of a file. Raises a `ValueError` for links that leave the tree of groups, or a group within itself."""
    waiting, seen, num_items = [(file["/"], 0)], set(), 0
    while waiting:
        group, depth = waiting.pop()
        for name in group:
            leaves = not isinstance(group.get(name, getlink=True), h5py.HardLink)
            if leaves:
                raise ValueError(f"{group.name.rstrip('/')}/{name} is a link to another place or file")
            item, num_items = group[name], num_items + 1
            if num_items > _MAX_ITEMS:
                raise ValueError(f"it has more than {_MAX_ITEMS:,} groups and arrays")
            if isinstance(item, h5py.Dataset):
                yield item
            elif isinstance(item, h5py.Group):
                address = h5py.h5o.get_info(item.id).addr
                if address in seen or depth == _MAX_DEPTH:
                    raise ValueError(f"groups are nested too deeply, or within themselves: {item.name[:80]}")
                seen.add(address)
                waiting.append((item, depth + 1))


def _num_chunks(length: int, chunk: int) -> int:
    return ceil(length / chunk)


def _check_heaps_between(content: mmap | bytes, first: int, end: int) -> None:
    start = content.find(_COLLECTION, first, end)
    while start >= 0:
        _check_heap(content, start)
        # Collections are found by their signature, as the library reaches them through references all over the file.
        start = content.find(_COLLECTION, start + 1, end)


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
