"""Checks of an HDF5 file before its content is read.

The HDF5 library trusts the file: it opens other files that the file names, allocates what an array claims to hold, and
crashes or loops forever on damaged texts.
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

import h5py
import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# HDF5 file format specification 3.0, III.E "Global Heap": texts of variable length are stored in collections of objects.
_COLLECTION, _VERSION = b"GCOL", b"\x01\0\0\0"
_TRUNCATED = -2  # result of `_check_heap`
_SEARCHED_AT_ONCE = 1 << 20  # bytes

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
    plain: list[tuple[int, int]] = []  # first byte and end of arrays
    for array in _arrays(file):
        claimed += check_array(array)
        # Arrays of texts hold references to the texts.
        if (offset := array.id.get_offset()) is not None:
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
    content, position = _map_file(path), 0
    for start, stop in (*sorted(without), (len(content), len(content))):
        for heap in _find_collections(content, position, start):
            _require_valid_heap(content, heap)
        position = max(position, stop)


def _map_file(path: Path | str) -> NDArray[np.uint8]:
    """The content of a file, mapped and not read, so that a search needs little memory of its own."""
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except OSError:  # some network file systems cannot map files
        return np.fromfile(path, dtype=np.uint8)


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


def _find_collections(content: NDArray[np.uint8], first: int, end: int) -> Iterator[int]:
    """Positions of all collections of texts between two positions of a file."""
    # Collections are found by their signature, as the library reaches them through references all over the file.
    for start in range(first, end, _SEARCHED_AT_ONCE):
        # The search in bytes is several times faster than that in a mapped file.
        block = content[start : start + _SEARCHED_AT_ONCE + 7].tobytes()
        found = block.find(_COLLECTION)
        while 0 <= found < _SEARCHED_AT_ONCE:
            if block[found + 4 : found + 8] == _VERSION:
                yield start + found
            found = block.find(_COLLECTION, found + 1)


def _require_valid_heap(content: NDArray[np.uint8], start: int) -> None:
    """Raise a `ValueError` if a size in a collection of texts is wrong."""
    wrong = _check_heap(content, start)
    if wrong == _TRUNCATED:
        raise ValueError("the file ends within its texts")
    if wrong >= 0:
        raise ValueError(f"the texts at byte {wrong} are damaged")


@compiled
def _check_heap(content: NDArray[np.uint8], start: int) -> int:
    """Position of the first object whose size is wrong; negative if the file ends first (-2), or for none (-1)."""
    offset = start + 16  # the signature, and the size of the collection in 8 bytes
    if offset > len(content):
        return -2
    size = _read_size(content, offset - 8)
    # A truncated file ends within a collection.
    if size < 0 or size > len(content) - start:
        return -2
    # Each object has a number (2 bytes), a reference count (2), 4 reserved bytes and its size in 8 bytes.
    while offset + 16 <= start + size:
        number, length = content[offset] + 256 * content[offset + 1], _read_size(content, offset + 8)
        # A length beyond the file, or one that does not fit into 63 bits.
        if length < 0 or length > len(content):
            return offset
        # Objects are padded to a multiple of 8 bytes. Number 0 stands for the unused rest of the collection.
        step = length if number == 0 else 16 + (length + 7) // 8 * 8
        # A step of zero would never reach the end, and one that is too long leaves the collection.
        if step < 16 or offset + step > start + size:
            return offset
        offset += step
    return -1


@compiled
def _read_size(content: NDArray[np.uint8], offset: int) -> int:
    """A little-endian number of 8 bytes."""
    size = np.int64(0)
    for byte in range(8):
        size |= np.int64(content[offset + byte]) << np.int64(8 * byte)
    return int(size)
