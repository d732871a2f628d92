"""Clusters of cells by their expression alone: k-means on principal components.

The position of a cell in the tissue takes no part. A fitted clustering assigns any cell from its own counts, so that
predicted and simulated cells can be assigned one by one.

Letters: N cells, G genes, K clusters, D components.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import csr_matrix, diags

from cifm_cli.data.slide import log_normalise
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

NUM_CLUSTERS: Final = 80  # more than a slide has types, as clusters of one type are joined by their types
MIN_CELLS: Final = 15  # mean size of a cluster in a small slide
NUM_COMPONENTS: Final = 25
MAX_CELLS: Final = 20_000  # cells that the clusters are fitted to
_SCALE_FLOOR: Final = 0.1  # of the largest deviation; added to each, so that rare genes do not dominate
_TARGET_SUM: Final = 10_000.0


@dataclass(frozen=True)
class ExpressionClusters:
    """A fitted clustering."""

    projection: Numbers  # (G, D) from log-normalised expression to components
    centres: Numbers  # (K, D)

    def assign(self, counts: csr_matrix) -> NDArray[np.int64]:
        """Find the nearest cluster of each cell.

        Args:
            counts: (N, G) counts.

        Returns:
            (N,) clusters.
        """
        components = _normalised(counts) @ self.projection
        # The squared length of a cell is common to all clusters.
        distances = np.square(self.centres).sum(axis=1) - 2 * components @ self.centres.T
        nearest: NDArray[np.int64] = distances.argmin(axis=1)
        return nearest


def fit_clusters(counts: csr_matrix, most: int = NUM_CLUSTERS) -> ExpressionClusters:
    """Fit clusters to cells.

    Args:
        counts: (N, G) counts.
        most: Largest number of clusters.

    Returns:
        The clusters; a single one for fewer than about 20 cells.
    """
    # scikit-learn takes a second to import.
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.exceptions import ConvergenceWarning

    num_cells, num_genes = counts.shape
    if num_cells > MAX_CELLS:
        rows = numpy_generator(0, "expression clusters").choice(num_cells, MAX_CELLS, replace=False)
        counts = counts[np.sort(rows)]
    expression = _normalised(counts)
    num_clusters = min(most, num_cells // MIN_CELLS)
    num_components = min(NUM_COMPONENTS, num_genes - 1, num_cells - 1)
    if num_clusters < 2 or num_components < 1 or not expression.nnz:
        return ExpressionClusters(np.zeros((num_genes, 1)), np.zeros((1, 1)))
    mean = np.asarray(expression.mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2, 0))
    if deviation.max() < 1e-6 * expression.data.max():  # all cells are equal
        return ExpressionClusters(np.zeros((num_genes, 1)), np.zeros((1, 1)))
    scale = 1 / (deviation + _SCALE_FLOOR * deviation.max())
    with np.errstate(divide="ignore", invalid="ignore"):  # of the explained variance, which is not used
        decomposition = TruncatedSVD(num_components, random_state=0).fit(csr_matrix(expression @ diags(scale)))
    projection = scale[:, None] * decomposition.components_.T
    with warnings.catch_warnings():
        # Cells of few genes are often equal, and then form fewer clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(num_clusters, n_init=1, max_iter=30, random_state=0).fit(expression @ projection)
    return ExpressionClusters(projection, found.cluster_centers_)


def _normalised(counts: csr_matrix) -> csr_matrix:
    """(N, G) log-normalised expression in double precision."""
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return log_normalise(counts.astype(np.float64), np.maximum(totals, 1e-12), _TARGET_SUM).astype(np.float64)
