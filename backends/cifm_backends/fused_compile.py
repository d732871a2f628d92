"""How the fused backend's code is compiled: with numba, at the first call, and kept on disk."""

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
    """Compile at the first call."""
    return _compile(function, {"fastmath": {"contract"}})


def fast(function: Function) -> Function:
    """Compile code that allocates nothing and whose sums may be reordered, alike in every run.

    NaN and infinity keep their meaning. Without numba's runtime (`_nrt`) no slice counts references: that would cost
    more than the arithmetic, and make threads wait for each other.
    """
    return _compile(function, {"fastmath": {"reassoc", "contract", "nsz"}, "_nrt": False})


def _compile(function: Function, options: dict[str, Any]) -> Function:
    """Keep the machine code beside the file, or in the user's cache; where neither can be written, don't keep it."""
    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return cast("Function", numba.njit(cache=True, **options)(function))
    except RuntimeError:
        return cast("Function", numba.njit(**options)(function))


def inlined(function: Function) -> Function:
    """Paste into `fast` code: a call would push every array of a tuple on the stack."""
    return cast("Function", numba.njit(inline="always")(function))
