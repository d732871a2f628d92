"""Poisson regression of the counts of many genes on the same predictors, with a jackknife over blocks of cells.

log E[y_ng] = log e_n + x_n b_g, with a normal prior on the coefficients. Letters: N cells, F predictors, G genes, B blocks,
C contrasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MAX_STEPS: Final = 20  # of Newton's method
TOLERANCE: Final = 3e-3  # largest change of a coefficient in the last step
LARGEST_STEP: Final = 2.0  # natural logarithm; larger steps overshoot where a gene has few counts
# Steps that compute the information anew, in a fit from a mean and in one that starts from coefficients
_INFORMATION_STEPS: Final = {False: (0, 1, 2, 6, 10, 15), True: (0, 5, 10, 15)}
_NUM_TERMS: Final = 8  # of the fixed point of the coefficients without a block
_BOUNDS: Final = (-30.0, 12.0)  # of the linear predictor
_INTERCEPT_PRECISION: Final = 1e-6


class Contrasts(NamedTuple):
    """Sums of coefficients with their standard errors."""

    values: Numbers  # (C, G) natural logarithms
    errors: Numbers  # (C, G) standard errors


@dataclass(frozen=True)
class PoissonRegression:
    """A regression that was fitted to all genes; the first predictor is the intercept."""

    x: Numbers  # (N, F) predictors, of which the first is 1
    y: Numbers  # (N, G) counts
    exposure: Numbers  # (N,) factor of each cell's expectation
    precision: Numbers  # (F,) of the normal prior on each coefficient
    coefficients: Numbers  # (F, G)

    def expected(self, x: Numbers) -> Numbers:
        """(n, G) expected counts of cells with (n, F) predictors and an exposure of 1."""
        return np.asarray(np.exp(np.clip(x @ self.coefficients, *_BOUNDS)))

    def contrasts(self, weights: Numbers, block: NDArray[np.int64]) -> Contrasts:
        """Estimate sums of coefficients, with standard errors from a jackknife that leaves out one block at a time.

        The coefficients without a block are those of one step of Newton's method from the full fit. A gene without counts
        where a coefficient matters has hardly any variance between blocks; no error is smaller than that of Poisson counts.

        Args:
            weights: (C, F) weights of the coefficients.
            block: (N,) block of each cell, 0 to B - 1.

        Returns:
            Values and standard errors.
        """
        num_blocks = int(block.max()) + 1
        order = np.argsort(block, kind="stable")
        starts = np.searchsorted(block[order], np.arange(num_blocks))
        x = self.x[order]
        expected = self.expected(x) * self.exposure[order, None]
        residual = self.y[order] - expected
        bounds = [*starts.tolist(), len(x)]
        of_block = [slice(low, high) for low, high in pairwise(bounds)]
        scores = np.stack([x[rows].T @ residual[rows] for rows in of_block])
        errors = np.empty((len(weights), self.y.shape[1]))
        single, root = x.astype(np.float32), np.sqrt(expected).astype(np.float32)
        for gene in range(self.y.shape[1]):
            weighted = single * root[:, gene, None]
            information = np.stack([weighted[rows].T @ weighted[rows] for rows in of_block]).astype(np.float64)
            total = cho_factor(information.sum(axis=0) + np.diag(self.precision))
            start = shifts = cho_solve(total, scores[:, :, gene].T).T
            # (total - block) shift = score, as a fixed point: no factorisation for every block
            for _ in range(_NUM_TERMS):
                of_blocks = (information @ shifts[..., None])[..., 0]
                shifts = start + cho_solve(total, of_blocks.T).T
            shifts = shifts @ weights.T
            between_blocks = (num_blocks - 1) / num_blocks * np.square(shifts).sum(axis=0)
            of_counts = (weights.T * cho_solve(total, weights.T)).sum(axis=0)
            errors[:, gene] = np.sqrt(np.maximum(between_blocks, of_counts))
        return Contrasts(weights @ self.coefficients, errors)


def fit_poisson(
    x: Numbers, y: Numbers, exposure: Numbers, precision: Numbers, start: Numbers | None = None
) -> PoissonRegression:
    """Fit one regression per gene by Newton's method.

    Args:
        x: (N, F) predictors without intercept.
        y: (N, G) counts.
        exposure: (N,) factor of each cell's expectation, such as its depth.
        precision: (F,) of the normal prior on each coefficient, around zero.
        start: (F + 1, G) coefficients from which the fit starts, that of the intercept first.

    Returns:
        The regression, whose first coefficient is the intercept.
    """
    x = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    precision = np.concatenate([[_INTERCEPT_PRECISION], precision])
    coefficients = np.zeros((x.shape[1], y.shape[1])) if start is None else start.copy()
    if start is None:
        # Half a count, so that the logarithm is finite for a gene without counts.
        coefficients[0] = np.log((y.sum(axis=0) + 0.5) / exposure.sum())
    left = np.arange(y.shape[1])
    inverse = np.empty((y.shape[1], x.shape[1], x.shape[1]))
    single = x.astype(np.float32)
    for number in range(MAX_STEPS):
        current = coefficients[:, left]
        expected = np.exp(np.clip(x @ current, *_BOUNDS)) * exposure[:, None]
        gradient = x.T @ (y[:, left] - expected) - precision[:, None] * current
        # Most of the time is spent on the information, which hardly changes in later steps.
        if number in _INFORMATION_STEPS[start is not None]:
            for column, gene in enumerate(left):
                # Single precision and a symmetric product are enough for a direction, and four times as fast.
                weighted = single * np.sqrt(expected[:, column, None]).astype(np.float32)
                information = (weighted.T @ weighted).astype(np.float64)
                information.flat[:: len(precision) + 1] += precision
                inverse[gene] = np.linalg.inv(information)
        step = np.einsum("gfh,hg->fg", inverse[left], gradient, optimize=True)
        largest = np.abs(step).max(axis=0)
        coefficients[:, left] += step * np.minimum(1.0, LARGEST_STEP / np.maximum(largest, LARGEST_STEP))
        # Genes that have converged are not fitted again.
        left = left[largest > TOLERANCE]
        if not len(left):
            break
    return PoissonRegression(x, y, exposure, precision, coefficients)
