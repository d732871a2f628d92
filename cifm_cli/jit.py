"""How loops over arrays are compiled: by numba, at the first call, and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

# Floats keep their order of summation, so results are the same in every run and on every machine.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def compiled(function: Function) -> Function:
    """Compile a function at its first call.

    Args:
        function: Takes arrays and numbers only.

    Returns:
        The compiled function. Its machine code is kept beside the file or in the user's cache; where neither can be
        written, it is compiled anew in each process.
    """
    try:
        return cast("Function", numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:
        return cast("Function", numba.njit(**_OPTIONS)(function))
