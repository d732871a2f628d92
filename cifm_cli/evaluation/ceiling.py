"""What shot noise leaves to be predicted: one half of each cell's counts as a prediction of the other half.

Letters: Q scored cells, P genes.
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

    from cifm_cli.evaluation.intervals import Resampler

DEFINITION = (
    "each count of a scored cell falls into one of two halves at random (binomial, from the seed); 'half' scores one half, "
    "log-normalised by its own depth, as the prediction of the other. 'ceiling' (correlations only): the square root of "
    "the reliability 2 r / (1 + r) that two halves correlating with r give the whole cell (Spearman-Brown), averaged like "
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


def noise_ceiling(truth: Truth, resampler: Resampler, seed: int) -> dict[str, Any]:
    """Estimate how far any prediction can come.

    Args:
        truth: What was hidden.
        resampler: Of the same cells.
        seed: Decides which count falls where.

    Returns:
        Metric to `half`, and to `ceiling` where it is a correlation.
    """
    first, second = halves(truth.counts, seed)
    target = Truth(second, _normalised(second, truth).toarray(), truth.training, truth.target_sum)
    guess = _normalised(first, truth).toarray()
    found = score(target, Estimate(guess, (guess > 0).astype(np.float32), first.toarray()), resampler)
    facts: dict[str, Any] = {metric: {"half": found.metrics[metric]} for metric in METRICS}
    for metric, (part, column) in _COLUMNS.items():
        facts[metric]["ceiling"] = float(np.sqrt(reliability(getattr(found, part)[column])).mean())
    return facts


def halves(counts: csr_matrix, seed: int) -> tuple[csr_matrix, csr_matrix]:
    """Let each count fall into one of two halves.

    Args:
        counts: (Q, P) whole counts.
        seed: The user's seed.

    Returns:
        Two (Q, P) matrices whose sum is `counts`.
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


def _normalised(counts: csr_matrix, truth: Truth) -> csr_matrix:
    return log_normalise(counts, np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(), truth.target_sum)
