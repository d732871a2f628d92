"""Surroundings of cells: distances to the nearest cell of every label, as predictors of a regression.

Letters: N cells, Q residents, L labels, F predictors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.celltype.base import UNASSIGNED

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows

    Numbers = NDArray[np.float64]

# Multiples of the radius of the graph. An edited label has a step at each of the first, so that an effect that ends at a
# distance is not smoothed; the effect of any other label changes linearly between the second.
STEPS: Final = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.5, 6.0)
KNOTS: Final = (0.0, 0.75, 1.5, 2.25, 3.0, 4.5, 6.0)
COARSE_KNOTS: Final = (0.0, 1.5, 3.0)
NO_LABEL: Final = -1  # code of a cell that has no counts
MAX_FINE_LABELS: Final = 7  # further labels, which are rarer, have coarse knots
NEAREST_REACH: Final = 1.5  # radii; the reach of an effect is not looked for below
MIN_ROWS: Final = 5  # residents in which a predictor differs from zero; others are left out


@dataclass(frozen=True)
class LabelledCells:
    """Cells with positions and labels."""

    xy_um: Numbers  # (N, 2) micrometres
    codes: NDArray[np.int64]  # (N,) positions in `names`; `NO_LABEL` for a cell that has no effect on others
    names: tuple[str, ...]  # L labels

    def of(self, code: int) -> Rows:
        """Ascending rows of the cells of a label."""
        return np.flatnonzero(self.codes == code)

    def distances(self, xy_um: Numbers, own: Rows, code: int) -> Numbers:
        """Distance to the nearest cell of a label.

        Args:
            xy_um: (Q, 2) places, micrometres.
            own: (Q,) the row of the cell at each place, which is not its own neighbour; -1 for a place without a cell.
            code: The label.

        Returns:
            (Q,) micrometres; infinite if there is no such cell.
        """
        rows = self.of(code)
        if not len(rows) or not len(xy_um):
            return np.full(len(xy_um), np.inf)
        # Two neighbours: one of them may be the cell itself.
        found, position = cKDTree(self.xy_um[rows]).query(xy_um, k=[1, 2])
        is_own = rows[np.minimum(position[:, 0], len(rows) - 1)] == own
        return np.asarray(np.where(is_own, found[:, 1], found[:, 0]))


@dataclass(frozen=True)
class Design:
    """Which predictors the surroundings of a cell have."""

    radius_um: float  # radius of the graph
    stepped: tuple[int, ...]  # codes of the labels with steps: those that are edited
    fine: tuple[int, ...]  # codes of the labels with all knots
    coarse: tuple[int, ...]  # codes of the labels with few knots
    # code of a label with all knots to which the edited ones are compared, and which has steps near it for this; or `NO_LABEL`
    compared: int = NO_LABEL

    @property
    def num_steps(self) -> int:
        """Number of predictors of the edited labels, which come first."""
        return len(STEPS) * len(self.stepped)

    def predictors(self, cells: LabelledCells, rows: Rows, xy_um: Numbers) -> Numbers:
        """Describe the surroundings of residents.

        Args:
            cells: The cells around them.
            rows: (Q,) their rows among these cells.
            xy_um: (Q, 2) their positions.

        Returns:
            (Q, F), zero for a cell that is far from every label.
        """
        columns = [
            self.of_label(cells.distances(xy_um, rows, code), code)
            for code in (*self.stepped, *self.fine, *self.coarse)
        ]
        return np.concatenate(columns, axis=1)

    def columns(self, code: int) -> slice:
        """The predictors of a label among all."""
        start = 0
        for one in (*self.stepped, *self.fine, *self.coarse):
            stop = start + self.of_label(np.zeros(1), one).shape[1]
            if one == code:
                return slice(start, stop)
            start = stop
        raise ValueError(f"no predictors of label {code}")

    def of_label(self, distance_um: Numbers, code: int) -> Numbers:
        """Describe distances to a label.

        Args:
            distance_um: (Q,) distances to its nearest cell, micrometres.
            code: The label.

        Returns:
            (Q, f) the predictors of this label.
        """
        distance = distance_um / self.radius_um
        if code in self.stepped:
            return (distance[:, None] < np.array(STEPS)).astype(np.float64)
        knots = np.array(KNOTS if code in self.fine else COARSE_KNOTS)
        basis = np.eye(len(knots))[:, :-1]
        columns = [np.interp(distance, knots, values) for values in basis.T]
        if code == self.compared:
            columns += [distance < step for step in STEPS if step <= NEAREST_REACH]
        return np.stack(columns, axis=1).astype(np.float64)

    def compare(self, cells: LabelledCells, resident: int) -> Design:
        """Choose the label to compare the edited ones with: that whose number of cells is most similar.

        Args:
            cells: All cells of the slide.
            resident: Label of the residents, which is not chosen.

        Returns:
            The design with this label; without one, if there is none.
        """
        sizes = np.bincount(cells.codes[cells.codes >= 0], minlength=len(cells.names))
        wanted = max(1, sizes[list(self.stepped)].max(initial=1))
        candidates = [code for code in self.fine if code != resident and cells.names[code] != UNASSIGNED]
        if not candidates:
            return self
        return replace(self, compared=min(candidates, key=lambda code: (abs(np.log(sizes[code] / wanted)), code)))


def choose_design(cells: LabelledCells, radius_um: float, edited: Collection[int]) -> Design:
    """Give steps to the edited labels, all knots to the most frequent other labels, and few knots to the rest.

    Args:
        cells: All cells of a slide.
        radius_um: Radius of the graph, micrometres.
        edited: Codes of the labels that are edited.

    Returns:
        The design.
    """
    sizes = np.bincount(cells.codes[cells.codes >= 0], minlength=len(cells.names))
    others: Sequence[int] = [int(code) for code in np.argsort(-sizes, kind="stable") if sizes[code]]
    others = [code for code in others if code not in edited]
    stepped = tuple(sorted(edited))
    return Design(radius_um, stepped, tuple(others[:MAX_FINE_LABELS]), tuple(others[MAX_FINE_LABELS:]))
