"""Which cells and counts may enter a prepared slide, each refusal and each drop with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

LARGEST_COUNT = 1 << 24  # beyond it float32, the type of counts in a slide, leaves out whole numbers
_LARGEST_LOG = 20.0  # log of a count never gets there


def bad_count(values: NDArray[Any]) -> int | None:
    """Position of the first value that is no count (negative, NaN, fractional, too large, true); None when all are."""
    if values.dtype.kind == "b":  # says where counts are, not which
        return 0 if len(values) else None
    with np.errstate(invalid="ignore"):  # a NaN is what is looked for
        good = (values >= 0) & (values <= LARGEST_COUNT)
        if values.dtype.kind == "f":
            good &= np.floor(values) == values
    return None if good.all() else int(np.argmin(good))


def check_counts(counts: csr_matrix, barcodes: pd.Index[str], names: pd.Series[str], where: str, instead: str) -> None:
    """Refuse a matrix that does not hold raw counts.

    Args:
        counts: (N, G) values.
        barcodes: N names of its rows.
        names: G names of its columns.
        where: The file and slot of the matrix, for the message.
        instead: Where raw counts are to be had, for the hint; may be empty.

    Raises:
        CifmError: A value is negative, NaN, fractional or too large for any count; the message names its cell and gene.
    """
    position = bad_count(counts.data)
    if position is None:
        return
    value = float(counts.data[position])
    row = int(np.searchsorted(counts.indptr, position, side="right")) - 1
    address = f"cell {barcodes[row]!r}, gene {names.iloc[counts.indices[position]]!r}"
    raise CifmError(
        f"{where}: {value:g} in {address} is not a count{_guess(counts.data)}",
        instead or "give the raw counts as the instrument's software wrote them",
    )


def _guess(values: NDArray[Any]) -> str:
    if values.dtype.kind != "f" or not np.isfinite(values).all() or np.array_equal(np.floor(values), values):
        return ""
    if (values < 0).any():
        return "" if bad_count(np.abs(values)) is None else "; the matrix looks scaled"
    return "; the matrix looks log-normalised" if values.max() < _LARGEST_LOG else "; the matrix looks normalised"


def parse_crop(text: str) -> tuple[float, float, float, float]:
    """Read `x0,y0,x1,y1` in micrometres.

    Args:
        text: What the user gave to `--crop`.

    Returns:
        The corners, the lower one first.

    Raises:
        CifmError: It is not four numbers that span an area.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        x0 = y0 = x1 = y1 = 0.0
    if not (x0 < x1 and y0 < y1):
        raise CifmError(f"--crop {text}: not a rectangle", "write x0,y0,x1,y1 in micrometres, such as 0,0,1000,500")
    return x0, y0, x1, y1


def reasons_to_drop(
    xy_um: NDArray[np.float64],
    total_counts: NDArray[np.float64],
    in_tissue: NDArray[np.bool_] | None,
    crop: tuple[float, float, float, float] | None,
) -> dict[str, NDArray[np.bool_]]:
    """Cells that do not enter the slide, by reason; a cell counts for the first reason that holds.

    Args:
        xy_um: (N, 2) positions.
        total_counts: (N,) counts over the kept genes.
        in_tissue: (N,) or None when all cells are.
        crop: x0, y0, x1, y1 in micrometres, or None.

    Returns:
        Reason to (N,) mask; masks are disjoint.
    """
    low, high = (crop[:2], crop[2:]) if crop else (-np.inf, np.inf)
    masks = {
        "no position": ~np.isfinite(xy_um).all(axis=1),
        "not in tissue": np.zeros(len(xy_um), dtype=bool) if in_tissue is None else ~in_tissue,
        "outside the crop": ((xy_um < low) | (xy_um > high)).any(axis=1),
        "void (no counts)": total_counts == 0,
    }
    taken = np.zeros(len(xy_um), dtype=bool)
    for reason, mask in masks.items():
        masks[reason] = mask & ~taken
        taken |= mask
    return masks
