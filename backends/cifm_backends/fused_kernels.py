"""Compiled loops of the fused backend: each walks rows of a graph once and keeps no more than one edge in memory.

A kernel runs on a range of rows, so that ranges run on threads side by side; whoever owns a row writes it, so nothing
is shared and sums have one order. Inner loops run over features that lie together in memory, for LLVM to vectorise.
Letters: N cells, E edges j -> i, D features, H heads, B radial basis functions, padded by zeros to a multiple of 3.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Sums may be reordered by the compiler, the same way in every run; NaN and infinity keep their meaning.
COMPILE = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
# Without `reassoc`: the two halves of log 2 must not be merged.
COMPILE_EXACT = COMPILE | {"fastmath": {"contract"}}

BASIS_GROUP = 3
TAYLOR_32 = tuple(np.float32(1 / math.factorial(n)) for n in range(6, -1, -1))
TAYLOR_64 = tuple(1 / math.factorial(n) for n in range(13, -1, -1))


class Rows(NamedTuple):
    """An (N, D) matrix whose rows are contiguous and may lie apart, as slices of a wider matrix do.

    Args:
        flat: Memory from the first entry to the last.
        stride: Entries from one row to the next.
    """

    flat: NDArray[Any]
    stride: int


class Layer(NamedTuple):
    """What a kernel reads, in float32 or float64.

    Args:
        indptr: (N + 1,) rows of the graph, or of its transpose.
        sources: (E,) j of each edge.
        targets: (E,) i of each edge.
        displacement: (E, 2) in radii.
        query: (N, D) Q.
        key: (N, D) K.
        target: (N, D) A.
        source: (N, D) B.
        radial: (B, D) C transposed.
        coordinate: (D,) v.
        shift: (N, 2) in radii.
        num_heads: H.
    """

    indptr: NDArray[np.int64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    displacement: NDArray[Any]
    query: Rows
    key: Rows
    target: Rows
    source: Rows
    radial: NDArray[Any]
    coordinate: NDArray[Any]
    shift: NDArray[Any]
    num_heads: int
