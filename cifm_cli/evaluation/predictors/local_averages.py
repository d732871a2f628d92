"""Baselines without learning: constants, random draws, and weighted means of the visible cells around a place.

They are the paper's three baselines (section 4) and stronger ones. Each has the weighted mean, the fraction of cells that
express the gene, and the composition of the weighted sum of counts. That composition is the most likely one for cells
that share it, and has a lower deviance on tissue than the mean of the cells' own compositions.

Letters: V visible cells, Q places, P genes, M cells or squares of cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.evaluation.predictors.base import Baseline, Parameters
from cifm_cli.inference.prediction import Prediction
from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.examples import CellSums, VisibleCells

    Floats = NDArray[np.float64]
    Values = NDArray[np.float32]
    Columns = NDArray[np.int64]

SQUARES_FROM_RADII = 4.0  # circles wider than this many radii of the graph are filled with squares, for speed
_SQUARES_PER_RADIUS = 4


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


def training_mean(visible: VisibleCells, num_places: int) -> Prediction:
    """Predict every cell as the mean, the expressing fraction and the composition of the training cells."""
    stats = visible.gene_stats
    rows = (np.tile(x.astype(np.float32), (num_places, 1)) for x in (stats.mean, stats.fraction, stats.composition))
    return Prediction(*rows)


def within(visible: VisibleCells, xy_um: Floats, radius_um: float) -> csr_matrix:
    """Select the visible cells at most a radius away: (Q, V) ones."""
    return pairs_within(cKDTree(xy_um), visible.cells.tree, radius_um)


def nearest(visible: VisibleCells, xy_um: Floats, k: int, width_um: float) -> csr_matrix:
    """Weight the nearest visible cells by exp(-(d^2 - d_1^2) / 2 w^2), d_1 the distance of the nearest.

    Args:
        visible: The visible cells.
        xy_um: (Q, 2) places, micrometres.
        k: Number of neighbours.
        width_um: w in micrometres; infinite for equal weights.

    Returns:
        (Q, V) weights.
    """
    k = min(k, len(visible.xy_um))
    distance, column = visible.cells.tree.query(xy_um, k=range(1, k + 1))
    # Relative to the nearest cell, so that a place far from all cells takes the nearest instead of weights of zero.
    weight = np.exp(-0.5 * (distance**2 - distance[:, :1] ** 2) / width_um**2).astype(np.float32)
    indptr = np.arange(len(xy_um) + 1) * k
    return csr_matrix((weight.ravel(), column.ravel(), indptr), shape=(len(xy_um), len(visible.xy_um)))


def average(weights: csr_matrix, visible: VisibleCells) -> Prediction:
    """Average the visible cells by (Q, V) weights; places without weights get the training mean."""
    return weighted_means(weights, visible.cells, training_mean(visible, weights.shape[0]))


def radius_means(visible: VisibleCells, xy_um: Floats, radii_um: Sequence[float]) -> list[Prediction]:
    """Average the visible cells within several radii.

    Wide circles are filled with squares of a quarter of the radius; a square is included or excluded as a whole.

    Args:
        visible: The visible cells.
        xy_um: (Q, 2) places, micrometres.
        radii_um: Ascending, micrometres.

    Returns:
        One prediction for each radius. An empty circle takes the value of the next wider one, the widest that of the
        training cells.
    """
    # From the widest circle inwards, so that an empty circle can take the value of the next wider one.
    means: list[Prediction] = []
    wider = training_mean(visible, len(xy_um))
    for radius_um in reversed(radii_um):
        wide = radius_um > SQUARES_FROM_RADII * visible.radius_um
        cells = visible.squares(radius_um / _SQUARES_PER_RADIUS) if wide else visible.cells
        wider = weighted_means(pairs_within(cKDTree(xy_um), cells.tree, radius_um), cells, wider)
        means.insert(0, wider)
    return means


def pairs_within(places: cKDTree, cells: cKDTree, radius_um: float) -> csr_matrix:
    """Pairs of Q places and M cells at most a radius apart: (Q, M) ones."""
    pairs = places.sparse_distance_matrix(cells, radius_um, output_type="ndarray")
    ones = np.ones(len(pairs), dtype=np.float32)
    return csr_matrix((ones, (pairs["i"], pairs["j"])), shape=(places.n, cells.n))


def weighted_means(weights: csr_matrix, cells: CellSums, fallback: Prediction) -> Prediction:
    """Average cells or squares of cells.

    Args:
        weights: (Q, M), not negative.
        cells: M cells or squares.
        fallback: (Q, P) for places without weights.

    Returns:
        Mean, P(expressed) and composition.
    """
    mass = np.asarray(weights @ cells.number)
    mean, expressed = _divide(weights, cells.expression, mass), _divide(weights, cells.expressed, mass)
    depth = weights @ np.asarray(cells.counts.sum(axis=1), dtype=np.float32)
    composition = _divide(weights, cells.counts, depth)
    alone, without_counts = mass[:, 0] == 0, depth[:, 0] == 0
    mean[alone], expressed[alone] = fallback.mean[alone], fallback.expressed[alone]
    if fallback.composition is not None:
        composition[without_counts] = fallback.composition[without_counts]
    return Prediction(mean, np.minimum(expressed, 1), composition)


def _divide(weights: csr_matrix, values: csr_matrix, mass: Values) -> Values:
    """(Q, P) weighted sums divided by (Q, 1) masses; 0 where the mass is 0."""
    total = weighted_sums(weights, values)
    total /= np.where(mass > 0, mass, 1)
    return total


def weighted_sums(weights: csr_matrix, values: csr_matrix) -> Values:
    """Multiply sparse (Q, V) and (V, P) matrices straight into a dense one, in the order of the stored weights."""
    # SciPy would first build a sparse product with almost no zeros.
    total = np.zeros((weights.shape[0], values.shape[1]), dtype=np.float32)
    _add_rows(total, *(part for matrix in (weights, values) for part in (matrix.indptr, matrix.indices, matrix.data)))
    return total


@compiled
def _add_rows(
    total: Values, first: Columns, row: Columns, weight: Values, first_gene: Columns, gene: Columns, value: Values
) -> None:
    for place in range(len(total)):
        for i in range(first[place], first[place + 1]):
            for j in range(first_gene[row[i]], first_gene[row[i] + 1]):
                total[place, gene[j]] += weight[i] * value[j]
