"""Ridge regression of many targets on shared features, from sums that are added batch by batch.

Letters: n cells of a batch, F features, Y targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
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

    Args:
        x_mean: (F,) means of the features.
        y_mean: (Y,) means of the targets.
        xx: (F, F) covariances of the features, in units of their mean variance.
        xy: (F, Y) covariances of features and targets, in the same units.
    """

    def __init__(self, x_mean: Values, y_mean: Values, xx: NDArray[np.float64], xy: Values) -> None:
        self.x_mean, self.y_mean = x_mean, y_mean
        self._xx, self._xy = xx, xy
        self._inverses: dict[float, Values] = {}

    def coefficients(self, penalty: float) -> Values:
        """(F, Y) coefficients at a penalty in units of the mean variance of a feature."""
        return np.asarray(self._inverse(penalty) @ self._xy)

    def predict(self, x: Values, penalty: float) -> Values:
        """(n, Y) predicted targets of a batch of (n, F) features."""
        # In this order, as there are far more targets than features and cells of a batch.
        return np.asarray(((x - self.x_mean) @ self._inverse(penalty)) @ self._xy + self.y_mean)

    def _inverse(self, penalty: float) -> Values:
        """(F, F) inverse of the covariances with the penalty, which keeps it small; computed once for each penalty."""
        if penalty not in self._inverses:
            identity = np.eye(len(self._xx))
            inverse = cho_solve(cho_factor(self._xx + penalty * identity, overwrite_a=True), identity)
            self._inverses[penalty] = inverse.astype(np.float32)
        return self._inverses[penalty]
