"""Storage of features in the fused backend: float32, float64, or bfloat16, which numba handles as 16-bit integers.

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
    """(N, D) numbers whose rows need not be contiguous, such as a slice of the columns of a wider matrix."""

    flat: Array  # memory from the first entry to the last; bfloat16, which numba lacks, as its bits
    stride: int  # number of entries from one row to the next


@inlined
def part(matrix: Rows, i: int, width: int) -> Array:
    """The stored numbers of cell i, to write to."""
    return matrix.flat[i * matrix.stride : i * matrix.stride + width]


@inlined
def row(matrix: Rows, i: int, buffer: Array) -> Array:
    """Features of cell i: a view of the memory, or, for bfloat16, the buffer after the values are widened into it."""
    return widen(matrix.flat[i * matrix.stride : i * matrix.stride + len(buffer)], buffer)


def widen(values: Array, buffer: Array) -> Array:
    """The values themselves, or, for bits of bfloat16, the buffer after they are widened to float32 in it."""
    raise NotImplementedError("in compiled code only")


@overload(widen, strict=False)
def _widen_by_type(values: types.Array, buffer: types.Array) -> Callable[[Any, Any], Any]:
    def same(values: Array, buffer: Array) -> Array:
        """Return the values, which need no conversion."""
        return values

    def wide(values: Array, buffer: Array) -> Array:
        """Convert bfloat16 to float32 in the buffer."""
        for d in range(len(buffer)):  # the bits of bfloat16 are the upper half of those of float32
            buffer[d] = np.int32(np.int32(values[d]) << np.int32(16)).view(np.float32)
        return buffer

    return wide if values.dtype == types.int16 else same


def store(values: Array, out: Array) -> None:
    """Out = values, rounded to the bits of bfloat16 if `out` has the type of bits."""
    raise NotImplementedError("in compiled code only")


@overload(store, strict=False)
def _store_by_type(values: types.Array, out: types.Array) -> Callable[[Any, Any], None]:
    def same(values: Array, out: Array) -> None:
        """Copy the values."""
        for d in range(len(out)):
            out[d] = values[d]

    def narrow(values: Array, out: Array) -> None:
        """Round float32 to bfloat16."""
        for d in range(len(out)):
            # Adding just under half of the last bit kept, and one more if that bit is odd, carries into it where
            # rounding is up.
            bits = np.float32(values[d]).view(np.int32)
            rounded = bits + np.int32(0x7FFF) + (bits >> np.int32(16) & np.int32(1))  # to the nearest, ties to even
            narrow_bits = np.int32(rounded >> np.int32(16))
            # Rounding the bits of a NaN could turn it into infinity.
            out[d] = narrow_bits if values[d] == values[d] else np.int32(0x7FC0)  # NaN

    return narrow if out.dtype == types.int16 else same
