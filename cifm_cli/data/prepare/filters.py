"""Which cells of a download enter the prepared slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def reasons_to_drop(
    xy_um: NDArray[np.float64],
    total_counts: NDArray[np.float64],
    in_tissue: NDArray[np.bool_] | None,
    crop: tuple[float, float, float, float] | None,
    outside_depths: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """Find the cells that are dropped, by reason; a cell is counted for the first reason that applies.

    Args:
        xy_um: (N, 2) positions, micrometres.
        total_counts: (N,) counts over the kept genes.
        in_tissue: (N,) whether a cell lies in the tissue; None if all do.
        crop: x0, y0, x1, y1 in micrometres; None for no crop.
        outside_depths: (N,) whether a cell is at another depth than those asked for; None if all depths are kept.

    Returns:
        Reason to (N,) mask; the masks are disjoint.
    """
    none = np.zeros(len(xy_um), dtype=bool)
    low, high = (crop[:2], crop[2:]) if crop else (-np.inf, np.inf)
    masks = {
        # In order of precedence.
        "no position": ~np.isfinite(xy_um).all(axis=1),
        "not in tissue": none if in_tissue is None else ~in_tissue,
        "at another depth": none if outside_depths is None else outside_depths,
        "outside the crop": ((xy_um < low) | (xy_um > high)).any(axis=1),
        "void (no counts)": total_counts == 0,
    }
    dropped = np.zeros(len(xy_um), dtype=bool)
    for reason, mask in masks.items():
        # Disjoint masks, so that the numbers in the report add up to the number of dropped cells.
        masks[reason] = mask & ~dropped
        dropped |= mask
    return masks
