"""Checks of index files of hnswlib, whose search follows the links of a file wherever they point.

A file is a header of 96 bytes, then a record for each of the n items (number of links, up to M0 links, D values, label),
then for each item the length of its links on upper levels and these links, up to M for each level.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.jit import Array

_HEADER: Final = struct.Struct("<QQQQQQiIQQQdQ")
_MAX_LINKS: Final = 10_000  # of an item on a level; usual are 16 to 128
_ROWS_AT_ONCE: Final = 100_000
_TOO_LONG, _OUTSIDE, _ENDS_EARLY = "a list of links is too long", "a link or a label points outside", "it ends early"


def check_index(path: Path, num_items: int, num_dimensions: int) -> None:
    """Check that all links and labels of an index point to its items.

    Args:
        path: The file.
        num_items: Number of labelled cells, n.
        num_dimensions: Size of an embedding, D.

    Raises:
        OSError: The file cannot be read.
        ValueError: The index is damaged, or has another number of items or dimensions.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or size % 4:
        raise ValueError("no index of hnswlib")
    links_at, _, num_stored, record, label, vector, top_level, entry, max_links, max_links_0, *_ = _HEADER.unpack(head)
    if num_stored != num_items:
        raise ValueError(f"{num_items:,} labels for {num_stored:,} labelled cells")
    expected = 0, 4 * (max_links_0 + 1), 4 * (max_links_0 + 1 + num_dimensions), 4 * (max_links_0 + 3 + num_dimensions)
    if max(max_links, max_links_0) > _MAX_LINKS or (links_at, vector, label, record) != expected:
        raise ValueError(f"its records are not those of {num_dimensions} dimensions")
    if _HEADER.size + num_items * (record + 4) > size or entry >= num_items:
        raise ValueError(_ENDS_EARLY)
    # Lengths of all parts are multiples of four bytes.
    words = np.asarray(np.memmap(path, dtype="<u4", mode="r", offset=_HEADER.size))
    records = words[: num_items * record // 4].reshape(num_items, record // 4)
    for first in range(0, num_items, _ROWS_AT_ONCE):
        _check_records(records[first : first + _ROWS_AT_ONCE], num_items, int(max_links_0))
    starts, levels = np.zeros(num_items, np.int64), np.zeros(num_items, np.int64)
    if _find_lists(words, records.size, 4 * (int(max_links) + 1), starts, levels) != len(words):
        raise ValueError(_ENDS_EARLY)
    if top_level != levels[entry] or top_level != levels.max():
        raise ValueError("it has other levels of links than it says")
    _check_lists(words, starts, levels, int(max_links))


def _check_records(records: Array, num_items: int, max_links: int) -> None:
    """Check links and labels of some items on the lowest level."""
    num_links, links, label = records[:, 0], records[:, 1 : 1 + max_links], records[:, -2:]
    # The upper half of the word marks deleted items, of which a search finds too few.
    if (num_links > max_links).any():
        raise ValueError(_TOO_LONG)
    is_used = np.arange(max_links) < num_links[:, None]
    if (is_used & (links >= num_items)).any() or (label[:, 0] >= num_items).any() or label[:, 1].any():
        raise ValueError(_OUTSIDE)


@compiled
def _find_lists(words: Array, position: int, list_bytes: int, starts: Array, levels: Array) -> int:
    """Find the upper lists of each item: the first word of the lists, and their number. Returns the position behind them."""
    for item in range(len(starts)):
        if position >= len(words) or words[position] % list_bytes != 0:
            return -1
        starts[item], levels[item] = position + 1, words[position] // list_bytes
        position += 1 + words[position] // 4
    return position


def _check_lists(words: Array, starts: Array, levels: Array, max_links: int) -> None:
    """Check the links on upper levels, which must lead to items that have links on this level."""
    level = np.arange(levels.sum()) - np.repeat(np.cumsum(levels) - levels, levels)
    first = np.repeat(starts, levels) + level * (max_links + 1)
    lists = words[first[:, None] + np.arange(max_links + 1)]
    num_links, links = lists[:, 0], lists[:, 1:]
    if (num_links > max_links).any():
        raise ValueError(_TOO_LONG)
    is_used = np.arange(max_links) < num_links[:, None]
    if (links[is_used] >= len(levels)).any() or (levels[links[is_used]] <= np.repeat(level, num_links)).any():
        raise ValueError(_OUTSIDE)
