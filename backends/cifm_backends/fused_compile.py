"""Compilation of the fused backend by numba, at the first call, with a cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Scalar = np.floating[Any]
Function = TypeVar("Function", bound=Callable[..., Any])


def exact(function: Function) -> Function:
    """Compile a function at its first call. Sums keep their order."""
    # `contract` allows fused multiply-adds, which change rounding but not the order of a sum.
    return _compile(function, {"fastmath": {"contract"}})


def fast(function: Function) -> Function:
    """Compile a function that allocates no memory, with reordered sums. The order is the same in every run.

    NaN and infinity are preserved. Numba's runtime (`_nrt`) is off, so slices have no reference counts: counting would
    take more time than the arithmetic, and threads would wait for each other.
    """
    # `nnan` and `ninf` stay off: with them LLVM may assume that no value is NaN or infinite.
    return _compile(function, {"fastmath": {"reassoc", "contract", "nsz"}, "_nrt": False})


def _compile(function: Function, options: dict[str, Any]) -> Function:
    """Cache the machine code beside the file or in the user's cache folder, or not at all if neither can be written."""
    # Without the GIL ranges of rows run in parallel. With the error model of NumPy a division by zero gives infinity
    # instead of a branch that raises, which LLVM could not vectorise.
    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return cast("Function", numba.njit(cache=True, **options)(function))
    except RuntimeError:  # numba raises it if it can write no cache folder
        return cast("Function", numba.njit(**options)(function))


def inlined(function: Function) -> Function:
    """Inline a function into `fast` code: a call would push every array of its tuples on the stack."""
    return cast("Function", numba.njit(inline="always")(function))
