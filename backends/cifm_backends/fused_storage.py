"""How features lie in memory for the fused backend: float32, float64, or bfloat16, which numba knows as 16 bits only.

After an edit here, touch `fused_kernels.py`. Letters: N cells, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from cifm_backends.fused_compile import Array, inlined

if TYPE_CHECKING:
    from collections.abc import Callable


class Rows(NamedTuple):
    """(N, D) numbers whose rows may lie apart, as those of a slice of a wider matrix do.

    Args:
        flat: Memory from the first entry to the last; bfloat16, which numba does not know, comes as its bits.
        stride: Entries from one row to the next.
    """

    flat: Array
    stride: int


@inlined
def row(matrix: Rows, i: int, room: Array) -> Array:
    """Features of cell i: a view of memory, or, where they are bfloat16, the room filled with them."""
    return widen(matrix.flat[i * matrix.stride : i * matrix.stride + len(room)], room)


def widen(values: Array, room: Array) -> Array:
    """The values, or, from the bits of bfloat16, which are the upper half of a float32, the room filled with them."""
    raise NotImplementedError("in compiled code only")


@overload(widen, strict=False)
def _widen_by_type(values: types.Array, room: types.Array) -> Callable[[Any, Any], Any]:
    def same(values: Array, room: Array) -> Array:
        return values

    def wide(values: Array, room: Array) -> Array:
        for d in range(len(room)):
            room[d] = np.int32(np.int32(values[d]) << np.int32(16)).view(np.float32)
        return room

    return wide if values.dtype == types.int16 else same


def store(values: Array, out: Array) -> None:
    """Out = values, rounded to the bits of bfloat16 where those are what out holds."""
    raise NotImplementedError("in compiled code only")


@overload(store, strict=False)
def _store_by_type(values: types.Array, out: types.Array) -> Callable[[Any, Any], None]:
    def same(values: Array, out: Array) -> None:
        for d in range(len(out)):
            out[d] = values[d]

    def narrow(values: Array, out: Array) -> None:
        for d in range(len(out)):
            bits = np.float32(values[d]).view(np.int32)
            rounded = bits + np.int32(0x7FFF) + (bits >> np.int32(16) & np.int32(1))  # to the nearest, ties to even
            known = np.int32(rounded >> np.int32(16))
            out[d] = known if values[d] == values[d] else np.int32(0x7FC0)  # NaN

    return narrow if out.dtype == types.int16 else same
