"""Compilation of loops over arrays, by numba, at the first call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numpy.typing import NDArray

Array = NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

# `reassoc` stays off: sums keep their order, so results are the same in every run and on every machine.
# Without the GIL, threads that prepare tiles run in parallel. Divisions by zero give infinity or NaN, as in NumPy.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def compiled(function: Function) -> Function:
    """Compile a function at its first call.

    Args:
        function: A function of arrays and numbers only.

    Returns:
        The compiled function. Its machine code is cached beside the file or in the user's cache folder. Where neither
        can be written, every process compiles the function again.
    """
    try:
        return cast("Function", numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # numba raises it if it can write no cache folder
        return cast("Function", numba.njit(**_OPTIONS)(function))
