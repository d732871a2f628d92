"""Weighted means of the visible cells around places: within circles, or of the nearest cells.

Each has the weighted mean, the fraction of cells that express the gene, and the composition of the weighted sum of
counts. That composition is the most likely one for cells that share it, and has a lower deviance on tissue than the
mean of the cells' own compositions.

Letters: V visible cells, Q places, P genes, M cells or squares of cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.inference.prediction import Prediction
from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.inference.neighbourhood.visible_cells import CellSums, VisibleCells

    Floats = NDArray[np.float64]
    Values = NDArray[np.float32]
    Columns = NDArray[np.int64]

SQUARES_FROM_RADII = 4.0  # circles wider than this many radii of the graph are filled with squares, for speed
_SQUARES_PER_RADIUS = 4


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
        side_um = square_side_um(radius_um, visible.radius_um)
        cells = visible.cells if side_um is None else visible.squares(side_um)
        wider = weighted_means(pairs_within(cKDTree(xy_um), cells.tree, radius_um), cells, wider)
        means.insert(0, wider)
    return means


def square_side_um(radius_um: float, graph_radius_um: float) -> float | None:
    """Side of the squares that a circle is filled with; None for a circle that is filled with cells."""
    return radius_um / _SQUARES_PER_RADIUS if radius_um > SQUARES_FROM_RADII * graph_radius_um else None


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
