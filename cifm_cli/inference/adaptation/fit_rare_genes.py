"""Fit of the weights by which rare genes are shrunk, see `rare_genes`, to the log loss of tuning cells.

Letters: M cells, P genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar

from cifm_cli.inference.adaptation.rare_genes import RareWeights, Towards, towards_usual
from cifm_cli.inference.adaptation.weights import COMPOSITION_FLOOR, PRIOR_CELLS
from cifm_cli.inference.neighbourhood.residuals import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cifm_cli.inference.adaptation.practice import PracticeTile
    from cifm_cli.inference.prediction import Prediction

    Loss = Callable[[float], float]  # of a weight

MAX_VALUES = 4_000_000  # cells times genes that the weights are fitted to
_SMALLEST_PROBABILITY = 1e-4
_TINY = 1e-12


def fit_rare(tiles: Sequence[PracticeTile], predictions: Iterable[Prediction]) -> RareWeights:
    """Fit the weights to tuning cells.

    Args:
        tiles: Cells that nothing was fitted to.
        predictions: The prediction of each tile, with a composition.

    Returns:
        The weights, shrunk as if `PRIOR_CELLS` other cells had asked for none; zero without cells.
    """
    num_cells = sum(tile.num_cells for tile in tiles)
    if not num_cells:
        return RareWeights()
    stride = -(-num_cells * len(tiles[0].stats.mean) // MAX_VALUES)
    cells = slice(None, None, stride)
    losses = [_losses(tile, each, cells) for tile, each in zip(tiles, predictions, strict=True)]
    part = num_cells / (num_cells + PRIOR_CELLS)
    return RareWeights(*(part * _best_weight(of_output) for of_output in zip(*losses, strict=True)))


def _losses(tile: PracticeTile, prediction: Prediction, cells: slice) -> tuple[Loss, Loss]:
    """Log loss of P(expressed) and of the composition of some cells of a tile, for each weight."""
    _, expressed, composition = (part[cells] for part in parts_of(prediction))
    towards = Towards(*(part[cells] for part in towards_usual(prediction, tile.circles[-1], tile.stats)))
    is_expressed = tile.expression[cells].toarray() > 0
    start = np.where(is_expressed, expressed, 1 - expressed)
    slope = np.where(is_expressed, towards.expressed, -towards.expressed)

    def of_expressed(weight: float) -> float:
        """Sum of the cross-entropies."""
        likelihood = np.maximum(start + np.float32(weight) * slope, np.float32(_SMALLEST_PROBABILITY))
        return -float(np.log(likelihood).sum(dtype=np.float64))

    counts = tile.counts[cells].tocoo()
    at = counts.row, counts.col
    sums = towards.composition.sum(axis=1)
    floor = np.float32(COMPOSITION_FLOOR) * tile.stats.composition.astype(np.float32)[counts.col] + np.float32(_TINY)

    def of_composition(weight: float) -> float:
        """Sum of the cross-entropies of the counts."""
        fraction = composition[at] + np.float32(weight) * towards.composition[at]
        expected = (1 - COMPOSITION_FLOOR) * fraction / (1 + np.float32(weight) * sums[counts.row]) + floor
        return -float(counts.data @ np.log(expected))

    return of_expressed, of_composition


def _best_weight(losses: Sequence[Loss]) -> float:
    """The weight from 0 to 1 with the smallest sum of losses."""

    def total(weight: float) -> float:
        """The sum of the losses of different cells."""
        return sum(loss(weight) for loss in losses)

    found = minimize_scalar(total, bounds=(0, 1), method="bounded", options={"xatol": 1e-3})
    return float(found.x) if found.fun < total(0.0) else 0.0
