"""Ridge regression of many targets on shared features, from sums that are added batch by batch.

Letters: n cells of a batch, F features, Y targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Values = NDArray[np.float32]

_TINY = 1e-12


class RidgeSums:
    """Sums of the normal equations. Features and targets are centred, so there is no penalty on the intercept.

    Args:
        num_features: F.
        num_targets: Y.
    """

    def __init__(self, num_features: int, num_targets: int) -> None:
        self._num_cells = 0
        # Means of the first batch: sums of differences from it stay small, and lose nothing when they are centred.
        self._x_first, self._y_first = np.zeros(num_features, np.float32), np.zeros(num_targets, np.float32)
        self._x, self._y = np.zeros(num_features), np.zeros(num_targets)
        self._xx = np.zeros((num_features, num_features))
        # In single precision, as there can be many targets.
        self._xy = np.zeros((num_features, num_targets), dtype=np.float32)

    def add(self, x: Values, y: Values) -> None:
        """Add a batch of (n, F) features and (n, Y) targets."""
        if not self._num_cells and len(x):
            self._x_first, self._y_first = x.mean(axis=0), y.mean(axis=0)
        self._num_cells += len(x)
        x, y = x - self._x_first, y - self._y_first
        self._x += x.sum(axis=0, dtype=np.float64)
        self._y += y.sum(axis=0, dtype=np.float64)
        # Products within a batch in single precision, for speed.
        self._xx += x.T @ x
        self._xy += x.T @ y

    def solver(self) -> RidgeSolver:
        """Centre and scale the sums; they are used up."""
        n = max(self._num_cells, 1)
        x_mean, y_mean = self._x / n, self._y / n
        xx, xy = self._xx, self._xy
        xx /= n
        xy /= np.float32(n)
        xx -= np.outer(x_mean, x_mean)
        xy -= np.outer(x_mean.astype(np.float32), y_mean.astype(np.float32))
        # In units of the features' own variance, one grid of penalties serves features of any number and scale.
        unit = max(float(np.trace(xx)) / max(len(xx), 1), _TINY)
        xx /= unit
        xy /= np.float32(unit)
        x_mean, y_mean = self._x_first + x_mean, self._y_first + y_mean
        return RidgeSolver(x_mean.astype(np.float32), y_mean.astype(np.float32), xx, xy)


class RidgeSolver:
    """Centred normal equations, solved for any penalty.

    With fewer cells than features, the equations of the cells are solved in place of those of the features: both have the
    same solution (X'X + p)^-1 X'Y = X' (XX' + p)^-1 Y, and R is the smaller of their numbers.

    Args:
        x_mean: (F,) means of the features.
        y_mean: (Y,) means of the targets.
        gram: (R, R) covariances of the features, in units of their mean variance; or products of the cells in these units.
        right: (R, Y) covariances of features and targets in the same units; or centred targets of the cells.
        cells: (R, F) centred features of the cells; None for the equations of the features.
    """

    def __init__(
        self, x_mean: Values, y_mean: Values, gram: NDArray[np.float64], right: Values, cells: Values | None = None
    ) -> None:
        self.x_mean, self.y_mean = x_mean, y_mean
        self._gram, self._right, self._cells = gram, right, cells
        self._left: dict[float, Values] = {}

    def coefficients(self, penalty: float) -> Values:
        """(F, Y) coefficients at a penalty in units of the mean variance of a feature."""
        return np.asarray(self._solved(penalty) @ self._right)

    def predict(self, x: Values, penalty: float) -> Values:
        """(n, Y) predicted targets of a batch of (n, F) features."""
        # In this order, as there are far more targets than features and cells of a batch.
        return np.asarray(((x - self.x_mean) @ self._solved(penalty)) @ self._right + self.y_mean)

    def map_targets(self, function: Callable[[Values], Values]) -> RidgeSolver:
        """The regression of linear functions of the targets, as it is linear in them.

        Args:
            function: Maps arrays whose last axis are the Y targets to arrays with another last axis. Linear.

        Returns:
            Their regression. It shares what has been solved for each penalty.
        """
        mapped = RidgeSolver(self.x_mean, function(self.y_mean), self._gram, function(self._right), self._cells)
        mapped._left = self._left
        return mapped

    def _solved(self, penalty: float) -> Values:
        """(F, R) what the right side is multiplied by; it is small, and computed once for each penalty."""
        if penalty not in self._left:
            identity = np.eye(len(self._gram))
            inverse = cho_solve(cho_factor(self._gram + penalty * identity, overwrite_a=True), identity)
            left = inverse if self._cells is None else self._cells.T @ inverse
            self._left[penalty] = left.astype(np.float32)
        return self._left[penalty]


def solver_of_cells(x: Values, y: Values) -> RidgeSolver:
    """The solver of `RidgeSums` for cells that are all in memory, cheaper where there are fewer cells than features.

    Args:
        x: (n, F) features of n > 0 cells.
        y: (n, Y) targets; they are overwritten.

    Returns:
        The solver.
    """
    x_mean, y_mean = (values.mean(axis=0, dtype=np.float64).astype(np.float32) for values in (x, y))
    centred = x - x_mean
    unit = max(float(np.square(centred).sum(dtype=np.float64)) / max(x.size, 1), _TINY)
    scale = np.float32(1 / np.sqrt(len(x) * unit))
    centred *= scale
    y -= y_mean
    y *= scale
    return RidgeSolver(x_mean, y_mean, (centred @ centred.T).astype(np.float64), y, centred)
