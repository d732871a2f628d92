"""Baselines that learn from training cells: a blend of neighbour means per gene, and a ridge regression on top of it.

Letters: Q hidden cells, P genes, S radii, F features.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np

from cifm_cli.evaluation.predictors.base import Baseline, Parameters
from cifm_cli.inference.neighbourhood.blend import (
    GRID,
    RADII,
    SHRINK,
    SPREAD,
    BlendSums,
    neighbour_means,
    neighbour_means_in_parts,
)
from cifm_cli.inference.neighbourhood.residuals import add_errors, errors, mean_features, ridge_genes
from cifm_cli.inference.prediction import Prediction
from cifm_cli.statistics.ridge import RidgeSums

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.examples import TrainingFolds
    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats, VisibleCells

    Floats = NDArray[np.float64]


def _concatenate(parts: Iterator[Prediction]) -> Prediction:
    predictions = list(parts)
    return Prediction.concatenate(predictions, np.arange(sum(part.num_cells for part in predictions)))


class Blend(Baseline):
    """Per gene, a weighted sum of the means within five radii and of the training mean; see `neighbourhood.blend`."""

    name = "blend"

    def __init__(self, spread: float = SPREAD, shrink: float = SHRINK) -> None:
        self.spread = spread
        self.shrink = shrink

    def parameter_grid(self) -> Sequence[Parameters]:
        """Spread of the genes' weights around the shared ones, and penalty of the shared ones."""
        return [{"spread": spread, "shrink": shrink} for spread, shrink in GRID]

    def fit(self, examples: TrainingFolds) -> Self:
        """Sum up the regressions of expression and of "is expressed", and fit the mixture of compositions."""
        sums = BlendSums(len(examples.gene_stats.mean))
        for example in examples:
            means = neighbour_means(example.visible, example.xy_um)
            sums.add(means, example.expression, example.counts, example.visible.gene_stats)
        self.fitted_ = sums.fitted()
        return self

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        chosen = (self.spread, self.shrink)
        fitted = replace(self.fitted_, of_mean=chosen, of_expressed=chosen)
        return _concatenate(
            fitted.combine(means, visible.gene_stats) for means in neighbour_means_in_parts(visible, xy_um)
        )


class Ridge(Baseline):
    """The blend, plus a ridge regression of its errors on the means of all genes within five radii.

    The errors are those of expression, of "is expressed", and of the composition. A high penalty leaves the blend.
    """

    name = "ridge"

    def __init__(self, penalty: float = 10.0) -> None:
        self.penalty = penalty

    def parameter_grid(self) -> Sequence[Parameters]:
        """Penalties, in units of the mean variance of a feature."""
        return [{"penalty": penalty} for penalty in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)]

    def fit(self, examples: TrainingFolds) -> Self:
        """Fit the blend and sum up the regression of its errors."""
        self.blend_ = examples.fitted(Blend()).fitted_
        self.genes_ = ridge_genes(examples.gene_stats, num_targets=3)
        sums = RidgeSums(len(self.genes_) * len(RADII), 3 * len(examples.gene_stats.mean))
        for example in examples:
            means, stats = neighbour_means(example.visible, example.xy_um), example.visible.gene_stats
            base = self.blend_.combine(means, stats)
            sums.add(mean_features(means, stats, self.genes_), errors(example.expression, example.counts, base))
        self.ridge_ = sums.solver()
        return self

    def predict(self, visible: VisibleCells, xy_um: Floats) -> Prediction:
        """See `Baseline`."""
        parts = neighbour_means_in_parts(visible, xy_um)
        return _concatenate(self._correct(means, visible.gene_stats) for means in parts)

    def _correct(self, means: Sequence[Prediction], stats: GeneStats) -> Prediction:
        """Add the predicted errors to the blend."""
        x = mean_features(means, stats, self.genes_)
        return add_errors(self.blend_.combine(means, stats), self.ridge_.predict(x, self.penalty))
