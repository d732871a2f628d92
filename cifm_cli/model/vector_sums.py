"""Vector instructions for a few adjacent numbers, within code that numba compiles.

Numba makes vectors of long loops only: neither of a loop over four numbers nor of four statements in a row. So the
instructions are given to LLVM here. The cache of numba checks the file of a kernel only: after an edit here, touch `kernels.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cifm_cli.jit import Array

LANES = 4  # numbers of a short vector
_INDEX = ir.IntType(32)


class _Instructions:
    """Loads, stores and permutations of vectors of one type of numbers.

    Args:
        context: Of the compilation.
        builder: Writes instructions.
        dtype: Type of the numbers.
    """

    def __init__(self, context: Any, builder: Any, dtype: types.Type) -> None:  # noqa: ANN401
        self._context, self._builder = context, builder
        self._number = context.get_value_type(dtype)
        self._alignment = context.get_abi_sizeof(self._number)

    def pointer(self, kind: types.Array, array: Any, index: Any, length: int) -> Any:  # noqa: ANN401
        """Where the `length` numbers of an array begin that start at an index."""
        data = self._context.make_array(kind)(self._context, self._builder, array).data
        vector = ir.VectorType(self._number, length)
        return self._builder.bitcast(self._builder.gep(data, [index]), vector.as_pointer())

    def load(self, pointer: Any) -> Any:  # noqa: ANN401
        """The numbers at a pointer."""
        return self._builder.load(pointer, align=self._alignment)

    def store(self, vector: Any, pointer: Any) -> None:  # noqa: ANN401
        """Write numbers to a pointer."""
        self._builder.store(vector, pointer, align=self._alignment)

    def permute(self, one: Any, other: Any, lanes: Sequence[int]) -> Any:  # noqa: ANN401
        """The numbers at some places of two vectors, those of the second numbered after those of the first."""
        return self._builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INDEX, len(lanes)), list(lanes)))


def _generate_add_products(
    typing_context: Any,  # noqa: ANN401
    out: types.Array,
    to: types.Integer,
    factors: types.Array,
    first: types.Integer,
    values: types.Array,
    start: types.Integer,
) -> tuple[Any, Callable[..., Any]]:
    """Signature of `add_products` for the types of its arguments, and the function that writes its instructions."""
    del typing_context, to, first, start

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        """Write the instructions."""
        does, lanes = _Instructions(context, builder, out.dtype), range(LANES)
        kinds = signature.args
        own, other = (does.load(does.pointer(kinds[n], arguments[n], arguments[n + 1], LANES)) for n in (2, 4))
        by_row = does.permute(own, own, [row for row in lanes for _ in lanes])
        by_column = does.permute(other, other, [column for _ in lanes for column in lanes])
        target = does.pointer(kinds[0], arguments[0], arguments[1], LANES * LANES)
        # `contract` allows one instruction for product and sum, as in the rest of the compiled code.
        product = builder.fmul(by_row, by_column, flags=("contract",))
        does.store(builder.fadd(does.load(target), product, flags=("contract",)), target)
        return context.get_dummy_value()

    return types.void(out, types.intp, factors, types.intp, values, types.intp), generate


def _generate_transpose(
    typing_context: Any,  # noqa: ANN401
    out: types.Array,
    to: types.Integer,
    step: types.Integer,
    values: types.Array,
    start: types.Integer,
    stride: types.Integer,
) -> tuple[Any, Callable[..., Any]]:
    """Signature of `transpose` for the types of its arguments, and the function that writes its instructions."""
    del typing_context, to, step, start, stride

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        """Write the instructions."""
        does = _Instructions(context, builder, out.dtype)

        def pointers(n: int) -> list[Any]:
            """Where the rows of the array begin that is argument `n`, followed by its first index and its step."""
            array, index, step = arguments[n : n + 3]
            found = []
            for _ in range(LANES):
                found.append(does.pointer(signature.args[n], array, index, LANES))
                index = builder.add(index, step)
            return found

        a, b, c, d = (does.load(pointer) for pointer in pointers(3))
        # Pairs of numbers of two rows, then of four.
        ab, cd = (
            [does.permute(one, other, lanes) for lanes in ([0, 4, 1, 5], [2, 6, 3, 7])]
            for one, other in ((a, b), (c, d))
        )
        columns = [does.permute(ab[half], cd[half], lanes) for half in (0, 1) for lanes in ([0, 1, 4, 5], [2, 3, 6, 7])]
        for column, pointer in zip(columns, pointers(0), strict=True):
            does.store(column, pointer)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, values, types.intp, types.intp), generate


add_products = cast("Callable[[Array, int, Array, int, Array, int], None]", intrinsic(_generate_add_products))
"""`out[to + LANES * r + c] += factors[first + r] * values[start + c]` for r and c below `LANES`, in compiled code only.

The arguments are `out`, `to`, `factors`, `first`, `values` and `start`. Arrays are contiguous and of one type. Indices are not
checked, and negative ones do not count from the end.
"""

transpose = cast("Callable[[Array, int, int, Array, int, int], None]", intrinsic(_generate_transpose))
"""`out[to + step * c + r] = values[start + stride * r + c]` for r and c below `LANES`, in compiled code only.

The arguments are `out`, `to`, `step`, `values`, `start` and `stride`; otherwise as for `add_products`.
"""
