"""The limit that shot noise sets: one half of each cell's counts as the prediction of the other half.

Letters: Q scored cells, P scored genes, G genes of the slide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.data.slide import log_normalise
from cifm_cli.evaluation.examples import Targets
from cifm_cli.evaluation.metrics.counts import reliability, split_counts
from cifm_cli.evaluation.metrics.expression import METRICS, score
from cifm_cli.inference.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.dataset import EvaluationDataset
    from cifm_cli.statistics.bootstrap import Bootstrap

DEFINITION = (
    "each count of a scored cell falls into one of two halves at random (binomial, from the seed); 'half' scores one half, "
    "log-normalised by its own depth over all genes of the slide, as the prediction of the other. 'ceiling' (correlations "
    "only): the square root of the reliability 2 r / (1 + r) that two halves correlating with r give the whole cell "
    "(Spearman-Brown), averaged like the metric: about what a predictor that knew every cell's true profile would reach"
)
_CORRELATIONS = {  # metric: the table and the column that it is the mean of
    "pearson_cell": ("per_cell", "pearson"),
    "spearman_cell": ("per_cell", "spearman"),
    "pearson_cell_centred": ("per_cell", "pearson_centred"),
    "spearman_cell_centred": ("per_cell", "spearman_centred"),
    "pearson_gene": ("per_gene", "pearson"),
    "spearman_gene": ("per_gene", "spearman"),
}


def noise_ceiling(dataset: EvaluationDataset, rows: Rows, targets: Targets, bootstrap: Bootstrap) -> dict[str, Any]:
    """Estimate the best value that any prediction can reach.

    Args:
        dataset: The slide; its seed decides how counts are split.
        rows: (Q,) scored rows.
        targets: Their actual expression.
        bootstrap: Of the same cells.

    Returns:
        Metric to `half`, and to `ceiling` where it is a correlation.
    """
    # All genes of the slide are split, because targets are normalised by the depth over all of them.
    halves = split_counts(dataset.slide.counts(rows), dataset.seed)
    (first, guess), (second, other) = (_scored_genes(half, dataset) for half in halves)
    half_targets = Targets(second, other, targets.gene_stats, targets.target_sum)
    prediction = Prediction(guess, (guess > 0).astype(np.float32), first.toarray())
    half_score = score(half_targets, prediction, bootstrap)
    ceiling: dict[str, Any] = {metric: {"half": half_score.metrics[metric]} for metric in METRICS}
    for metric, (table, column) in _CORRELATIONS.items():
        ceiling[metric]["ceiling"] = float(np.sqrt(reliability(getattr(half_score, table)[column])).mean())
    return ceiling


def _scored_genes(half: csr_matrix, dataset: EvaluationDataset) -> tuple[csr_matrix, NDArray[np.float32]]:
    """(Q, P) counts and log-normalised expression of the scored genes in (Q, G) half counts."""
    depth = np.asarray(half.sum(axis=1), dtype=np.float64).ravel()
    expression: NDArray[np.float32] = log_normalise(half, depth, dataset.target_sum)[:, dataset.columns].toarray()
    return half[:, dataset.columns], expression
