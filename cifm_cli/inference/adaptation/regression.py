"""Base prediction and regression of a slide adaptation: sums over practice cells, and the choice on tuning cells.

Two things are regressed on the same features: the errors of the blend, and what the network predicts differently. The
errors of a base prediction with the weight s of the network are the former minus s times the latter, and so is their
regression. Every weight and penalty is therefore solved without reading a cell again.

Letters: M cells, P genes, F features of the regression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli.inference.adaptation.slide_adaptation import (
    FLOOR,
    OUTPUTS,
    ErrorRegression,
    FeatureScale,
    mix,
    regression_features,
)
from cifm_cli.inference.neighbourhood.blend import GRID
from cifm_cli.inference.neighbourhood.residuals import add_errors, errors, mean_features, parts_of, ridge_genes
from cifm_cli.statistics.ridge import RidgeSums

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.inference.adaptation.practice import PracticeTile
    from cifm_cli.inference.neighbourhood.blend import FittedBlend
    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
    from cifm_cli.inference.network_features import NetworkFeatures
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.statistics.ridge import RidgeSolver

    Values = NDArray[np.float32]
    Parts = tuple[Values, Values]  # predicted errors of the blend, and differences of the network

# In units of the mean variance of a feature; without a regression for the last
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, np.inf)
NETWORK_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # in probabilities and compositions
MAX_NETWORK_WEIGHT = 1.25  # in means
COMPOSITION_FLOOR = (
    0.05  # fraction of the slide's composition in every expectation, as in the deviance of an evaluation
)
BATCH_CELLS = 256
_SMALLEST_PROBABILITY = 1e-4
_TINY = 1e-6


class Predicted(NamedTuple):
    """Practised cells with the two predictions that the base prediction mixes."""

    tile: PracticeTile
    blend: Prediction
    network: Prediction
    features: NetworkFeatures


class Choice(NamedTuple):
    """A candidate for one output."""

    loss: float  # on the tuning cells
    weight: float  # of the network in the base prediction
    penalty: float  # of the regression

    def to_json(self) -> dict[str, float | None]:
        """For the provenance."""
        return {"network": round(self.weight, 4), "penalty": None if np.isinf(self.penalty) else self.penalty}


@dataclass(frozen=True)
class FittedRegression:
    """Regression of the errors of the blend, and of what the network predicts differently."""

    genes: NDArray[np.int64]  # genes whose neighbour means are features
    scale: FeatureScale  # of the network's features
    solver: RidgeSolver  # of (F, 6 P) coefficients

    def predict(self, predicted: Sequence[Predicted], penalty: float) -> list[Parts]:
        """Predicted errors of the blend, and predicted differences of the network, of each tile: (M, 3 P) each.

        Both are zero for an infinite penalty.
        """
        if np.isinf(penalty):
            shape = len(self.solver.y_mean) // 2
            zeros = [np.zeros((each.tile.num_cells, shape), dtype=np.float32) for each in predicted]
            return [(zero, zero) for zero in zeros]
        # One product for all tiles: the coefficients of a large panel are read from memory only once.
        x = np.concatenate([_features(each, self.genes, self.scale) for each in predicted])
        ends = np.cumsum([each.tile.num_cells for each in predicted])[:-1]
        both = np.split(self.solver.predict(x, penalty), ends)
        return [(part[:, : part.shape[1] // 2], part[:, part.shape[1] // 2 :]) for part in both]

    def solve(self, choices: Sequence[Choice]) -> ErrorRegression:
        """The regression of the errors of the base prediction that was chosen, one choice for each output."""
        num_genes, num_features = len(self.solver.y_mean) // (2 * len(OUTPUTS)), len(self.solver.x_mean)
        coefficients = np.zeros((num_features, len(OUTPUTS) * num_genes), dtype=np.float32)
        intercept = np.zeros(len(OUTPUTS) * num_genes, dtype=np.float32)
        for number, choice in enumerate(choices):
            if np.isinf(choice.penalty):
                continue
            own = slice(number * num_genes, (number + 1) * num_genes)
            other = slice(own.start + len(intercept), own.stop + len(intercept))
            solved, y_mean = self.solver.coefficients(choice.penalty), self.solver.y_mean
            weight = np.float32(choice.weight)
            coefficients[:, own] = solved[:, own] - weight * solved[:, other]
            intercept[own] = y_mean[own] - weight * y_mean[other] - self.solver.x_mean @ coefficients[:, own]
        return ErrorRegression(self.genes, self.scale, coefficients, intercept)


def choose_blend(blend: FittedBlend, tuning: Sequence[PracticeTile]) -> FittedBlend:
    """Choose the hyper-parameters of a blend: for means by squared error, for P(expressed) by log loss.

    Args:
        blend: The blend.
        tuning: Tuning cells; without any the blend is returned as it is.

    Returns:
        The blend with the best of `neighbourhood.blend.GRID`.
    """
    losses = []
    for pair in GRID if tuning else ():
        candidate, of_mean, of_expressed = replace(blend, of_mean=pair, of_expressed=pair), 0.0, 0.0
        for tile in tuning:
            found, values = candidate.combine(tile.circles, tile.stats), tile.expression.toarray()
            of_mean += float(np.square(values - found.mean).sum(dtype=np.float64))
            of_expressed += _cross_entropy(found.expressed, values > 0)
        losses.append((of_mean, of_expressed, pair))
    if not losses:
        return blend
    return replace(blend, of_mean=min(losses)[2], of_expressed=min(losses, key=itemgetter(1))[2])


def fit_regression(predicted: Sequence[Predicted], stats: GeneStats) -> FittedRegression:
    """Sum up the normal equations.

    Args:
        predicted: Practised cells.
        stats: Statistics of the slide.

    Returns:
        The regression, for any penalty.
    """
    genes = ridge_genes(stats, num_targets=2 * len(OUTPUTS))
    means = np.concatenate([mean_features(each.tile.circles, each.tile.stats, genes) for each in predicted])
    features = np.concatenate([each.features.last for each in predicted])
    # The same variance as that of a neighbour mean, so that one penalty serves both.
    factor = np.sqrt(means.var(axis=0).mean()) / np.maximum(features.std(axis=0), np.float32(_TINY))
    scale = FeatureScale(features.mean(axis=0), factor.astype(np.float32))
    sums = RidgeSums(means.shape[1] + features.shape[1], 2 * len(OUTPUTS) * len(stats.mean))
    for batch in _batches(predicted):
        x = np.concatenate([_features(each, genes, scale) for each in batch])
        sums.add(x, np.concatenate([np.concatenate(_targets(each), axis=1) for each in batch]))
    return FittedRegression(genes, scale, sums.solver())


def choose(regression: FittedRegression, tuning: Sequence[Predicted], stats: GeneStats) -> list[Choice]:
    """Choose weight of the network and penalty of each output: means by squared error, the others by log loss.

    Args:
        regression: The regression.
        tuning: Tuning cells, which are not part of the regression.
        stats: Statistics of the slide.

    Returns:
        A choice for each of `OUTPUTS`; without tuning cells the network without a regression.
    """
    best = [Choice(np.inf, 1.0, np.inf)] * len(OUTPUTS)
    for penalty in PENALTIES if tuning else ():
        parts = regression.predict(tuning, penalty)
        weight, loss = _best_weight(tuning, parts)
        best[0] = min(best[0], Choice(loss, weight, penalty), Choice(_squared_error(tuning, parts, 0.0), 0.0, penalty))
        for weight in NETWORK_WEIGHTS:
            losses = _log_losses(tuning, parts, weight, stats)
            best[1:] = [min(own, Choice(loss, weight, penalty)) for own, loss in zip(best[1:], losses, strict=True)]
    return best


def _batches(predicted: Sequence[Predicted]) -> Iterator[list[Predicted]]:
    """Join small tiles: the sums of a large panel are as expensive for one cell as for hundreds."""
    batch: list[Predicted] = []
    for each in predicted:
        batch.append(each)
        if sum(one.tile.num_cells for one in batch) >= BATCH_CELLS:
            yield batch
            batch = []
    if batch:
        yield batch


def _features(predicted: Predicted, genes: NDArray[np.int64], scale: FeatureScale) -> Values:
    tile = predicted.tile
    return regression_features(tile.circles, predicted.features.last, tile.stats, genes, scale)


def _targets(predicted: Predicted) -> tuple[Values, Values]:
    """(M, 3 P) errors of the blend, and differences of the network from it, weighted as the errors are."""
    tile = predicted.tile
    of_blend = errors(tile.expression, tile.counts, predicted.blend)
    return of_blend, of_blend - errors(tile.expression, tile.counts, predicted.network)


def _mean_errors(predicted: Predicted, part: Parts) -> tuple[Values, Values]:
    """(M, P) what is left of the errors of the blend in the mean, and of the network's differences."""
    num_genes = predicted.blend.mean.shape[1]
    left = predicted.tile.expression.toarray() - predicted.blend.mean - part[0][:, :num_genes]
    return left, predicted.network.mean - predicted.blend.mean - part[1][:, :num_genes]


def _best_weight(tuning: Sequence[Predicted], parts: Sequence[Parts]) -> tuple[float, float]:
    """Weight of the network with the least squared error of the mean, and this error."""
    product = norm = 0.0
    for predicted, part in zip(tuning, parts, strict=True):
        left, direction = _mean_errors(predicted, part)
        product += float(np.multiply(left, direction).sum(dtype=np.float64))
        norm += float(np.square(direction).sum(dtype=np.float64))
    weight = min(max(product / norm if norm else 0.0, 0.0), MAX_NETWORK_WEIGHT)
    return weight, _squared_error(tuning, parts, weight)


def _squared_error(tuning: Sequence[Predicted], parts: Sequence[Parts], weight: float) -> float:
    """Sum of squared errors of the mean."""
    total = 0.0
    for predicted, part in zip(tuning, parts, strict=True):
        left, direction = _mean_errors(predicted, part)
        total += float(np.square(left - np.float32(weight) * direction).sum(dtype=np.float64))
    return total


def _cross_entropy(probability: Values, actual: NDArray[np.bool_]) -> float:
    """Sum of the cross-entropies of probabilities, which are kept away from 0 and 1."""
    kept = np.clip(probability, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return -float(np.log(np.where(actual, kept, 1 - kept)).sum(dtype=np.float64))


def _log_losses(
    tuning: Sequence[Predicted], parts: Sequence[Parts], weight: float, stats: GeneStats
) -> tuple[float, float]:
    """Sums of the cross-entropies of P(expressed), and of the composition per count."""
    of_expressed = of_composition = 0.0
    usual = stats.composition.astype(np.float32)
    for predicted, (of_blend, of_network) in zip(tuning, parts, strict=True):
        base = mix(predicted.blend, predicted.network, (weight, weight, weight))
        refined = add_errors(base, of_blend - np.float32(weight) * of_network, FLOOR)
        _, expressed, composition = parts_of(refined)
        of_expressed += _cross_entropy(expressed, predicted.tile.expression.toarray() > 0)
        counts = predicted.tile.counts.tocoo()
        expected = (1 - COMPOSITION_FLOOR) * composition + COMPOSITION_FLOOR * usual
        of_counts = np.log(np.maximum(expected[counts.row, counts.col], _TINY**2))
        of_composition -= float(counts.data @ of_counts)
    return of_expressed, of_composition
