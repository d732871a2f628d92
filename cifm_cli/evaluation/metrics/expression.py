"""Accuracy of predicted expression per cell and per gene: every metric of `metrics.json` is defined here.

Letters: Q scored cells, P genes, R draws of the bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.metrics.counts import deviance, expected_composition
from cifm_cli.evaluation.metrics.ranking import average_ranks, correlations, detection, row_slices
from cifm_cli.statistics.bootstrap import Statistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.evaluation.examples import Targets
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.statistics.bootstrap import Bootstrap

    Floats = NDArray[np.float64]

DEFINITIONS = {
    "mse": "mean squared error over all cells and genes, log-normalised expression",
    "balanced_mse": "(mean squared error over expressed entries + that over zeros) / 2 (Eq. 15)",
    "pearson_cell": "Pearson correlation over the genes of a cell, averaged over cells; 0 where either is constant",
    "spearman_cell": "Spearman correlation over the genes of a cell, averaged over cells; 0 where either is constant",
    "pearson_gene": "Pearson correlation over the cells of a gene, averaged over genes; 0 where either is constant",
    "spearman_gene": "Spearman correlation over the cells of a gene, averaged over genes; 0 where either is constant",
    "auroc": "probability that an expressed gene of a cell has a higher P(expressed) than one that is not, averaged over cells",
    "deviance": "Poisson deviance of a cell's counts given its depth and the predicted composition, nats per cell",
    "ap": "average precision of P(expressed) in finding the expressed genes of a cell, averaged over cells",
    "pearson_cell_centred": "pearson_cell after subtracting the training mean of each gene from both sides",
    "spearman_cell_centred": "spearman_cell after subtracting the training mean of each gene from both sides",
}
METRICS = tuple(DEFINITIONS)
LOWER_IS_BETTER = frozenset({"mse", "balanced_mse", "deviance"})
_MEANS_OVER_CELLS = {  # metric: the column of `per_cell` that it is the mean of
    "pearson_cell": "pearson",
    "spearman_cell": "spearman",
    "mse": "mse",
    "auroc": "auroc",
    "deviance": "deviance",
    "ap": "ap",
    "pearson_cell_centred": "pearson_centred",
    "spearman_cell_centred": "spearman_centred",
}


@dataclass(frozen=True)
class Score:
    """All metrics of one form of one predictor."""

    metrics: dict[str, float]  # metric to its value
    draws: dict[str, Floats]  # metric to its (R,) values on the draws of the bootstrap
    per_cell: dict[str, Floats]  # column to its (Q,) values
    per_gene: dict[str, Floats]  # column to its (P,) values

    def statistic(self, metric: str) -> Statistic:
        """A metric with its draws."""
        return Statistic(self.metrics[metric], self.draws[metric])

    def cost(self, metric: str) -> float:
        """The metric, negated where higher is better."""
        return self.metrics[metric] * (1 if metric in LOWER_IS_BETTER else -1)

    def without_tables(self) -> Score:
        """Metrics and draws alone."""
        return Score(self.metrics, self.draws, {}, {})


def score(targets: Targets, prediction: Prediction, bootstrap: Bootstrap) -> Score:
    """Score one form of a predictor.

    Args:
        targets: Actual expression.
        prediction: Predicted expression, in the same order.
        bootstrap: The draws, the same for every predictor.

    Returns:
        The score.
    """
    cells = {name: np.concatenate(parts) for name, parts in _score_cells(targets, prediction).items()}
    # Ranks and sums per gene read whole rows, which must be contiguous in memory to be fast.
    by_gene = np.ascontiguousarray(prediction.mean.T)
    ranks = average_ranks(by_gene)
    genes = {
        "mse": np.square(by_gene - targets.by_gene).mean(axis=1, dtype=np.float64),
        "pearson": correlations(by_gene, targets.by_gene),
        "spearman": correlations(ranks, targets.gene_ranks),
    }
    halves = [(cells.pop(f"error_{half}"), cells.pop(f"num_{half}")) for half in ("expressed", "zero")]  # Eq. 15
    metrics = {metric: float(cells[column].mean()) for metric, column in _MEANS_OVER_CELLS.items()}
    metrics |= {f"{name}_gene": float(genes[name].mean()) for name in ("pearson", "spearman")}
    metrics["balanced_mse"] = float(np.mean([error.sum() / max(number.sum(), 1) for error, number in halves]))
    draws = {metric: bootstrap.mean(cells[column]) for metric, column in _MEANS_OVER_CELLS.items()}
    draws["pearson_gene"] = bootstrap.correlation(by_gene, targets.by_gene)
    draws["spearman_gene"] = bootstrap.correlation(ranks, targets.gene_ranks)
    draws["balanced_mse"] = np.mean([bootstrap.ratio(*half) for half in halves], axis=0)
    cells["balanced_mse"] = np.mean([error / np.maximum(number, 1) for error, number in halves], axis=0)
    return Score({metric: metrics[metric] for metric in METRICS}, draws, cells, genes)


def _score_cells(targets: Targets, prediction: Prediction) -> dict[str, list[Floats]]:
    """Every column of `per_cell`, in slices of some cells."""
    columns: dict[str, list[Floats]] = {}
    for cells in row_slices(targets.values):
        values, mean, probability = targets.values[cells], prediction.mean[cells], prediction.expressed[cells]
        squared = np.square(mean.astype(np.float64) - values)
        expressed = values > 0
        auroc, precision = detection(probability, expressed)
        centred = targets.centred(mean)
        part = {
            "mse": squared.mean(axis=1),
            "pearson": correlations(mean, values),
            "spearman": correlations(average_ranks(mean), targets.cell_ranks[cells]),
            "auroc": auroc,
            "ap": precision,
            "pearson_centred": correlations(centred, targets.centred(values)),
            "spearman_centred": correlations(average_ranks(centred), targets.centred_ranks[cells]),
            "deviance": deviance(targets.counts[cells], expected_composition(prediction, cells, targets)),
            "error_expressed": (squared * expressed).sum(axis=1),
            "num_expressed": expressed.sum(axis=1).astype(np.float64),
            "error_zero": (squared * ~expressed).sum(axis=1),
            "num_zero": (~expressed).sum(axis=1).astype(np.float64),
        }
        for name, column in part.items():
            columns.setdefault(name, []).append(column)
    return columns
