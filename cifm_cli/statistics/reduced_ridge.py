"""Ridge regression of many targets on many features, and its approximation of low rank.

The cost depends on the smaller of the numbers of rows and features: with fewer rows, the dual form is solved.

Letters: N rows, F features, Y targets, r rank.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float32]

_OVERSAMPLING = 8  # columns of the randomised singular value decomposition beyond the rank
_NUM_ITERATIONS = 3  # of it; the singular values of neighbour means fall quickly
_TINY = 1e-12


class ReducedRidge:
    """Ridge regression without intercept. Penalties are fractions of the total variance of the features.

    Args:
        features: (N, F) centred features.
        targets: (N, Y) centred targets.
        dual: Whether the dual form is solved; the cheaper form if absent. Both have the same solution.
        products: (N, N) products of the rows of the features, if they are known; the dual form is solved then.
    """

    def __init__(
        self,
        features: Values,
        targets: Values,
        *,
        dual: bool | None = None,
        products: NDArray[np.float64] | None = None,
    ) -> None:
        self.features, self.targets = features, targets
        num_rows, num_features = features.shape
        self._dual = products is not None or (num_rows < num_features if dual is None else dual)
        if products is None:
            products = (features @ features.T if self._dual else features.T @ features).astype(np.float64)
        # The trace is the same in both forms.
        self._unit = max(float(np.trace(products, dtype=np.float64)), _TINY)
        self._products = products / self._unit
        self._moments = None if self._dual else features.T @ targets
        self._factor = lru_cache(maxsize=3)(self._factorise)  # for the penalties that are in use

    def _factorise(self, penalty: float) -> tuple[NDArray[np.float64], bool]:
        penalised = self._products + penalty * np.eye(len(self._products))
        factor, lower = cho_factor(penalised, overwrite_a=True)
        return factor, lower

    def _solve(self, penalty: float, right: NDArray[np.floating[Any]]) -> Values:
        solution = cho_solve(self._factor(penalty), right.astype(np.float64)) / self._unit
        return np.asarray(solution, dtype=np.float32)

    def leave_out(self, is_left_out: NDArray[np.bool_]) -> ReducedRidge:
        """The regression without some of the (N,) rows; in the dual form their products are not computed again."""
        kept = ~is_left_out
        if not self._dual:
            return ReducedRidge(self.features[kept], self.targets[kept], dual=False)
        return ReducedRidge(
            self.features[kept], self.targets[kept], products=self._products[np.ix_(kept, kept)] * self._unit
        )

    def similarities(self, features: Values) -> Values | None:
        """(N, n) products of the rows with (n, F) features, for `predict` with many penalties; None in the primal form."""
        return np.asarray(self.features @ features.T) if self._dual else None

    def predict(
        self,
        penalty: float,
        features: Values,
        targets: NDArray[np.int64] | slice = slice(None),
        similarities: Values | None = None,
    ) -> Values:
        """Predict y of the targets, given (n, F) features and, in the dual form, their `similarities`: (n, y)."""
        if self._moments is not None:
            return features @ self._solve(penalty, self._moments[:, targets])
        # In this order: n is small, and F times Y coefficients may not fit into memory.
        return np.asarray(
            self._solve(penalty, self.features @ features.T if similarities is None else similarities).T
            @ self.targets[:, targets],
            dtype=np.float32,
        )

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

        def inner(weights: Values) -> Values:
            """Coefficients of mixtures of the scaled targets, whose weights are (Y, c); in the dual form, of the rows."""
            scaled = weights / scale[:, None]
            parts = [self._inner(penalty, scaled[group], group) for group, penalty in penalties]
            return np.asarray(np.sum(parts, axis=0), dtype=np.float32)

        # Subspace iteration for the right singular vectors of the fitted values, which are never stored.
        num_columns = min(rank + _OVERSAMPLING, len(scale))
        basis = _orthonormal(generator.standard_normal((len(scale), num_columns), dtype=np.float32))
        for _ in range(_NUM_ITERATIONS):
            projected = self._project(inner(basis))
            parts = [self._transposed(penalty, projected, group) for group, penalty in penalties]
            basis = _orthonormal(np.concatenate(parts) / scale[:, None])
        chosen = inner(basis)
        # The leading directions within the subspace, from the products of the fitted values.
        projected = self._project(chosen).astype(np.float64)
        left = projected if self._moments is None else chosen.astype(np.float64)
        values, rotation = np.linalg.eigh(left.T @ projected)
        leading = rotation[:, np.argsort(-values)[:rank]].astype(np.float32)
        coefficients = chosen @ leading
        if self._moments is None:
            coefficients = self.features.T @ coefficients
        return np.asarray(coefficients, dtype=np.float32), np.asarray((leading.T @ basis.T) * scale, dtype=np.float32)

    def _inner(self, penalty: float, mix: Values, targets: slice) -> Values:
        """Coefficients of the features, or in the dual form of the rows."""
        right = self.targets if self._moments is None else self._moments
        return self._solve(penalty, right[:, targets] @ mix)

    def _project(self, inner: Values) -> Values:
        """Fitted values, or in the primal form X^T times the fitted values."""
        return np.asarray(self._unit * (self._products @ inner), dtype=np.float32)

    def _transposed(self, penalty: float, projected: Values, targets: slice) -> Values:
        """Product of the transposed fitted values of some targets and the rows that `projected` was made from."""
        if self._moments is None:
            product = self.targets[:, targets].T @ self._solve(penalty, self._project(projected))
        else:
            product = self._moments[:, targets].T @ self._solve(penalty, projected)
        return np.asarray(product, dtype=np.float32)


def _orthonormal(values: Values) -> Values:
    return np.asarray(np.linalg.qr(values)[0], dtype=np.float32)
