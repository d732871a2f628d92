"""P(expressed) and composition of rare genes, shrunk towards what the slide and a wide circle of cells tell.

Few cells near a hidden one express a rare gene, so a prediction from them says little about where the gene is expressed, and ranks
rare genes by chance. The weights of the base prediction are the same for all genes, and the frequent genes decide on them. Hence
the prediction x_g of a gene that the fraction f_g of the cells express becomes

    x_g + w (1 - f_g)^8 (u_g - x_g),

with the usual value u_g of the gene: the mean of the slide and of the widest circle, in P(expressed) at the depth of the cell.
The weight w has the smallest log loss of tuning cells, and is zero where shrinking does not help.

Letters: M cells, P genes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from cifm_cli.inference.adaptation.weights import COMPOSITION_FLOOR, PRIOR_CELLS
from cifm_cli.inference.neighbourhood.residuals import parts_of
from cifm_cli.inference.poisson_average import at_same_depth, rates_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.inference.adaptation.practice import PracticeTile
    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
    from cifm_cli.inference.prediction import Prediction

    Values = NDArray[np.float32]
    Loss = Callable[[float], float]  # of a weight

RARITY_POWER = 8  # half of the weight for a gene that a twelfth of the cells express; docs/study.md has other powers
MAX_VALUES = 4_000_000  # cells times genes that the weights are fitted to
_SMALLEST_PROBABILITY = 1e-4
_TINY = np.float32(1e-12)


class RareWeights(NamedTuple):
    """Weights of the usual values of rare genes."""

    expressed: float = 0.0
    composition: float = 0.0


def shrink_rare(prediction: Prediction, wide: Prediction, stats: GeneStats, weights: RareWeights) -> Prediction:
    """Shrink P(expressed) and composition of rare genes towards their usual values.

    Args:
        prediction: Prediction of M cells, with a composition.
        wide: Mean within the widest circle around each of them.
        stats: Statistics of the slide.
        weights: From `fit_rare`.

    Returns:
        The prediction; rows of the composition sum to 1.
    """
    _, expressed, composition = parts_of(prediction)
    towards = _towards_usual(prediction, wide, stats)
    composition = composition + np.float32(weights.composition) * towards.composition
    return replace(
        prediction,
        expressed=expressed + np.float32(weights.expressed) * towards.expressed,
        composition=composition / np.maximum(composition.sum(axis=1, keepdims=True), _TINY),
    )


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


class _Towards(NamedTuple):
    """What is added to a prediction with a weight of 1."""

    expressed: Values  # (M, P)
    composition: Values  # (M, P)


def _towards_usual(prediction: Prediction, wide: Prediction, stats: GeneStats) -> _Towards:
    """Differences between the usual values and those of a prediction, smaller for frequent genes."""
    _, expressed, composition = parts_of(prediction)
    _, wide_expressed, wide_composition = parts_of(wide)
    fraction = stats.fraction.clip(0, 1).astype(np.float32)
    rarity = (1 - fraction) ** RARITY_POWER
    rates = np.float32(0.5) * (rates_of(fraction) + rates_of(wide_expressed))
    rates /= np.maximum(rates.sum(axis=1, keepdims=True), _TINY)
    usual = at_same_depth(rates, expressed)
    usual_composition = np.float32(0.5) * (stats.composition.astype(np.float32) + wide_composition)
    return _Towards(rarity * (usual - expressed), rarity * (usual_composition - composition))


def _losses(tile: PracticeTile, prediction: Prediction, cells: slice) -> tuple[Loss, Loss]:
    """Log loss of P(expressed) and of the composition of some cells of a tile, for each weight."""
    _, expressed, composition = (part[cells] for part in parts_of(prediction))
    towards = _Towards(*(part[cells] for part in _towards_usual(prediction, tile.circles[-1], tile.stats)))
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
    floor = np.float32(COMPOSITION_FLOOR) * tile.stats.composition.astype(np.float32)[counts.col] + _TINY

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
