"""Baselines that learn from training cells: a blend of neighbour means per gene, and a ridge regression on top of it.

Letters: Q hidden cells, P genes, S radii, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from cifm_cli.evaluation.predictors.base import Baseline, Parameters
from cifm_cli.evaluation.predictors.local_averages import radius_means
from cifm_cli.inference.prediction import Prediction
from cifm_cli.statistics.regression import residual_variance, shared_weights, shrunk_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.examples import Example, GeneStats, TrainingFolds, VisibleCells

    Floats = NDArray[np.float64]
    Values = NDArray[np.float32]

# Doubling radii, from the reach of one layer to 320 um on Xenium: the strongest simple predictors are wide.
RADII = (1.0, 2.0, 4.0, 8.0, 16.0)  # of the circles, in radii of the graph
MAX_FEATURES = 2_000  # of the ridge: larger panels are represented by their most expressed genes
MAX_COEFFICIENTS = 10_000_000  # of the ridge, for panels with very many genes
BASE_SPREAD, BASE_SHRINK = 0.1, 0.01  # of the blend that the ridge corrects: near the best on large and small tissues
_NUM_EM_STEPS = 50
_VALUES_AT_ONCE = 1_000_000  # cells times genes whose neighbour means are in memory together
_SMALL = 1e-9
_TINY = 1e-12


def neighbour_means(visible: VisibleCells, xy_um: Floats) -> list[Prediction]:
    """Average the visible cells within each of `RADII`: a prediction for each radius."""
    return radius_means(visible, xy_um, [radius * visible.radius_um for radius in RADII])


def _neighbour_means_in_parts(visible: VisibleCells, xy_um: Floats) -> Iterator[list[Prediction]]:
    """Neighbour means of many places, some places at a time."""
    size = max(1, _VALUES_AT_ONCE // visible.expression.shape[1])
    for start in range(0, len(xy_um), size):
        yield neighbour_means(visible, xy_um[start : start + size])


def _concatenate(parts: Iterator[Prediction]) -> Prediction:
    predictions = list(parts)
    return Prediction.concatenate(predictions, np.arange(sum(part.num_cells for part in predictions)))


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
        return np.asarray(shrunk_weights(self.xx, self.xy, shared, noise[:, None]).T, dtype=np.float32)


class Blend(Baseline):
    """Per gene, a weighted sum of the means within five radii and of the training mean.

    The weights of each gene are shrunk towards weights shared by all genes (empirical Bayes). The composition is a
    mixture of the circles' compositions, with the weights that maximise the likelihood of the training counts.
    """

    name = "blend"

    def __init__(self, spread: float = BASE_SPREAD, shrink: float = BASE_SHRINK) -> None:
        self.spread = spread
        self.shrink = shrink

    def parameter_grid(self) -> Sequence[Parameters]:
        """Spread of the genes' weights around the shared ones, and penalty of the shared ones.

        Large training regions determine the shared weights, and the penalty matters little. In small ones the widest
        circles are alike everywhere in the region, so their weights are not determined and need it.
        """
        return [
            {"spread": spread, "shrink": shrink}
            for shrink in (1e-4, 0.01, 0.1)
            for spread in (0.01, 0.03, 0.1, 0.3, 1.0)
        ]

    def fit(self, examples: TrainingFolds) -> Self:
        """Sum up the regressions of expression and of "is expressed", and fit the mixture of compositions."""
        num_radii, num_genes = len(RADII), len(examples.gene_stats.mean)
        xx = np.zeros((2, num_genes, num_radii, num_radii))
        xy, yy = np.zeros((2, num_genes, num_radii)), np.zeros((2, num_genes))
        num_cells, likelihoods, weights = 0, [np.empty((num_radii + 1, 0))], [np.empty(0)]
        for example in examples:
            means, stats = neighbour_means(example.visible, example.xy_um), example.visible.gene_stats
            expression = example.expression.toarray().astype(np.float32)
            sides = (
                ([part.mean for part in means], expression, stats.mean),
                ([part.expressed for part in means], expression > 0, stats.fraction),
            )
            for i, (predicted, actual, usual) in enumerate(sides):
                # Products within an example in float32, for speed; their sum over examples in float64.
                x = np.stack(predicted).transpose(2, 0, 1) - usual.astype(np.float32)[:, None, None]
                y = (actual - usual.astype(np.float32)).T
                xx[i] += x @ x.transpose(0, 2, 1)
                xy[i] += np.einsum("psq,pq->ps", x, y)
                yy[i] += np.square(y).sum(axis=1, dtype=np.float64)
            num_cells += len(expression)
            likelihoods.append(_count_likelihoods(example, means))
            weights.append(example.counts.tocoo().data)
        # Only sums of products are stored, so every hyper-parameter is solved without reading the cells again.
        self.mean_, self.expressed_ = (LeastSquaresSums(num_cells, xx[i], xy[i], yy[i]) for i in range(2))
        self.mixture_ = mixture_weights(np.concatenate(likelihoods, axis=1), np.concatenate(weights))
        return self

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        parts = _neighbour_means_in_parts(visible, xy_um)
        return _concatenate(self.combine(means, visible.gene_stats, self.spread, self.shrink) for means in parts)

    def combine(self, means: Sequence[Prediction], stats: GeneStats, spread: float, shrink: float) -> Prediction:
        """Weight the neighbour means of some places, one prediction for each radius; see `LeastSquaresSums.weights`."""
        of_mean, of_expressed = (sums.weights(spread, shrink) for sums in (self.mean_, self.expressed_))
        mean = _weighted_differences([part.mean for part in means], of_mean, stats.mean)
        expressed = _weighted_differences([part.expressed for part in means], of_expressed, stats.fraction)
        composition = np.tile((self.mixture_[-1] * stats.composition).astype(np.float32), (len(mean), 1))
        for part, weight in zip(means, self.mixture_[:-1], strict=True):
            if part.composition is not None:
                composition += np.float32(weight) * part.composition
        return Prediction(mean, np.minimum(expressed, 1), composition)


def _weighted_differences(values: Sequence[Values], weights: Values, usual: Floats) -> Values:
    """(Q, P) the training mean plus the weighted differences from it, not negative."""
    usual = usual.astype(np.float32)
    total = np.tile(usual, (len(values[0]), 1))
    for value, weight in zip(values, weights, strict=True):
        total += weight * (value - usual)
    return np.asarray(np.maximum(total, 0))


def _count_likelihoods(example: Example, means: Sequence[Prediction]) -> Floats:
    """(S + 1, n) probability of each counted gene under the composition of each circle and of the training cells."""
    counts = example.counts.tocoo()
    of_circles = [part.composition[counts.row, counts.col] for part in means if part.composition is not None]
    return np.stack([*of_circles, example.visible.gene_stats.composition[counts.col]])


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


class Ridge(Baseline):
    """The blend, plus a ridge regression of its errors on the means of all genes within five radii.

    The errors are those of expression, of "is expressed", and of the composition. A high penalty leaves the blend.
    """

    name = "ridge"

    def __init__(self, penalty: float = 10.0) -> None:
        self.penalty = penalty

    def parameter_grid(self) -> Sequence[Parameters]:
        """Penalties, in units of the mean variance of a feature."""
        return [{"penalty": penalty} for penalty in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)]

    def fit(self, examples: TrainingFolds) -> Self:
        """Fit the blend and sum up the regression of its errors."""
        self.blend_ = examples.fitted(Blend())
        mean, num_genes = examples.gene_stats.mean, len(examples.gene_stats.mean)
        max_features = min(MAX_FEATURES, max(len(RADII), MAX_COEFFICIENTS // (3 * num_genes)))
        self.genes_ = np.sort(np.argsort(-mean, kind="stable")[: max_features // len(RADII)])
        num_features = len(self.genes_) * len(RADII)
        num_cells, x_sum, y_sum = 0, np.zeros(num_features), np.zeros(3 * num_genes)
        xx, xy = np.zeros((num_features, num_features)), np.zeros((num_features, 3 * num_genes))
        for example in examples:
            means, stats = neighbour_means(example.visible, example.xy_um), example.visible.gene_stats
            x = self._features(means, stats)
            y = _errors(example, self.blend_.combine(means, stats, BASE_SPREAD, BASE_SHRINK))
            num_cells += len(x)
            x_sum += x.sum(axis=0, dtype=np.float64)
            y_sum += y.sum(axis=0, dtype=np.float64)
            xx += x.T @ x
            xy += x.T @ y
        n = max(num_cells, 1)
        self.x_mean_, self.y_mean_ = x_sum / n, y_sum / n
        xx, xy = xx / n - np.outer(self.x_mean_, self.x_mean_), xy / n - np.outer(self.x_mean_, self.y_mean_)
        # In units of the features' own variance, one grid of penalties serves panels of any size and depth.
        unit = max(float(np.trace(xx)) / max(num_features, 1), _TINY)
        self.xx_, self.xy_ = xx / unit, xy / unit
        self.coefficients_: dict[float, Values] = {}
        return self

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        parts = _neighbour_means_in_parts(visible, xy_um)
        return _concatenate(self._correct(means, visible.gene_stats) for means in parts)

    def _correct(self, means: Sequence[Prediction], stats: GeneStats) -> Prediction:
        """Add the predicted errors to the blend."""
        base = self.blend_.combine(means, stats, BASE_SPREAD, BASE_SHRINK)
        x = self._features(means, stats) - self.x_mean_.astype(np.float32)
        errors = np.split(x @ self._coefficients() + self.y_mean_.astype(np.float32), 3, axis=1)
        mean, expressed, composition = (
            np.maximum(part + error, 0) for part, error in zip(_parts(base), errors, strict=True)
        )
        total = composition.sum(axis=1, keepdims=True)
        return Prediction(mean, np.minimum(expressed, 1), composition / np.maximum(total, np.float32(_TINY)))

    def _coefficients(self) -> Values:
        """(F, 3 P) coefficients at the current penalty, solved once for each."""
        if self.penalty not in self.coefficients_:
            penalised = self.xx_ + self.penalty * np.eye(len(self.xx_))
            solution = cho_solve(cho_factor(penalised, overwrite_a=True), self.xy_)
            self.coefficients_[self.penalty] = np.asarray(solution, dtype=np.float32)
        return self.coefficients_[self.penalty]

    def _features(self, means: Sequence[Prediction], stats: GeneStats) -> Values:
        """(Q, F) differences of the neighbour means from the training mean; small numbers, for precision."""
        usual = stats.mean[self.genes_].astype(np.float32)
        return np.concatenate([part.mean[:, self.genes_] - usual for part in means], axis=1)


def _parts(prediction: Prediction) -> list[Values]:
    """Mean, P(expressed) and composition of a prediction that has all three."""
    parts = (prediction.mean, prediction.expressed, prediction.composition)
    return [part for part in parts if part is not None]


def _errors(example: Example, base: Prediction) -> Values:
    """(Q, 3 P) target minus blend; the error of a composition is weighted by the counts of the cell."""
    expression, counts = example.expression.toarray(), example.counts.toarray()
    depth = counts.sum(axis=1, keepdims=True)
    mean_depth = max(float(depth.mean()), _TINY)
    mean, expressed, composition = _parts(base)
    errors = [expression - mean, (expression > 0) - expressed, (counts - depth * composition) / mean_depth]
    return np.concatenate(errors, axis=1, dtype=np.float32)
