"""Proposed placements: the places of the greatest sensitivity that are apart, each checked by prediction of the tissue.

Letters: X places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd

from cifm_cli.simulation.tissue import InjectedCells, inject

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.simulation.sensitivity.added_cells import AddedCells
    from cifm_cli.simulation.sensitivity.full_recomputation import FullRecomputation

Goal = Literal["raise", "lower"]
"""Whether edits are searched that raise or that lower the target."""

SPACING_RADII: Final = 2.0  # smallest distance of two proposals in radii: no cell receives messages of both


def propose_places(values: NDArray[np.float64], xy_um: NDArray[np.float64], number: int, spacing_um: float) -> Rows:
    """Choose places one after the other: the greatest value among those that are apart from all that are chosen.

    Args:
        values: (X,) to be maximised; places without a positive value are not chosen.
        xy_um: (X, 2) places, micrometres.
        number: Number of places; fewer are chosen where there are not enough.
        spacing_um: Smallest distance of two chosen places.

    Returns:
        Their numbers, in descending order of the value.
    """
    chosen: list[int] = []
    is_free = values > 0
    for candidate in np.argsort(-values, kind="stable"):
        if len(chosen) == number or not values[candidate] > 0:
            break
        if is_free[candidate]:
            chosen.append(int(candidate))
            is_free &= np.hypot(*(xy_um - xy_um[candidate]).T) >= spacing_um
    return np.array(chosen, dtype=np.int64)


def check_places(
    places: Rows,
    derivative: NDArray[np.float64],
    added: AddedCells,
    full: FullRecomputation,
    advance: Callable[[], None] = lambda: None,
) -> tuple[pd.DataFrame, dict[str, float] | None]:
    """Add a whole cell at each place in turn, and then at all of them together.

    Args:
        places: Numbers of the places.
        derivative: (X,) derivatives of the sum over the target residents.
        added: The cells that are added.
        full: Predictions of the tissue.
        advance: Called after every set of hidden cells.

    Returns:
        A table of the places with `predicted` and `checked` change of the mean over the target residents, in descending order
        of the absolute checked one; and both for all places together, None without a place.
    """
    number = sum(map(len, full.sets))

    def change(rows: Rows) -> float:
        """Change of the mean by whole cells at some places."""
        cells = np.zeros(len(rows), dtype=np.int64)
        totals = np.full(len(rows), added.total_counts)
        edited = inject(full.tissue, InjectedCells(added.xy_um[rows], added.counts[cells], totals))
        return full.change(edited, added.xy_um[rows], advance) / number

    table = pd.DataFrame({
        "x_um": added.xy_um[places, 0],
        "y_um": added.xy_um[places, 1],
        "predicted": derivative[places] / number,
        "checked": [change(places[[i]]) for i in range(len(places))],
    })  # fmt: skip
    together = None
    if len(places):
        together = {"predicted": float(table["predicted"].sum()), "checked": change(places)}
    return table, together
