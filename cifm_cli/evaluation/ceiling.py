"""What shot noise leaves to be predicted: one half of each cell's counts as a prediction of the other half.

Letters: Q scored cells, P scored genes, G genes of the slide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.data.slide import log_normalise
from cifm_cli.evaluation.context import Estimate
from cifm_cli.evaluation.metrics import METRICS, score
from cifm_cli.evaluation.truth import Truth
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.bench import Bench
    from cifm_cli.evaluation.intervals import Resampler

DEFINITION = (
    "each count of a scored cell falls into one of two halves at random (binomial, from the seed); 'half' scores one half, "
    "log-normalised by its own depth over all genes of the slide, as the prediction of the other. 'ceiling' (correlations "
    "only): the square root of the reliability 2 r / (1 + r) that two halves correlating with r give the whole cell (Spearman-Brown), averaged like "
    "the metric: about what a predictor that knew every cell's true profile would reach"
)
_COLUMNS = {
    "pearson_cell": ("per_cell", "pearson"),
    "spearman_cell": ("per_cell", "spearman"),
    "pearson_cell_centred": ("per_cell", "pearson_centred"),
    "spearman_cell_centred": ("per_cell", "spearman_centred"),
    "pearson_gene": ("per_gene", "pearson"),
    "spearman_gene": ("per_gene", "spearman"),
}


def noise_ceiling(bench: Bench, rows: Rows, truth: Truth, resampler: Resampler) -> dict[str, Any]:
    """Estimate how far any prediction can come.

    Args:
        bench: The slide and what is scored; its seed decides which count falls where.
        rows: (Q,) scored rows.
        truth: What was hidden in them.
        resampler: Of the same cells.

    Returns:
        Metric to `half`, and to `ceiling` where it is a correlation.
    """
    # Whole cells, as the truth is normalised by them: scored genes alone would be scaled up to the whole sum.
    whole = halves(bench.slide.counts(rows), bench.seed)
    (first, guess), (second, other) = (_scored(half, bench) for half in whole)
    target = Truth(second, other, truth.training, truth.target_sum)
    found = score(target, Estimate(guess, (guess > 0).astype(np.float32), first.toarray()), resampler)
    facts: dict[str, Any] = {metric: {"half": found.metrics[metric]} for metric in METRICS}
    for metric, (part, column) in _COLUMNS.items():
        facts[metric]["ceiling"] = float(np.sqrt(reliability(getattr(found, part)[column])).mean())
    return facts


def halves(counts: csr_matrix, seed: int) -> tuple[csr_matrix, csr_matrix]:
    """Let each count fall into one of two halves.

    Args:
        counts: (Q, G) whole counts.
        seed: The user's seed.

    Returns:
        Two (Q, G) matrices whose sum is `counts`.
    """
    first, second = counts.copy(), counts.copy()
    whole = np.rint(counts.data).astype(np.int64)
    first.data = numpy_generator(seed, "halves").binomial(whole, 0.5).astype(np.float32)
    second.data = whole.astype(np.float32) - first.data
    for half in (first, second):
        half.eliminate_zeros()
    return first, second


def reliability(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman-Brown: reliability of a whole whose two halves correlate with `r`; 0 where they don't."""
    r = np.maximum(r, 0)
    return np.asarray(2 * r / (1 + r))


def _scored(half: csr_matrix, bench: Bench) -> tuple[csr_matrix, NDArray[np.float32]]:
    """(Q, P) counts and log-normalised expression of the scored genes in (Q, G) halves of cells."""
    depth = np.asarray(half.sum(axis=1), dtype=np.float64).ravel()
    expression: NDArray[np.float32] = log_normalise(half, depth, bench.target_sum)[:, bench.columns].toarray()
    return half[:, bench.columns], expression
