"""How well predictions fit the truth, per cell and per gene; every number of `metrics.json` is defined here.

Letters: Q scored cells, P genes, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.context import Estimate
from cifm_cli.evaluation.deviance import count_shares, deviance
from cifm_cli.evaluation.ranking import average_ranks, correlations, detection, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.evaluation.intervals import Resampler
    from cifm_cli.evaluation.truth import Truth

    Numbers = NDArray[np.float64]

DEFINITIONS = {
    "mse": "mean squared error over all cells and genes, log-normalised expression",
    "balanced_mse": "(mean squared error over expressed entries + that over zeros) / 2 (Eq. 15)",
    "pearson_cell": "Pearson correlation over the genes of a cell, averaged over cells; 0 where either is constant",
    "spearman_cell": "Spearman correlation over the genes of a cell, averaged over cells; 0 where either is constant",
    "pearson_gene": "Pearson correlation over the cells of a gene, averaged over genes; 0 where either is constant",
    "spearman_gene": "Spearman correlation over the cells of a gene, averaged over genes; 0 where either is constant",
    "auroc": "probability that an expressed gene of a cell has a higher share than one that is not, averaged over cells",
    "deviance": "Poisson deviance of a cell's counts given its depth and the predicted composition, nats per cell",
    "ap": "average precision of the shares in finding the expressed genes of a cell, averaged over cells",
    "pearson_cell_centred": "pearson_cell after subtracting the training mean of each gene from both sides",
    "spearman_cell_centred": "spearman_cell after subtracting the training mean of each gene from both sides",
}
METRICS = tuple(DEFINITIONS)
LOWER_IS_BETTER = frozenset({"mse", "balanced_mse", "deviance"})
_OF_CELLS = {  # metric: the column of `per_cell` that it is the mean of
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
    """All there is to say of one form of one predictor.

    Args:
        metrics: Metric to its value.
        draws: Metric to its (R,) values on the bootstrap's draws.
        per_cell: Column to its (Q,) values.
        per_gene: Column to its (P,) values.
    """

    metrics: dict[str, float]
    draws: dict[str, Numbers]
    per_cell: dict[str, Numbers]
    per_gene: dict[str, Numbers]

    def without_details(self) -> Score:
        """Metrics and draws alone."""
        return Score(self.metrics, self.draws, {}, {})


def gate(estimate: Estimate, threshold: float) -> Estimate:
    """The gated form: zero where the probability of expression is at most `threshold`."""
    passed = estimate.share > threshold
    composition = None if estimate.composition is None else estimate.composition * passed
    return Estimate(estimate.mean * passed, estimate.share * passed, composition, estimate.states)


def score(truth: Truth, estimate: Estimate, resampler: Resampler) -> Score:
    """Score one form of a predictor.

    Args:
        truth: What was hidden.
        estimate: What was inferred, in the same order.
        resampler: The draws, the same for every predictor.

    Returns:
        The score.
    """
    cells = {name: np.concatenate(parts) for name, parts in _score_cells(truth, estimate).items()}
    by_gene = np.ascontiguousarray(estimate.mean.T)
    ranks = average_ranks(by_gene)
    genes = {
        "mse": np.square(by_gene - truth.by_gene).mean(axis=1, dtype=np.float64),
        "pearson": correlations(by_gene, truth.by_gene),
        "spearman": correlations(ranks, truth.gene_ranks),
    }
    halves = [(cells.pop(f"error_{half}"), cells.pop(f"num_{half}")) for half in ("expressed", "zero")]
    metrics = {metric: float(cells[column].mean()) for metric, column in _OF_CELLS.items()}
    metrics |= {f"{name}_gene": float(genes[name].mean()) for name in ("pearson", "spearman")}
    metrics["balanced_mse"] = float(np.mean([error.sum() / max(number.sum(), 1) for error, number in halves]))
    draws = {metric: resampler.mean(cells[column]) for metric, column in _OF_CELLS.items()}
    draws["pearson_gene"] = resampler.correlation(by_gene, truth.by_gene)
    draws["spearman_gene"] = resampler.correlation(ranks, truth.gene_ranks)
    draws["balanced_mse"] = np.mean([resampler.ratio(*half) for half in halves], axis=0)
    cells["balanced_mse"] = np.mean([error / np.maximum(number, 1) for error, number in halves], axis=0)
    return Score({metric: metrics[metric] for metric in METRICS}, draws, cells, genes)


def _score_cells(truth: Truth, estimate: Estimate) -> dict[str, list[Numbers]]:
    """Everything per cell, in pieces of some cells."""
    found: dict[str, list[Numbers]] = {}
    for part in pieces(truth.values):
        values, mean, share = truth.values[part], estimate.mean[part], estimate.share[part]
        squared = np.square(mean.astype(np.float64) - values)
        expressed = values > 0
        roc_area, precision = detection(share, expressed)
        columns = {
            "mse": squared.mean(axis=1),
            "pearson": correlations(mean, values),
            "spearman": correlations(average_ranks(mean), truth.cell_ranks[part]),
            "auroc": roc_area,
            "ap": precision,
            "pearson_centred": correlations(truth.centred(mean), truth.centred(values)),
            "spearman_centred": correlations(average_ranks(truth.centred(mean)), truth.centred_ranks[part]),
            "deviance": deviance(truth.counts[part], count_shares(estimate, part, truth)),
            "error_expressed": (squared * expressed).sum(axis=1),
            "num_expressed": expressed.sum(axis=1).astype(np.float64),
            "error_zero": (squared * ~expressed).sum(axis=1),
            "num_zero": (~expressed).sum(axis=1).astype(np.float64),
        }
        for name, column in columns.items():
            found.setdefault(name, []).append(column)
    return found
