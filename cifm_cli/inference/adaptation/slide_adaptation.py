"""What adaptation has fitted to a slide, and the prediction that follows from it.

Letters: M cells, P genes, D features of the network, F features of the regression, T terms of the smoother.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.inference.adaptation.rare_genes import RareWeights, shrink_rare
from cifm_cli.inference.adaptation.state_pool import pool_inputs, pool_states
from cifm_cli.inference.adaptation.weights import add_weighted, depth_patterns
from cifm_cli.inference.neighbourhood.residuals import add_errors, mean_features, parts_of
from cifm_cli.inference.poisson_average import average_poisson
from cifm_cli.inference.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from cifm_cli.inference.adaptation.weights import Weights
    from cifm_cli.inference.neighbourhood.blend import FittedBlend
    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
    from cifm_cli.inference.network_features import NetworkFeatures
    from cifm_cli.model.slide_parameters import SlideParameters

    Values = NDArray[np.float32]

OUTPUTS = ("mean", "expressed", "composition")
# Fraction of the base prediction that the regression leaves at least: at zero, unlikely genes would be tied, and a count of
# one of them impossible.
FLOOR = 0.1


@dataclass(frozen=True)
class FeatureScale:
    """Standardisation of the features of the network beside the neighbour means."""

    mean: Values  # (D,)
    factor: Values  # (D,)

    def apply(self, features: Values) -> Values:
        """Centre and scale (M, D) features."""
        return np.asarray((features - self.mean) * self.factor)


@dataclass(frozen=True)
class ErrorRegression:
    """Regression of the errors of the base prediction."""

    genes: NDArray[np.int64]  # genes whose neighbour means are features
    scale: FeatureScale  # of the network's features
    coefficients: Values  # (F, 3 P)
    intercept: Values  # (3 P,)

    def predict(self, circles: Sequence[Prediction], features: Values, stats: GeneStats) -> Values:
        """(M, 3 P) errors, see `residuals.errors`."""
        x = regression_features(circles, features, stats, self.genes, self.scale)
        return np.asarray(x @ self.coefficients + self.intercept)


@dataclass(frozen=True)
class Refinement:
    """What turns the network's prediction into that of the adapted model."""

    blend: FittedBlend  # blend of neighbour means
    weights: tuple[Weights, ...]  # of the base prediction, for each of `OUTPUTS`
    regression: ErrorRegression
    state_weights: NDArray[np.float64]  # (1 + T,) of network and frequencies in the probabilities of the states
    rare_weights: RareWeights  # of the usual values of rare genes

    def predict(
        self, network: Prediction, features: NetworkFeatures, circles: Sequence[Prediction], stats: GeneStats
    ) -> Prediction:
        """Mix the predictions and add the regression.

        Args:
            network: Prediction of the network for M cells.
            features: Features of the network.
            circles: Neighbour means of the cells, one prediction for each radius.
            stats: Statistics of the slide.

        Returns:
            Mean, P(expressed) and composition, each predicted by itself.
        """
        blend = self.blend.combine(circles, stats)
        base = mix(circles[-1], blend, features.smoothed, network, stats, self.weights)
        return correct(base, self.regression.predict(circles, features.last, stats), stats)


@dataclass(frozen=True)
class SlideAdaptation:
    """A model's adaptation to one slide."""

    parameters: SlideParameters  # of the slide, for the head
    stats: GeneStats  # statistics of the cells that it was fitted to
    refinement: Refinement | None  # None where nothing was predicted for practice
    facts: dict[str, Any]  # what was chosen, and how many cells it was fitted to, for the provenance

    def refine(self, prediction: Prediction, features: NetworkFeatures, circles: Sequence[Prediction]) -> Prediction:
        """Turn the network's prediction into that of the adapted model.

        Args:
            prediction: Prediction of the network for M cells, with the parameters of the slide.
            features: Features of the network.
            circles: Neighbour means of the cells, one prediction for each radius.

        Returns:
            The prediction.
        """
        fitted = self.refinement
        if fitted is None:
            return average_poisson(prediction, self.stats.fraction)
        averaged = average_poisson(fitted.predict(prediction, features, circles, self.stats), self.stats.fraction)
        refined = shrink_rare(averaged, circles[-1], self.stats, fitted.rare_weights)
        if prediction.states is None:
            return refined
        inputs = pool_inputs(prediction.states, features.frequencies)
        return replace(refined, states=pool_states(inputs, fitted.state_weights))


def mix(
    wide: Prediction,
    blend: Prediction,
    smoothed: Prediction,
    network: Prediction,
    stats: GeneStats,
    weights: Sequence[Weights],
) -> Prediction:
    """Base prediction, see `weights`.

    Args:
        wide: Mean within the widest circle.
        blend: Blend of neighbour means.
        smoothed: Prediction of the smoother.
        network: Prediction of the network, which corrects the smoother.
        stats: Statistics of the slide.
        weights: Weights of each of `OUTPUTS`.

    Returns:
        The prediction.
    """
    mean, expressed, composition = (
        parts[0]
        + add_weighted([usual - parts[0], *(after - before for before, after in pairwise(parts))], own, pattern)
        for usual, *parts, own, pattern in zip(
            profile_of(stats),
            *map(parts_of, (wide, blend, smoothed, network)),
            weights,
            depth_patterns(stats),
            strict=True,
        )
    )
    return Prediction(mean, expressed, composition)


def profile_of(stats: GeneStats) -> tuple[Values, Values, Values]:
    """Profile of a slide for each of `OUTPUTS`."""
    mean, fraction, composition = (x.astype(np.float32) for x in (stats.mean, stats.fraction, stats.composition))
    return mean, fraction, composition


def correct(base: Prediction, predicted_errors: Values, stats: GeneStats) -> Prediction:
    """Add predicted errors to the base prediction.

    Args:
        base: Base prediction of M cells.
        predicted_errors: (M, 3 P).
        stats: Statistics of the slide. P(expressed) is at least `FLOOR` of the fraction of its cells that express the gene:
            otherwise the rare genes that no cell nearby expresses would be tied at zero.

    Returns:
        The prediction.
    """
    refined = add_errors(base, predicted_errors, FLOOR)
    return replace(
        refined, expressed=np.maximum(refined.expressed, np.float32(FLOOR) * stats.fraction.astype(np.float32))
    )


def regression_features(
    circles: Sequence[Prediction],
    features: Values,
    stats: GeneStats,
    genes: NDArray[np.int64],
    scale: FeatureScale,
) -> Values:
    """(M, F) features of the regression: neighbour means of some genes, and the features of the network."""
    return np.concatenate([mean_features(circles, stats, genes), scale.apply(features)], axis=1)
