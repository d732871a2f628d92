"""Ridge regression of many targets on many features, and its approximation of low rank.

The cost depends on the smaller of the numbers of rows and features: with fewer rows, the dual form is solved.

Letters: N rows, F features, Y targets, r rank.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float32]

_OVERSAMPLING = 8  # columns of the randomised singular value decomposition beyond the rank
_NUM_ITERATIONS = 4  # of it; the singular values of neighbour means fall quickly
_TINY = 1e-12


class ReducedRidge:
    """Ridge regression without intercept. Penalties are fractions of the total variance of the features.

    Args:
        features: (N, F) centred features.
        targets: (N, Y) centred targets.
        dual: Whether the dual form is solved; the cheaper form if absent. Both have the same solution.
    """

    def __init__(self, features: Values, targets: Values, *, dual: bool | None = None) -> None:
        self.features, self.targets = features, targets
        num_rows, num_features = features.shape
        self._dual = num_rows < num_features if dual is None else dual
        products = features @ features.T if self._dual else features.T @ features
        # The trace is the same in both forms.
        self._unit = max(float(np.trace(products, dtype=np.float64)), _TINY)
        self._products = products.astype(np.float64) / self._unit
        self._moments = None if self._dual else features.T @ targets
        self._factor = lru_cache(maxsize=3)(self._factorise)  # for the penalties that are in use

    def _factorise(self, penalty: float) -> tuple[NDArray[np.float64], bool]:
        penalised = self._products + penalty * np.eye(len(self._products))
        factor, lower = cho_factor(penalised, overwrite_a=True)
        return factor, lower

    def _solve(self, penalty: float, right: Values) -> Values:
        solution = cho_solve(self._factor(penalty), right.astype(np.float64)) / self._unit
        return np.asarray(solution, dtype=np.float32)

    def predict(self, penalty: float, features: Values) -> Values:
        """Predict the targets of (n, F) features: (n, Y)."""
        if self._moments is not None:
            return features @ self._solve(penalty, self._moments)
        # In this order: n is small, and F times Y coefficients may not fit into memory.
        return self._solve(penalty, self.features @ features.T).T @ self.targets

    def coefficients(self, penalty: float, mix: Values, targets: slice = slice(None)) -> Values:
        """Coefficients of mixtures of some targets.

        Args:
            penalty: The penalty.
            mix: (y, c) weights of these y targets in c mixtures.
            targets: Which targets.

        Returns:
            (F, c) coefficients.
        """
        if self._moments is not None:
            return self._solve(penalty, self._moments[:, targets] @ mix)
        return self.features.T @ self._solve(penalty, self.targets[:, targets] @ mix)

    def reduce(
        self, penalties: Sequence[tuple[slice, float]], scale: Values, rank: int, generator: np.random.Generator
    ) -> tuple[Values, Values]:
        """The best approximation of low rank to the fitted values.

        Args:
            penalties: Groups of targets with their penalties, in order; together they are all targets.
            scale: (Y,) errors of the targets are divided by these.
            rank: r, at most min(N, F, Y).
            generator: Source of the start of the randomised decomposition.

        Returns:
            (F, r) coefficients of r mixtures, and (r, Y) their weights in the targets.
        """

        def mixtures(weights: Values) -> Values:
            """(F, c) coefficients of mixtures of the scaled targets, whose weights are (Y, c)."""
            weights = weights / scale[:, None]
            parts = [self.coefficients(penalty, weights[group], group) for group, penalty in penalties]
            return np.sum(parts, axis=0, dtype=np.float32)

        # Subspace iteration for the right singular vectors of the fitted values, which are never stored.
        num_columns = min(rank + _OVERSAMPLING, len(scale))
        basis = np.linalg.qr(generator.standard_normal((len(scale), num_columns)))[0].astype(np.float32)
        for _ in range(_NUM_ITERATIONS):
            fitted = self.features @ mixtures(basis)
            basis = np.linalg.qr(self._fitted_transposed(penalties, scale, fitted))[0]
        coefficients = mixtures(basis)
        # The leading directions within the subspace.
        values, rotation = np.linalg.eigh(_gram(self.features @ coefficients))
        leading = rotation[:, np.argsort(-values)[:rank]].astype(np.float32)
        return coefficients @ leading, (leading.T @ basis.T) * scale

    def _fitted_transposed(self, penalties: Sequence[tuple[slice, float]], scale: Values, rows: Values) -> Values:
        """Product of the transposed scaled fitted values, (Y, N), with (N, c) rows."""
        if self._moments is not None:
            projected = self.features.T @ rows
            parts = [self._moments[:, group].T @ self._solve(penalty, projected) for group, penalty in penalties]
        else:
            projected = self.features @ (self.features.T @ rows)
            parts = [self.targets[:, group].T @ self._solve(penalty, projected) for group, penalty in penalties]
        return np.concatenate(parts) / scale[:, None]


def _gram(values: Values) -> NDArray[np.float64]:
    """Products of the columns, in double precision."""
    wide = values.astype(np.float64)
    return wide.T @ wide
