"""Clusters of cells with similar expression: k-means on principal components.

Letters: N cells, P genes, K clusters.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


def cluster_cells(
    expression: csr_matrix | NDArray[np.float32],
    num_clusters: int,
    *,
    num_components: int,
    seed: int,
    restarts: int = 1,
    batch_size: int | None = None,
) -> NDArray[np.int64]:
    """Cluster cells by k-means on their leading principal components.

    Args:
        expression: (N, P) log-normalised. A dense array is centred first (PCA), a sparse matrix is not (truncated SVD).
        num_clusters: K.
        num_components: Number of components, fewer where N or P is smaller.
        seed: Seed of the components and the k-means.
        restarts: Number of k-means runs, of which the one with the smallest inertia is used.
        batch_size: Cells in each step of mini-batch k-means; ordinary k-means when absent.

    Returns:
        (N,) clusters from 0 to K - 1. Some are empty if fewer than K cells differ.
    """
    if num_clusters == 1:
        return np.zeros(expression.shape[0], dtype=np.int64)
    # Imported here, because scikit-learn takes a second to import and `cifm embed` imports this module without using it.
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.exceptions import ConvergenceWarning

    if isinstance(expression, np.ndarray):
        reduction = PCA(min(num_components, *expression.shape), svd_solver="randomized", random_state=seed)
    else:
        # Centring would make the matrix dense.
        reduction = TruncatedSVD(min(num_components, min(expression.shape) - 1), random_state=seed)
    components = reduction.fit_transform(expression)
    if batch_size is None:
        clustering = KMeans(num_clusters, n_init=restarts, random_state=seed)
    else:
        clustering = MiniBatchKMeans(num_clusters, n_init=restarts, batch_size=batch_size, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct cells than clusters
        return np.asarray(clustering.fit_predict(components), dtype=np.int64)
