"""Regression of a slide adaptation, from sums over practice cells.

Three things are regressed on the same features: the errors of the blend, what the smoother predicts differently from it,
and what the network predicts differently from the smoother. The errors of a base prediction are a weighted sum of them, and so
is their regression. All weights and penalties are therefore solved without reading a cell again.

Letters: M cells, P genes, F features of the regression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli.inference.adaptation.slide_adaptation import OUTPUTS, ErrorRegression, FeatureScale, regression_features
from cifm_cli.inference.adaptation.weights import Weights, add_weighted, depth_patterns
from cifm_cli.inference.neighbourhood.blend import GRID
from cifm_cli.inference.neighbourhood.residuals import errors, mean_features, ridge_genes
from cifm_cli.statistics.ridge import RidgeSums, solver_of_cells

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
    Pair = tuple[float, float]  # spread and shrink of a blend
    Parts = list[Values]  # errors of the blend, differences of the smoother, corrections of the network: (M, 3 P) each

NUM_PARTS = 3
BATCH_CELLS = 256
_SMALLEST_PROBABILITY = 1e-4
_TINY = 1e-6


class Predicted(NamedTuple):
    """Practised cells with the two predictions that the base prediction mixes."""

    tile: PracticeTile
    blend: Prediction
    network: Prediction
    features: NetworkFeatures

    def without_network(self) -> Predicted:
        """The same cells, of which the network says nothing beyond the smoother."""
        features = replace(self.features, last=np.zeros_like(self.features.last))
        return self._replace(network=self.features.smoothed, features=features)


class Choice(NamedTuple):
    """Weights and penalty of one output; see `choice.choose`."""

    loss: float  # on cells that nothing was fitted to; on the tuning cells where these are many
    weights: Weights  # in the base prediction
    penalty: float  # of the regression

    def to_json(self) -> dict[str, float | None]:
        """For the provenance."""
        return {
            **{name: round(weight, 4) for name, weight in self.weights._asdict().items()},
            "penalty": None if np.isinf(self.penalty) else self.penalty,
        }


@dataclass(frozen=True)
class FittedRegression:
    """Regression of the `Parts`."""

    genes: NDArray[np.int64]  # genes whose neighbour means are features
    scale: FeatureScale  # of the network's features
    solver: RidgeSolver  # of (F, 9 P) coefficients

    def features(self, predicted: Predicted) -> Values:
        """(M, F) features of the practised cells of a tile."""
        return _features(predicted, self.genes, self.scale)

    def solver_of(self, output: int, genes: NDArray[np.int64]) -> RidgeSolver:
        """Regression of the parts of one output for G genes: (F, 3 G) coefficients, part by part."""

        def select(values: Values) -> Values:
            """The targets of these genes."""
            chosen = _by_part(values)[..., output, :][..., genes]
            return chosen.reshape(*values.shape[:-1], -1)

        return self.solver.map_targets(select)

    def depth_solver(self, output: int, pattern: Values) -> RidgeSolver:
        """Regression of the products of the parts of one output with a pattern over the P genes: (F, 3) coefficients."""
        return self.solver.map_targets(lambda values: _by_part(values)[..., output, :] @ pattern)

    def solve(self, choices: Sequence[Choice], stats: GeneStats) -> ErrorRegression:
        """The regression of the errors of the base prediction that was chosen, one choice for each output."""
        patterns = depth_patterns(stats)
        num_genes, num_features = len(self.solver.y_mean) // (NUM_PARTS * len(OUTPUTS)), len(self.solver.x_mean)
        coefficients = np.zeros((num_features, len(OUTPUTS) * num_genes), dtype=np.float32)
        intercept = np.zeros(len(OUTPUTS) * num_genes, dtype=np.float32)
        for number, choice in enumerate(choices):
            if np.isinf(choice.penalty):
                continue
            own = slice(number * num_genes, (number + 1) * num_genes)
            # The parts are weighted before the equations are solved, as there are three times as many of them.
            combine = partial(_combine, output=number, weights=choice.weights, pattern=patterns[number])
            solver = self.solver.map_targets(combine)
            coefficients[:, own] = solver.coefficients(choice.penalty)
            intercept[own] = solver.y_mean - self.solver.x_mean @ coefficients[:, own]
        return ErrorRegression(self.genes, self.scale, coefficients, intercept)


def _by_part(values: Values) -> Values:
    """(..., 9 P) targets of the regression as (..., 3 parts, 3 outputs, P)."""
    return values.reshape(*values.shape[:-1], NUM_PARTS, len(OUTPUTS), -1)


def _combine(values: Values, output: int, weights: Weights, pattern: Values | None) -> Values:
    """(..., P) errors of the base prediction of an output, from (..., 9 P) parts."""
    of_blend, of_smoother, of_network = np.moveaxis(_by_part(values)[..., output, :], -2, 0)
    return add_weighted([of_blend, -of_smoother, -of_network], weights, pattern)


def choose_blend(blends: Sequence[tuple[FittedBlend, Sequence[PracticeTile]]]) -> tuple[Pair, Pair]:
    """Choose the hyper-parameters of a blend: for means by squared error, for P(expressed) by log loss.

    Args:
        blends: Blends, each with cells that it was not fitted to.

    Returns:
        The best of `neighbourhood.blend.GRID` for means and for P(expressed); those of the blends where there are no cells.
    """
    if not any(tiles for _, tiles in blends):
        return blends[0][0].of_mean, blends[0][0].of_expressed
    losses = []
    for pair in GRID:
        of_mean = of_expressed = 0.0
        for blend, tiles in blends:
            candidate = replace(blend, of_mean=pair, of_expressed=pair)
            for tile in tiles:
                values = tile.expression.toarray()
                mean = candidate.combine_mean(tile.circles, tile.stats)
                of_mean += float(np.square(values - mean).sum(dtype=np.float64))
                of_expressed += _cross_entropy(candidate.combine_expressed(tile.circles, tile.stats), values > 0)
        losses.append((of_mean, of_expressed, pair))
    return min(losses)[2], min(losses, key=itemgetter(1))[2]


def fit_regression(predicted: Sequence[Predicted], stats: GeneStats) -> FittedRegression:
    """Sum up the normal equations.

    Args:
        predicted: Practised cells.
        stats: Statistics of the slide.

    Returns:
        The regression, for any penalty.
    """
    genes = ridge_genes(stats, num_targets=NUM_PARTS * len(OUTPUTS))
    means = np.concatenate([mean_features(each.tile.circles, each.tile.stats, genes) for each in predicted])
    features = np.concatenate([each.features.last for each in predicted])
    # The same variance as that of a neighbour mean, so that one penalty serves both.
    factor = np.sqrt(means.var(axis=0).mean()) / np.maximum(features.std(axis=0), np.float32(_TINY))
    scale = FeatureScale(features.mean(axis=0), factor.astype(np.float32))
    num_targets = NUM_PARTS * len(OUTPUTS) * len(stats.mean)
    if len(means) <= means.shape[1] + features.shape[1]:
        # Sums over the cells would be larger than their targets.
        y, end = np.empty((len(means), num_targets), np.float32), 0
        for each in predicted:
            start, end = end, end + each.tile.num_cells
            np.concatenate(_targets(each), axis=1, out=y[start:end])
        x = np.concatenate([means, scale.apply(features)], axis=1)
        return FittedRegression(genes, scale, solver_of_cells(x, y))
    sums = RidgeSums(means.shape[1] + features.shape[1], num_targets)
    for batch in _batches(predicted):
        x = np.concatenate([_features(each, genes, scale) for each in batch])
        sums.add(x, np.concatenate([np.concatenate(_targets(each), axis=1) for each in batch]))
    return FittedRegression(genes, scale, sums.solver())


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


def _targets(predicted: Predicted) -> Parts:
    """The parts of the practised cells, weighted as `residuals.errors` are."""
    tile = predicted.tile
    of_blend, of_smoother, of_network = (
        errors(tile.expression, tile.counts, each)
        for each in (predicted.blend, predicted.features.smoothed, predicted.network)
    )
    return [of_blend, of_blend - of_smoother, of_smoother - of_network]


def _cross_entropy(probability: Values, actual: NDArray[np.bool_]) -> float:
    """Sum of the cross-entropies of probabilities, which are kept away from 0 and 1."""
    kept = np.clip(probability, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return -float(np.log(np.where(actual, kept, 1 - kept)).sum(dtype=np.float64))
