"""Ranges of rows of a CSR matrix that hold a bounded number of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK_NONZEROS = 1 << 22  # 50 MB as 10x stores them, ten times that while they are checked


def row_ranges(indptr: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Cut a matrix into ranges of rows with at most `BLOCK_NONZEROS` values, or one row.

    Args:
        indptr: (N + 1,) row pointers.

    Yields:
        The first row of a range, and the row after its last one.
    """
    first, num_rows = 0, len(indptr) - 1
    while first < num_rows:
        # Row pointers ascend, so the last row that fits is found by bisection.
        full = int(np.searchsorted(indptr, indptr[first] + BLOCK_NONZEROS, side="right")) - 1
        # A single row may exceed the limit; without the maximum, the loop would not advance.
        last = min(max(full, first + 1), num_rows)
        yield first, last
        first = last
