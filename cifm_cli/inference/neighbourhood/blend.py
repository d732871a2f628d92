"""Blend of neighbour means: per gene, a weighted sum of the means within five circles and of the slide's mean.

The weights of each gene are shrunk towards weights shared by all genes (empirical Bayes). The composition is a mixture of
the circles' compositions, with the weights that maximise the likelihood of the counts. The baselines `blend` and `ridge`
and slide adaptation all start from it.

Letters: Q hidden cells, P genes, S radii.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.inference.neighbourhood.circle_means import radius_means
from cifm_cli.inference.prediction import Prediction
from cifm_cli.statistics.regression import ShrunkSolver, residual_variance, shared_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats, VisibleCells

    Floats = NDArray[np.float64]
    Values = NDArray[np.float32]

# Doubling radii, from the reach of one layer to 320 um on Xenium: the strongest simple predictors are wide.
RADII = (1.0, 2.0, 4.0, 8.0, 16.0)  # of the circles, in radii of the graph
# With the squares of the widest circle, which extend beyond it
REACH_RADII = 20.0
SPREAD, SHRINK = 0.1, 0.01  # near the best on large and small tissues
# Spread of the genes' weights around the shared ones, and penalty of the shared ones. Large regions determine the shared
# weights, and the penalty matters little. In small ones the widest circles are alike everywhere in the region, so their
# weights are not determined and need it.
GRID = tuple((spread, shrink) for shrink in (1e-4, 0.01, 0.1) for spread in (0.01, 0.03, 0.1, 0.3, 1.0))
_NUM_EM_STEPS = 50
_VALUES_AT_ONCE = 1_000_000  # cells times genes whose neighbour means are in memory together
_SMALL = 1e-9


def neighbour_means(visible: VisibleCells, xy_um: Floats) -> list[Prediction]:
    """Average the visible cells within each of `RADII`: a prediction for each radius."""
    return radius_means(visible, xy_um, [radius * visible.radius_um for radius in RADII])


def neighbour_means_in_parts(visible: VisibleCells, xy_um: Floats) -> Iterator[list[Prediction]]:
    """Neighbour means of many places, some places at a time."""
    size = max(1, _VALUES_AT_ONCE // visible.expression.shape[1])
    for start in range(0, len(xy_um), size):
        yield neighbour_means(visible, xy_um[start : start + size])


@dataclass(frozen=True)
class LeastSquaresSums:
    """Sums over cells of one regression per gene, on differences from the training mean."""

    num_cells: int  # number of cells
    xx: Floats  # (P, S, S) products of the neighbour means
    xy: Floats  # (P, S) products of the neighbour means with the target
    yy: Floats  # (P,) squared targets

    def weights(self, spread: float, shrink: float) -> Values:
        """Weights of the radii: per gene, shrunk towards weights shared by all genes, which are shrunk towards zero.

        Args:
            spread: Standard deviation of the genes' weights around the shared ones (empirical Bayes).
            shrink: Penalty of the shared weights, in units of the mean variance of the neighbour means.

        Returns:
            (S, P) float32.
        """
        pooled = self.xx.sum(axis=0)
        ridge = shrink * np.trace(pooled) / len(pooled) + _SMALL
        shared = shared_weights(self.xx, self.xy, ridge)
        # The noise of a cell that the shared weights leave unexplained, relative to the variance of the prior.
        noise = residual_variance(self.xx, self.xy, self.yy, shared, self.num_cells, _SMALL) / spread**2
        return np.asarray(self._shrunk.weights(shared, noise).T, dtype=np.float32)

    @cached_property
    def _shrunk(self) -> ShrunkSolver:
        """Decomposed once for all hyper-parameters."""
        return ShrunkSolver(self.xx, self.xy)


@dataclass(frozen=True)
class FittedBlend:
    """A blend that is fitted to hidden cells of a slide. Only sums are stored, so every hyper-parameter can be solved."""

    mean: LeastSquaresSums  # regressions of expression
    expressed: LeastSquaresSums  # regressions of "is expressed"
    mixture: Floats  # (S + 1,) weights of the compositions of the circles, and of the slide as a whole
    # spread and shrink of mean and P(expressed), see `LeastSquaresSums.weights`
    of_mean: tuple[float, float] = (SPREAD, SHRINK)
    of_expressed: tuple[float, float] = (SPREAD, SHRINK)
    _weights: dict[tuple[str, float, float], Values] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def combine(self, means: Sequence[Prediction], stats: GeneStats) -> Prediction:
        """Weight the neighbour means of some places, one prediction for each radius."""
        mean = self.combine_mean(means, stats)
        composition = np.tile((self.mixture[-1] * stats.composition).astype(np.float32), (len(mean), 1))
        for part, weight in zip(means, self.mixture[:-1], strict=True):
            if part.composition is not None:
                composition += np.float32(weight) * part.composition
        return Prediction(mean, self.combine_expressed(means, stats), composition)

    def combine_mean(self, means: Sequence[Prediction], stats: GeneStats) -> Values:
        """(Q, P) mean of `combine`."""
        return _weighted_differences([part.mean for part in means], self.mean_weights(), stats.mean)

    def combine_expressed(self, means: Sequence[Prediction], stats: GeneStats) -> Values:
        """(Q, P) P(expressed) of `combine`."""
        weights = self._solve("expressed", *self.of_expressed)
        blend = _weighted_differences([part.expressed for part in means], weights, stats.fraction)
        return np.asarray(np.minimum(blend, 1))

    def mean_weights(self) -> Values:
        """(S, P) weights of the radii in the mean."""
        return self._solve("mean", *self.of_mean)

    def _solve(self, side: str, spread: float, shrink: float) -> Values:
        """(S, P) weights, solved once for every pair of hyper-parameters."""
        if (side, spread, shrink) not in self._weights:
            sums = self.mean if side == "mean" else self.expressed
            self._weights[side, spread, shrink] = sums.weights(spread, shrink)
        return self._weights[side, spread, shrink]


class BlendSums:
    """Sums over hidden cells from which a blend is fitted.

    Args:
        num_genes: P.
    """

    def __init__(self, num_genes: int) -> None:
        num_radii = len(RADII)
        self._xx = np.zeros((2, num_genes, num_radii, num_radii))
        self._xy, self._yy = np.zeros((2, num_genes, num_radii)), np.zeros((2, num_genes))
        self._num_cells = 0
        self._likelihoods, self._counts = [np.empty((num_radii + 1, 0))], [np.empty(0)]

    def add(self, means: Sequence[Prediction], expression: csr_matrix, counts: csr_matrix, stats: GeneStats) -> None:
        """Add hidden cells.

        Args:
            means: Neighbour means of Q cells, one prediction for each radius.
            expression: (Q, P) their log-normalised expression.
            counts: (Q, P) their raw counts.
            stats: Statistics of the slide without them.
        """
        values = expression.toarray().astype(np.float32)
        sides = (
            ([part.mean for part in means], values, stats.mean),
            ([part.expressed for part in means], values > 0, stats.fraction),
        )
        for i, (predicted, actual, usual) in enumerate(sides):
            # Products within a batch in float32, for speed; their sum over batches in float64. Pair by pair, as a product of
            # two small matrices for each of many genes takes longer.
            x = np.stack(predicted) - usual.astype(np.float32)
            y = actual - usual.astype(np.float32)
            for s, own in enumerate(x):
                for t in range(s, len(x)):
                    products = np.einsum("qp,qp->p", own, x[t])
                    self._xx[i, :, s, t] += products
                    if t > s:
                        self._xx[i, :, t, s] += products
                self._xy[i, :, s] += np.einsum("qp,qp->p", own, y)
            self._yy[i] += np.square(y).sum(axis=0, dtype=np.float64)
        self._num_cells += len(values)
        self._likelihoods.append(_count_likelihoods(counts, means, stats))
        self._counts.append(counts.tocoo().data)

    def join(self, other: BlendSums) -> BlendSums:
        """The sums over the cells of both."""
        joined = BlendSums(self._xx.shape[1])
        joined._xx, joined._xy, joined._yy = self._xx + other._xx, self._xy + other._xy, self._yy + other._yy
        joined._num_cells = self._num_cells + other._num_cells
        joined._likelihoods, joined._counts = self._likelihoods + other._likelihoods, self._counts + other._counts
        return joined

    def fitted(self) -> FittedBlend:
        """Fit the blend."""
        mean, expressed = (LeastSquaresSums(self._num_cells, self._xx[i], self._xy[i], self._yy[i]) for i in range(2))
        mixture = mixture_weights(np.concatenate(self._likelihoods, axis=1), np.concatenate(self._counts))
        return FittedBlend(mean, expressed, mixture)


def _weighted_differences(values: Sequence[Values], weights: Values, usual: Floats) -> Values:
    """(Q, P) the training mean plus the weighted differences from it, not negative."""
    usual = usual.astype(np.float32)
    total = np.tile(usual, (len(values[0]), 1))
    for value, weight in zip(values, weights, strict=True):
        total += weight * (value - usual)
    return np.asarray(np.maximum(total, 0))


def _count_likelihoods(counts: csr_matrix, means: Sequence[Prediction], stats: GeneStats) -> Floats:
    """(S + 1, n) probability of each counted gene under the composition of each circle and of the slide."""
    entries = counts.tocoo()
    of_circles = [part.composition[entries.row, entries.col] for part in means if part.composition is not None]
    return np.stack([*of_circles, stats.composition[entries.col]])


def mixture_weights(likelihoods: Floats, counts: Floats) -> Floats:
    """Weights of a mixture that maximise the likelihood of counts, by expectation-maximisation.

    Args:
        likelihoods: (S + 1, n) probability of each counted gene under each component.
        counts: (n,) counts.

    Returns:
        (S + 1,), sum 1; equal weights without counts.
    """
    weights = np.full(len(likelihoods), 1 / len(likelihoods))
    for _ in range(_NUM_EM_STEPS if counts.size else 0):
        joint = weights[:, None] * likelihoods
        expected = (joint / np.maximum(joint.sum(axis=0), _SMALL)) @ counts
        weights = expected / expected.sum()
    return weights
