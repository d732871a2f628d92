"""One small linear regression for each gene, with weights that are shrunk towards those shared by all genes.

This is empirical Bayes: the weights of a gene have a normal prior around the shared ones, and a gene with few or noisy
cells follows the prior.

Letters: P genes, S predictors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]


def shared_weights(gram: Numbers, moment: Numbers, ridge: float) -> Numbers:
    """Fit one set of weights to all genes together.

    Args:
        gram: (P, S, S) sums over cells of the products of the predictors.
        moment: (P, S) sums over cells of predictor times target.
        ridge: Added to the diagonal of the pooled normal equations.

    Returns:
        (S,) weights.
    """
    # The ridge keeps the equations solvable if predictors are collinear.
    pooled = gram.sum(axis=0)
    return np.asarray(np.linalg.solve(pooled + ridge * np.eye(len(pooled)), moment.sum(axis=0)))


def shrunk_weights(gram: Numbers, moment: Numbers, shared: Numbers, precision: Numbers) -> Numbers:
    """Fit weights of every gene, shrunk towards the shared ones.

    Args:
        gram: (P, S, S) sums over cells of the products of the predictors.
        moment: (P, S) sums over cells of predictor times target.
        shared: (S,) weights towards which each gene is shrunk.
        precision: (P, S) or (P, 1) strength of the shrinkage, in the units of the diagonal of `gram`.

    Returns:
        (P, S) weights, the posterior means.
    """
    # Shrinkage towards `shared` adds the prior's precision to the gram matrix, and precision * shared to the moments.
    penalised = gram + precision[..., None] * np.eye(gram.shape[1])
    return np.asarray(np.linalg.solve(penalised, (moment + precision * shared)[..., None])[..., 0])


class ShrunkSolver:
    """`shrunk_weights` for many strengths that are the same for all predictors of a gene, by one eigendecomposition.

    Args:
        gram: (P, S, S) sums over cells of the products of the predictors.
        moment: (P, S) sums over cells of predictor times target.
    """

    def __init__(self, gram: Numbers, moment: Numbers) -> None:
        values, self._vectors = np.linalg.eigh(gram)
        self._values = np.maximum(values, 0)  # rounding can make the smallest negative
        self._moment = np.einsum("pst,ps->pt", self._vectors, moment)

    def weights(self, shared: Numbers, precision: Numbers) -> Numbers:
        """Fit weights of every gene, shrunk towards the shared ones.

        Args:
            shared: (S,) weights towards which each gene is shrunk.
            precision: (P,) positive strength of the shrinkage, in the units of the diagonal of `gram`.

        Returns:
            (P, S) weights, the posterior means.
        """
        strength = precision[:, None]
        along = (self._moment + strength * (shared @ self._vectors)) / (self._values + strength)
        return np.asarray(np.einsum("pst,pt->ps", self._vectors, along))


def residual_variance(
    gram: Numbers, moment: Numbers, squared_target: Numbers, weights: Numbers, num_cells: int, smallest: float = 1e-9
) -> Numbers:
    """Mean squared residual of every gene under given weights.

    Args:
        gram: (P, S, S) sums over cells of the products of the predictors.
        moment: (P, S) sums over cells of predictor times target.
        squared_target: (P,) sums over cells of the squared target.
        weights: (S,) weights.
        num_cells: Number of cells in the sums.
        smallest: Lower limit of each sum of squares, which rounding can make negative.

    Returns:
        (P,) variances.
    """
    # From the sums alone, as the values of the cells are not kept.
    left = squared_target - 2 * moment @ weights + np.einsum("s,pst,t->p", weights, gram, weights)
    return np.asarray(np.maximum(left, smallest) / max(num_cells, 1))
