"""Adding a multiple of a few adjacent numbers in one vector instruction, within code that numba compiles.

Numba makes vectors of long loops only: neither of a loop over four numbers nor of four statements in a row. So the
instructions are given to LLVM here. The cache of numba checks the file of a kernel only: after an edit here, touch `kernels.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from cifm_cli.jit import Array

LANES = 4  # numbers that are added at once: one vector of double precision


def _generate_add_multiple(
    typing_context: Any,  # noqa: ANN401
    out: types.Array,
    to: types.Integer,
    values: types.Array,
    start: types.Integer,
    factor: types.Float,
) -> tuple[Any, Callable[..., Any]]:
    """Signature of `add_multiple` for the types of its arguments, and the function that writes its instructions."""
    del typing_context, to, start, factor

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        """Write the instructions."""
        kind = context.get_value_type(out.dtype)
        vector, alignment = ir.VectorType(kind, LANES), context.get_abi_sizeof(kind)

        def pointer(position: int) -> Any:  # noqa: ANN401
            """Where the numbers of an array begin whose index is the next argument."""
            array = context.make_array(signature.args[position])(context, builder, arguments[position])
            first = builder.gep(array.data, [arguments[position + 1]])
            return builder.bitcast(first, vector.as_pointer())

        target = pointer(0)
        old, added = (builder.load(address, align=alignment) for address in (target, pointer(2)))
        factors = vector(ir.Undefined)
        for lane in range(LANES):
            factors = builder.insert_element(factors, arguments[4], ir.Constant(ir.IntType(32), lane))
        # `contract` allows one instruction for product and sum, as in the rest of the compiled code.
        product = builder.fmul(added, factors, flags=("contract",))
        builder.store(builder.fadd(old, product, flags=("contract",)), target, align=alignment)
        return context.get_dummy_value()

    return types.void(out, types.intp, values, types.intp, out.dtype), generate


add_multiple = cast("Callable[[Array, int, Array, int, float], None]", intrinsic(_generate_add_multiple))
"""`out[to : to + LANES] += factor * values[start : start + LANES]`, in compiled code only.

The arguments are `out`, `to`, `values`, `start` and `factor`. Arrays are contiguous and of the type of the factor. Indices are
not checked, and negative ones do not count from the end.
"""
