"""Fit of a slide adaptation, in closed form.

1. Profiles, cell states and the blends of the smoother are those of the slide (`SlideParameters`).
2. The base prediction is a blend of neighbour means plus a multiple of what the network predicts differently.
3. A ridge regression predicts its errors from the neighbour means and the features of the network. With the network's
   weight at zero this is the baseline `ridge` fitted to the slide; with a high penalty it is the base prediction.

The weight and the penalty are chosen on tuning cells, which are in neither of the fits.

Letters: M cells, P genes, D features of the network, F features of the regression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli.inference.adaptation.practice import PracticeTile, practice_tiles, stats_of
from cifm_cli.inference.adaptation.slide_adaptation import (
    OUTPUTS,
    FeatureScale,
    SlideAdaptation,
    mix,
    regression_features,
)
from cifm_cli.inference.hidden_tile import features_of, run_network
from cifm_cli.inference.neighbourhood.blend import BlendSums
from cifm_cli.inference.neighbourhood.residuals import add_errors, errors, mean_features, parts_of, ridge_genes
from cifm_cli.inference.prediction import Prediction
from cifm_cli.model.gene_profiles import sum_genes
from cifm_cli.model.slide_fit import fit_slide_parameters
from cifm_cli.model.slide_parameters import start_parameters
from cifm_cli.model.states import fit_states
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.ridge import RidgeSums

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.adaptation.practice import PracticeFold
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.neighbourhood.blend import FittedBlend
    from cifm_cli.model.gene_profiles import GeneTotals
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.statistics.ridge import RidgeSolver

    Values = NDArray[np.float32]

MAX_STATE_CELLS = 20_000  # cells that are clustered into cell states
# In units of the mean variance of a feature; without a regression for the last
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, np.inf)
COMPOSITION_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the network in compositions
MAX_WEIGHT = 1.25  # of the network in means and probabilities


@dataclass(frozen=True)
class AdaptationData:
    """The cells that a slide is adapted by."""

    rows: Rows  # ascending rows that profiles, states and practice use
    practice: Sequence[PracticeFold]  # folds of them that the regressions are fitted to
    tuning: Sequence[PracticeFold]  # folds of other cells, on which weights and penalties are chosen
    seed: int  # of the cell states


def fit_adaptation(model: LoadedModel, slide: Slide, data: AdaptationData) -> LoadedModel:
    """Adapt a model to a slide.

    Args:
        model: A model with the objective `residual`.
        slide: The slide, at the radius of the model.
        data: The cells to learn from. Nothing else of the slide is read.

    Returns:
        The model with a `SlideAdaptation`.
    """
    totals = sum_genes(slide, data.rows, model.panel(slide), model.checkpoint.recipe.data.target_sum)
    start = _start(model, slide, data, totals)
    practice, tuning = (
        list(practice_tiles(model, slide, folds, start, totals, data.rows)) for folds in (data.practice, data.tuning)
    )
    parameters = fit_slide_parameters(
        start,
        (tile.example() for tile in practice),
        (tile.example() for tile in tuning),
        model.checkpoint.recipe.objective.pool_decay,
    )
    sums = BlendSums(start.num_genes)
    for tile in practice:
        sums.add(_circles(tile), tile.expression, tile.counts, tile.stats)
    base = _Base(model, parameters, sums.fitted())
    regression = _fit_regression(base, practice, totals)
    return replace(
        model, adaptation=_choose(base, regression, tuning, totals, sum(tile.num_cells for tile in practice))
    )


def _start(model: LoadedModel, slide: Slide, data: AdaptationData, totals: GeneTotals) -> SlideParameters:
    """Profiles and states of the slide, with equal weights of the terms of the smoother."""
    recipe = model.checkpoint.recipe
    with_counts = data.rows[slide.total_counts[data.rows] > 0]
    # Every stride-th cell along the Hilbert curve covers all areas of the slide.
    sample = with_counts[:: max(1, -(-len(with_counts) // MAX_STATE_CELLS))]
    cells = slide.expression(sample, recipe.data.target_sum)[:, model.panel(slide).columns]
    seed = int(numpy_generator(data.seed, "adaptation states").integers(2**31))
    states = fit_states(cells, recipe.objective.states, seed)
    return start_parameters(totals.profiles(), *states, len(recipe.objective.scales) + 1)


def _circles(tile: PracticeTile) -> Sequence[Prediction]:
    if tile.hidden.circles is None:
        raise ValueError("a practice tile has neighbour means")
    return tile.hidden.circles


class _Predicted(NamedTuple):
    """Practised cells with the two predictions that the base prediction mixes."""

    tile: PracticeTile
    blend: Prediction
    network: Prediction
    features: Values  # (M, D) of the network


@dataclass(frozen=True)
class _Base:
    """The two predictors that the base prediction mixes."""

    model: LoadedModel
    parameters: SlideParameters
    blend: FittedBlend

    def predict(self, tiles: Sequence[PracticeTile]) -> Iterator[_Predicted]:
        """Predict practised cells tile by tile."""
        for tile in tiles:
            output = run_network(self.model, tile.with_parameters(self.parameters).hidden.masked)
            blend = self.blend.combine(_circles(tile), tile.stats)
            yield _Predicted(tile, blend, Prediction.from_logits(output), features_of(output))


@dataclass(frozen=True)
class _Regression:
    """Regression of the errors of the blend, and of what the network predicts differently, on the same features.

    The errors of a base prediction with the weight s of the network are the former minus s times the latter, and so is
    their regression.
    """

    genes: NDArray[np.int64]
    scale: FeatureScale
    solver: RidgeSolver  # of (F, 6 P) coefficients

    def features(self, predicted: _Predicted) -> Values:
        """(M, F) features."""
        tile = predicted.tile
        return regression_features(_circles(tile), predicted.features, tile.stats, self.genes, self.scale)

    def predict(self, x: Values, penalty: float) -> tuple[Values, Values]:
        """(M, 3 P) predicted errors of the blend, and predicted differences of the network; zero without regression."""
        if np.isinf(penalty):
            zeros = np.zeros((len(x), len(self.solver.y_mean) // 2), dtype=np.float32)
            return zeros, zeros
        blend, network = np.split(self.solver.predict(x, penalty), 2, axis=1)
        return blend, network


def _targets(predicted: _Predicted) -> tuple[Values, Values]:
    """(M, 3 P) errors of the blend, and differences of the network from it, weighted as the errors are."""
    tile, blend = predicted.tile, predicted.blend
    of_blend = errors(tile.expression, tile.counts, blend)
    of_network = errors(tile.expression, tile.counts, predicted.network)
    return of_blend, of_blend - of_network


def _fit_regression(base: _Base, practice: Sequence[PracticeTile], totals: GeneTotals) -> _Regression:
    stats = stats_of(totals)
    genes = ridge_genes(stats, num_targets=2 * len(OUTPUTS))
    predicted = list(base.predict(practice))
    means = np.concatenate([mean_features(_circles(each.tile), each.tile.stats, genes) for each in predicted])
    features = np.concatenate([each.features for each in predicted])
    # The same variance as that of a neighbour mean, so that one penalty serves both.
    spread = np.sqrt(means.var(axis=0).mean()) / np.maximum(features.std(axis=0), np.float32(1e-6))
    scale = FeatureScale(features.mean(axis=0), spread.astype(np.float32))
    num_features = means.shape[1] + features.shape[1]
    del means, features
    sums = RidgeSums(num_features, 2 * len(OUTPUTS) * len(stats.mean))
    for each in predicted:
        x = regression_features(_circles(each.tile), each.features, each.tile.stats, genes, scale)
        sums.add(x, np.concatenate(_targets(each), axis=1))
    return _Regression(genes, scale, sums.solver())


def _choose(
    base: _Base, regression: _Regression, tuning: Sequence[PracticeTile], totals: GeneTotals, num_practised: int
) -> SlideAdaptation:
    """Choose weights of the network and penalties on the tuning cells."""
    predicted = list(base.predict(tuning))
    stats, num_genes = stats_of(totals), len(base.parameters.mean)
    x = np.concatenate([regression.features(each) for each in predicted])
    of_blend, of_network = (np.concatenate(parts) for parts in zip(*map(_targets, predicted), strict=True))
    best: dict[str, tuple[float, float, float]] = {}  # error, weight, penalty of each output
    for penalty in PENALTIES:
        blend_errors, differences = regression.predict(x, penalty)
        for number, output in enumerate(OUTPUTS[:2]):
            genes = slice(number * num_genes, (number + 1) * num_genes)
            left, direction = (of_blend - blend_errors)[:, genes], (of_network - differences)[:, genes]
            norm = float(np.square(direction).sum(dtype=np.float64))
            optimum = float(np.multiply(left, direction).sum(dtype=np.float64)) / norm if norm else 0.0
            for weight in {0.0, min(max(optimum, 0.0), MAX_WEIGHT)}:
                error = float(np.square(left - np.float32(weight) * direction).mean(dtype=np.float64))
                best[output] = min(best.get(output, (np.inf, 0.0, np.inf)), (error, weight, penalty))
        composition = slice(2 * num_genes, 3 * num_genes)
        for weight in COMPOSITION_WEIGHTS:
            error = _composition_loss(predicted, blend_errors[:, composition], differences[:, composition], weight)
            best[OUTPUTS[2]] = min(best.get(OUTPUTS[2], (np.inf, 0.0, np.inf)), (error, weight, penalty))
    weights, coefficients, intercepts = [], [], []
    for number, output in enumerate(OUTPUTS):
        _, weight, penalty = best[output]
        own, other = (slice((i * 3 + number) * num_genes, (i * 3 + number + 1) * num_genes) for i in range(2))
        zero = np.isinf(penalty)
        matrix = (
            np.zeros((x.shape[1], 2 * 3 * num_genes), np.float32) if zero else regression.solver.coefficients(penalty)
        )
        w = matrix[:, own] - np.float32(weight) * matrix[:, other]
        y_mean = regression.solver.y_mean
        b = 0 if zero else y_mean[own] - np.float32(weight) * y_mean[other] - regression.solver.x_mean @ w
        weights.append(weight)
        coefficients.append(w)
        intercepts.append(np.zeros(num_genes, np.float32) + b)
    facts = {
        "cells": num_practised,
        "tuned": {
            name: {"network": weight, "penalty": None if np.isinf(penalty) else penalty}
            for name, (_, weight, penalty) in best.items()
        },
    }
    return SlideAdaptation(
        base.parameters,
        stats,
        base.blend,
        regression.genes,
        regression.scale,
        (weights[0], weights[1], weights[2]),
        np.concatenate(coefficients, axis=1),
        np.concatenate(intercepts).astype(np.float32),
        facts,
    )


def _composition_loss(
    predicted: Sequence[_Predicted], blend_errors: Values, differences: Values, weight: float
) -> float:
    """Cross-entropy per count of the compositions of tuning cells."""
    total, number, first = 0.0, 0.0, 0
    for each in predicted:
        rows = slice(first, first + each.tile.num_cells)
        first = rows.stop
        base = mix(each.blend, each.network, (0, 0, weight))
        zeros = np.zeros_like(base.mean)
        found = blend_errors[rows] - np.float32(weight) * differences[rows]
        refined = add_errors(base, np.concatenate([zeros, zeros, found], axis=1))
        counts = each.tile.counts.tocoo()
        probability = parts_of(refined)[2][counts.row, counts.col]
        total -= float(counts.data @ np.log(np.maximum(probability, 1e-9)))
        number += float(counts.data.sum())
    return total / max(number, 1.0)
