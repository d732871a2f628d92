"""Proposed placements: the places of the greatest sensitivity that are apart, each checked by prediction of the tissue.

Letters: X places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from cifm_cli.simulation.tissue import InjectedCells, inject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.simulation.sensitivity.added_cells import AddedCells
    from cifm_cli.simulation.sensitivity.full_recomputation import FullRecomputation

Evaluate = Callable[["AddedCells", "NDArray[np.float64]"], "NDArray[np.float64]"]
"""From added cells and their weights to the derivatives at these weights."""

Goal = Literal["raise", "lower"]
"""Whether edits are searched that raise or that lower the target."""

MIN_COMPARED, MAX_COMPARED = 10, 200  # places at which derivatives are compared
SPACING_RADII: Final = 2.0  # smallest distance of two proposals in radii: no cell receives messages of both
CANDIDATES: Final = 10  # candidates per proposal: the steepest places often saturate first
MIDPOINT: Final = 0.5  # weight at which the derivatives of the candidates are compared


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


@dataclass(frozen=True)
class Agreement:
    """How the derivatives at weight 0 compare with those at weight 1/2, which are near to the change by a whole cell."""

    num_places: int  # places that are compared
    ratio: float  # sum of the absolute values at weight 1/2 over that at weight 0
    rank_correlation: float  # Spearman's


def compare_derivatives(
    derivative: NDArray[np.float64],
    added: AddedCells,
    spacing_um: float,
    generator: np.random.Generator,
    evaluate: Evaluate,
) -> Agreement | None:
    """Compare the derivatives at weight 0 with those at weight 1/2, at random places that are apart.

    Args:
        derivative: (X,) derivatives at weight 0.
        added: The added cells.
        spacing_um: Smallest distance of two places.
        generator: Source of randomness.
        evaluate: From added cells and their weights to the derivatives at these weights.

    Returns:
        The comparison; None where there are fewer than `MIN_COMPARED` such places, or nothing changes.
    """
    order = 1 - generator.random(added.num_cells)
    places = propose_places(order, added.xy_um, MAX_COMPARED, spacing_um)
    before = derivative[places]
    if len(places) < MIN_COMPARED or np.ptp(before) == 0:
        return None
    midpoint = evaluate(replace(added, xy_um=added.xy_um[places]), np.full(len(places), MIDPOINT))
    ratio = float(np.abs(midpoint).sum() / np.abs(before).sum())
    return Agreement(len(places), ratio, float(spearmanr(before, midpoint).statistic))


@dataclass(frozen=True)
class Proposals:
    """Places at which a cell may be added."""

    cells: AddedCells  # of L places
    predicted: NDArray[np.float64]  # (L,) derivatives of the sum over the target residents at the weight 0
    midpoint: NDArray[np.float64]  # (L,) the same at the weight 1/2 of the cells of all candidates


def select_places(
    derivative: NDArray[np.float64],
    added: AddedCells,
    number: int,
    spacing_um: float,
    evaluate: Evaluate,
) -> Proposals:
    """Choose places by the derivative at weight 0, and of those the ones where it is still great at weight 1/2.

    Where a target saturates, as a probability does, the derivative at 0 is far from the change by a whole cell. That at 1/2 is
    nearer to it, and can be computed for some places that are apart.

    Args:
        derivative: (X,) derivatives at weight 0; the greatest are searched.
        added: The added cells.
        number: Number of proposals, L; there may be fewer.
        spacing_um: Smallest distance of two proposals.
        evaluate: From added cells and their weights to the derivatives at these weights.

    Returns:
        The proposals, in descending order of the derivative at weight 1/2.
    """
    candidates = propose_places(derivative, added.xy_um, CANDIDATES * number, spacing_um)
    cells = replace(added, xy_um=added.xy_um[candidates])
    midpoint = evaluate(cells, np.full(len(candidates), MIDPOINT)) if len(candidates) else np.zeros(0)
    best = np.argsort(-midpoint, kind="stable")[:number]
    return Proposals(replace(added, xy_um=cells.xy_um[best]), derivative[candidates][best], midpoint[best])


def check_places(
    proposals: Proposals, full: FullRecomputation, advance: Callable[[], None] = lambda: None
) -> tuple[pd.DataFrame, dict[str, float] | None]:
    """Add a whole cell at each place in turn, and then at all of them together.

    Args:
        proposals: The places.
        full: Predictions of the tissue.
        advance: Called after every set of hidden cells.

    Returns:
        A table of the places with the changes of the mean over the target residents: `predicted`, `midpoint` and `checked`;
        and `predicted` and `checked` for all places together, None without a place.
    """
    number, added = sum(map(len, full.sets)), proposals.cells

    def change(rows: Rows) -> float:
        """Change of the mean by whole cells at some places."""
        cells = np.zeros(len(rows), dtype=np.int64)
        totals = np.full(len(rows), added.total_counts)
        edited = inject(full.tissue, InjectedCells(added.xy_um[rows], added.counts[cells], totals))
        return full.change(edited, added.xy_um[rows], advance) / number

    every = np.arange(added.num_cells)
    table = pd.DataFrame({
        "x_um": added.xy_um[:, 0],
        "y_um": added.xy_um[:, 1],
        "predicted": proposals.predicted / number,
        "midpoint": proposals.midpoint / number,
        "checked": [change(every[[row]]) for row in every],
    })  # fmt: skip
    if not len(every):
        return table, None
    return table, {"predicted": float(table["predicted"].sum()), "checked": change(every)}
