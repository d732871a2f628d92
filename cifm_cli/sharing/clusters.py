"""Clusters of the fraction vectors of one sample: cells whose neighbours lie in the same samples.

Letters: n cells of one sample, S samples, K clusters.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
from threadpoolctl import threadpool_limits

from cifm_cli import provenance

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CLUSTERS: Final = 10  # that are tried if the number is not given
MIN_SILHOUETTE: Final = 0.25  # below, the vectors form no separate groups
MIN_DIFFERENCE: Final = 0.1  # total variation between two clusters: 10 of 100 neighbours
# Cells of the smallest cluster, as a fraction and a number: k-means gives a handful of outliers a cluster of their own, which
# raises the silhouette and is no microenvironment. The tests of types need as many cells too.
MIN_SHARE: Final = 0.01
MIN_CELLS: Final = 50
_FITTED_CELLS = 20_000
_SILHOUETTE_CELLS = 2_000
_RESTARTS = 4


def cluster_fractions(
    fractions: NDArray[np.float32], own: int, num_clusters: int | None, seed: int
) -> NDArray[np.int64]:
    """Cluster the cells of one sample by the samples in which their neighbours lie.

    The square roots of the fractions are clustered by k-means, because the noise of a count of neighbours is then the same
    for rare and for frequent samples.

    Args:
        fractions: (n, S) fractions of the neighbours of each cell; rows sum to 1.
        own: Column of the cells' own sample.
        num_clusters: K; by default the number with the largest silhouette among those whose smallest cluster has at least 50
            cells and 1 % of them (a tenth, of fewer than 500 cells), or one if the vectors form no groups.
        seed: Seed of the k-means and of the cells to which it is fitted.

    Returns:
        (n,) clusters from 0, in descending order of the fraction of neighbours in the own sample. There are fewer than
        K if fewer vectors differ.
    """
    roots = np.sqrt(fractions.astype(np.float64))
    generator = provenance.numpy_generator(seed, "sharing clusters", own)
    drawn = np.sort(generator.permutation(len(roots))[:_FITTED_CELLS])
    # One thread: the sums of several are added in an order that changes.
    with threadpool_limits(1), warnings.catch_warnings():
        from sklearn.exceptions import ConvergenceWarning

        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than clusters
        if num_clusters is None:
            centers = _choose_centers(roots[drawn], generator)
        else:
            centers = _fit(roots[drawn], num_clusters, generator)
    clusters = _nearest_center(roots, centers)
    present, clusters = np.unique(clusters, return_inverse=True)
    own_fraction = [
        float(fractions[clusters == cluster, own].mean(dtype=np.float64)) for cluster in range(len(present))
    ]
    rank = np.empty(len(present), dtype=np.int64)
    rank[np.argsort(-np.array(own_fraction), kind="stable")] = np.arange(len(present))
    return np.asarray(rank[clusters])


def _choose_centers(roots: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """(K, S) centres at the largest silhouette; one centre if there are no groups of enough cells that differ enough."""
    from sklearn.metrics import silhouette_score

    best = MIN_SILHOUETTE
    best_centers: NDArray[np.float64] = roots.mean(axis=0, keepdims=True)
    drawn = np.sort(generator.permutation(len(roots))[:_SILHOUETTE_CELLS])
    num_different = len(np.unique(roots[drawn], axis=0))
    least = min(max(MIN_CELLS, MIN_SHARE * len(roots)), len(roots) / MAX_CLUSTERS)  # few cells still form two groups
    for number in range(2, min(MAX_CLUSTERS, num_different, len(drawn) - 1) + 1):
        centers = _fit(roots, number, generator)
        clusters = _nearest_center(roots[drawn], centers)
        sizes = np.bincount(_nearest_center(roots, centers), minlength=len(centers))
        if len(np.unique(clusters)) < 2 or sizes.min() < least or _smallest_difference(roots, centers) < MIN_DIFFERENCE:
            continue
        score = float(silhouette_score(roots[drawn], clusters))
        if score > best:
            best, best_centers = score, centers
    return best_centers


def _fit(roots: NDArray[np.float64], number: int, generator: np.random.Generator) -> NDArray[np.float64]:
    from sklearn.cluster import KMeans

    number = min(number, len(np.unique(roots, axis=0)))
    state = int(generator.integers(2**31))
    centers: NDArray[np.float64] = KMeans(number, n_init=_RESTARTS, random_state=state).fit(roots).cluster_centers_
    return centers


def _nearest_center(roots: NDArray[np.float64], centers: NDArray[np.float64]) -> NDArray[np.int64]:
    distance = np.stack([((roots - center) ** 2).sum(axis=1) for center in centers])
    return np.asarray(distance.argmin(axis=0))


def _smallest_difference(roots: NDArray[np.float64], centers: NDArray[np.float64]) -> float:
    """Smallest total variation distance between the mean fractions of two clusters."""
    clusters = _nearest_center(roots, centers)
    means = np.stack([(roots[clusters == cluster] ** 2).mean(axis=0) for cluster in np.unique(clusters)])
    distance = np.abs(means[:, None] - means[None]).sum(axis=2) / 2
    return float(distance[np.triu_indices(len(means), 1)].min())
