"""Baselines without learning: constants, random draws, and weighted means of the visible cells around a place.

They are the paper's three baselines (section 4) and stronger ones.

Letters: Q places, P genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.predictors.base import Baseline, Parameters
from cifm_cli.inference.neighbourhood.circle_means import average, nearest, training_mean, within
from cifm_cli.inference.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.inference.neighbourhood.visible_cells import VisibleCells

    Floats = NDArray[np.float64]
    Values = NDArray[np.float32]


class Zeros(Baseline):
    """No gene is expressed."""

    name = "zeros"

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        zeros = np.zeros((len(xy_um), visible.expression.shape[1]), dtype=np.float32)
        return Prediction(zeros, zeros)


class TrainingMean(Baseline):
    """Every cell is the mean of the training cells."""

    name = "training_mean"

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        return training_mean(visible, len(xy_um))


class Uniform(Baseline):
    """Per gene, uniform between zero and twice its training mean (paper, section 4)."""

    name = "uniform"

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        stats = visible.gene_stats
        # A uniform distribution from zero to twice the mean has that mean.
        draw = 2 * visible.generator(self.name).random((len(xy_um), len(stats.mean)), dtype=np.float32)
        expressed = np.minimum(draw * stats.fraction, 1)
        return Prediction((draw * stats.mean).astype(np.float32), expressed.astype(np.float32))


class Bernoulli(Baseline):
    """Per gene, expressed with its training frequency, then at its mean among expressing cells (paper, section 4)."""

    name = "bernoulli"

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        stats = visible.gene_stats
        draw = visible.generator(self.name).random((len(xy_um), len(stats.mean)), dtype=np.float32) < stats.fraction
        magnitude = stats.mean / np.maximum(stats.fraction, np.finfo(np.float64).tiny)  # no division by zero
        return Prediction((draw * magnitude).astype(np.float32), draw.astype(np.float32))


class NeighbourhoodAverage(Baseline):
    """Mean of the visible cells within the radius of the graph (paper, section 4)."""

    name = "neighbourhood_average"

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        return average(within(visible, xy_um, visible.radius_um), visible)


class RadiusMean(Baseline):
    """Mean of the visible cells within the full receptive field of the model: the cells that the model sees."""

    name = "radius_mean"

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        return average(within(visible, xy_um, visible.reach_um), visible)


class NearestNeighbours(Baseline):
    """Mean of the k nearest visible cells."""

    name = "knn"

    def __init__(self, k: int = 16) -> None:
        self.k = k

    def parameter_grid(self) -> Sequence[Parameters]:
        """Values of k."""
        return [{"k": k} for k in (4, 8, 16, 32, 48, 64, 96, 128, 256)]

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        return average(nearest(visible, xy_um, self.k, np.inf), visible)


class WeightedNeighbours(Baseline):
    """Mean of the k nearest visible cells, weighted by exp(-(d^2 - d_1^2) / 2 w^2), d_1 the distance of the nearest."""

    name = "weighted_knn"

    def __init__(self, k: int = 64, width: float = 1.0) -> None:
        self.k = k
        self.width = width

    def parameter_grid(self) -> Sequence[Parameters]:
        """Pairs of k and the width w of the kernel, in radii of the graph."""
        return [{"k": k, "width": width} for k in (16, 64, 256) for width in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)]

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        return average(nearest(visible, xy_um, self.k, self.width * visible.radius_um), visible)
