"""Checks that a matrix holds raw counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

LARGEST_COUNT = 1 << 24  # the largest range in which float32, the type of stored counts, holds every whole number
_LARGEST_LOG = 20.0  # above the logarithm of any count


def bad_count(values: NDArray[Any]) -> int | None:
    """Find the first value that is not a count.

    Args:
        values: (n,) values.

    Returns:
        Position of the first negative, NaN, fractional, too large or Boolean value; None if all are counts.
    """
    # A Boolean matrix contains the positions of counts without their values.
    if values.dtype.kind == "b":
        return 0 if len(values) else None
    with np.errstate(invalid="ignore"):  # comparing NaN is intended
        good = (values >= 0) & (values <= LARGEST_COUNT)
        # Integers cannot be fractions, and need no temporary array.
        if values.dtype.kind == "f":
            good &= np.floor(values) == values
    return None if good.all() else int(np.argmin(good))


def check_counts(counts: csr_matrix, barcodes: pd.Index[str], names: pd.Series[str], where: str, hint: str) -> None:
    """Raise an error for a matrix that does not hold raw counts.

    Args:
        counts: (N, G) values.
        barcodes: N names of its rows.
        names: G names of its columns.
        where: The file and slot of the matrix, for the message.
        hint: Where raw counts are available; may be empty.

    Raises:
        CifmError: A value is not a count; the message names its cell and gene.
    """
    position = bad_count(counts.data)
    if position is None:
        return
    value = float(counts.data[position])
    # The row whose range of positions contains this one; empty rows before it are skipped by `right`.
    row = int(np.searchsorted(counts.indptr, position, side="right")) - 1
    address = f"cell {barcodes[row]!r}, gene {names.iloc[counts.indices[position]]!r}"
    raise CifmError(
        f"{where}: {value:g} in {address} is not a count{_normalisation(counts.data)}",
        hint or "give the raw counts as the instrument's software wrote them",
    )


def _normalisation(values: NDArray[Any]) -> str:
    """How values that are not counts were probably made; empty if unclear."""
    if values.dtype.kind != "f" or not np.isfinite(values).all() or np.array_equal(np.floor(values), values):
        return ""
    # Scaling to zero mean gives negative fractions; negative whole numbers have an unknown origin.
    if (values < 0).any():
        return "" if bad_count(np.abs(values)) is None else "; the matrix looks scaled"
    return "; the matrix looks log-normalised" if values.max() < _LARGEST_LOG else "; the matrix looks normalised"
