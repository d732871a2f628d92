"""P(expressed) and composition of rare genes, shrunk towards what the slide and a wide circle of cells tell.

Few cells near a hidden one express a rare gene, so a prediction from them says little about where the gene is expressed, and ranks
rare genes by chance. The weights of the base prediction are the same for all genes, and the frequent genes decide on them. Hence
the prediction x_g of a gene that the fraction f_g of the cells express becomes

    x_g + w (1 - f_g)^8 (u_g - x_g),

with the usual value u_g of the gene: the mean of the slide and of the widest circle, in P(expressed) at the depth of the cell.
The weight w has the smallest log loss of tuning cells (`fit_rare_genes`), and is zero where shrinking does not help.

Letters: M cells, P genes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli.inference.neighbourhood.residuals import parts_of
from cifm_cli.inference.poisson_average import at_same_depth, rates_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
    from cifm_cli.inference.prediction import Prediction

    Values = NDArray[np.float32]

RARITY_POWER = 8  # half of the weight for a gene that a twelfth of the cells express; docs/study.md has other powers
_TINY = np.float32(1e-12)


class RareWeights(NamedTuple):
    """Weights of the usual values of rare genes."""

    expressed: float = 0.0
    composition: float = 0.0

    def to_json(self) -> dict[str, float]:
        """For the provenance."""
        return {name: round(weight, 4) for name, weight in self._asdict().items()}


class Towards(NamedTuple):
    """What is added to a prediction with a weight of 1."""

    expressed: Values  # (M, P)
    composition: Values  # (M, P)


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
    towards = towards_usual(prediction, wide, stats)
    composition = composition + np.float32(weights.composition) * towards.composition
    return replace(
        prediction,
        expressed=expressed + np.float32(weights.expressed) * towards.expressed,
        composition=composition / np.maximum(composition.sum(axis=1, keepdims=True), _TINY),
    )


def towards_usual(prediction: Prediction, wide: Prediction, stats: GeneStats) -> Towards:
    """Differences between the usual values and those of a prediction, smaller for frequent genes.

    Args:
        prediction: Prediction of M cells, with a composition.
        wide: Mean within the widest circle around each of them.
        stats: Statistics of the slide.

    Returns:
        The differences.
    """
    _, expressed, composition = parts_of(prediction)
    _, wide_expressed, wide_composition = parts_of(wide)
    fraction = stats.fraction.clip(0, 1).astype(np.float32)
    rarity = (1 - fraction) ** RARITY_POWER
    rates = np.float32(0.5) * (rates_of(fraction) + rates_of(wide_expressed))
    rates /= np.maximum(rates.sum(axis=1, keepdims=True), _TINY)
    usual = at_same_depth(rates, expressed)
    usual_composition = np.float32(0.5) * (stats.composition.astype(np.float32) + wide_composition)
    return Towards(rarity * (usual - expressed), rarity * (usual_composition - composition))
