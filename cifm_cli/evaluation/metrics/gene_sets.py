"""Gene sets that are scored separately: the most differentially expressed and the most variable genes of the training cells.

Letters: N training cells, P genes, K groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.clustering import cluster_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

DIFFERENTIAL, VARIABLE = "differential", "variable"
DEFINITIONS = {
    DIFFERENTIAL: "the 1,000 genes (of smaller panels the top third) whose log-normalised expression differs most between "
    "10 groups of training cells (k-means of 20 principal components): largest fraction of variance between groups",
    VARIABLE: "the 1,000 genes (of smaller panels the top third) with the largest variance of analytic Pearson residuals "
    "of the training cells' counts (negative binomial, overdispersion 1/100)",
}
NUM_GENES = 1_000
_MAX_CELLS, _MAX_VALUES = 5_000, 20_000_000  # training cells that are used, and cells times genes
_NUM_GROUPS, _NUM_COMPONENTS = 10, 20
_THETA = 100.0  # inverse overdispersion of the Pearson residuals


def choose_gene_sets(slide: Slide, columns: Rows, target_sum: float, seed: int) -> dict[str, NDArray[np.int64]]:
    """Choose gene sets from the training cells alone.

    Args:
        slide: Any slide.
        columns: (P,) columns that are scored.
        target_sum: Of the normalisation.
        seed: The user's seed.

    Returns:
        Gene set to ascending positions among the P genes; empty for panels of fewer than 12 genes.
    """
    num_genes = len(columns)
    size = NUM_GENES if num_genes > NUM_GENES else num_genes // 3
    rows = slide.region(keys.TRAIN)
    if size < 4 or len(rows) < 2 * _NUM_GROUPS:
        return {}
    num_cells = min(_MAX_CELLS, max(2 * _NUM_GROUPS, _MAX_VALUES // num_genes))
    chosen = np.sort(numpy_generator(seed, "subsets").permutation(rows)[:num_cells])
    expression = slide.expression(chosen, target_sum)[:, columns]
    counts = slide.counts(chosen)[:, columns]
    values = {DIFFERENTIAL: variance_between_groups(expression, seed), VARIABLE: residual_variance(counts)}
    return {name: np.sort(np.argsort(-value, kind="stable")[:size]) for name, value in values.items()}


def variance_between_groups(expression: csr_matrix, seed: int) -> NDArray[np.float64]:
    """(P,) fraction of each gene's variance between groups of cells (k-means of components); 0 for a constant gene."""
    state = int(numpy_generator(seed, "groups").integers(2**31))
    group = cluster_cells(expression, _NUM_GROUPS, num_components=_NUM_COMPONENTS, seed=state)
    member = csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))))
    size = np.maximum(np.asarray(member.sum(axis=1)), 1)
    mean = np.asarray(expression.mean(axis=0)).ravel()
    between = (size * np.square((member @ expression).toarray() / size - mean)).sum(axis=0) / len(group)
    total = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    return np.asarray(np.divide(between, total, out=np.zeros_like(between), where=total > 0))


def residual_variance(counts: csr_matrix) -> NDArray[np.float64]:
    """(P,) variance of analytic Pearson residuals (Lause et al. 2021), which are clipped to the square root of N."""
    depth, total = (np.asarray(counts.sum(axis=axis), dtype=np.float64).ravel() for axis in (1, 0))
    expected = np.outer(depth, total / max(total.sum(), 1))
    residual = (counts.toarray() - expected) / np.sqrt(np.maximum(expected + expected**2 / _THETA, 1e-12))
    limit = np.sqrt(len(depth))
    return np.asarray(np.clip(residual, -limit, limit).var(axis=0))
