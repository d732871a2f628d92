"""Weighted means of visible cells, which most baselines are made of.

Letters: V visible cells, Q places, P genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.evaluation.compiled import weighted_sums
from cifm_cli.evaluation.context import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.evaluation.context import Context


class Pool(NamedTuple):
    """Cells, or squares full of cells, to take means of; M of them.

    Args:
        tree: Where they are.
        number: (M, 1) cells in each.
        expression: (M, P) sum of log-normalised expression.
        expressed: (M, P) number of cells that express a gene.
        counts: (M, P) sum of counts.
    """

    tree: cKDTree
    number: NDArray[np.float32]
    expression: csr_matrix
    expressed: csr_matrix
    counts: csr_matrix


def every_cell(context: Context) -> Pool:
    """The visible cells, one by one."""
    number = np.ones((len(context.xy_um), 1), dtype=np.float32)
    return Pool(context.tree, number, context.expression, context.expressed, context.counts)


def within(context: Context, query_um: NDArray[np.float64], radius_um: float) -> csr_matrix:
    """Find the visible cells at most a radius away.

    Args:
        context: What is visible.
        query_um: (Q, 2) micrometres.
        radius_um: Micrometres.

    Returns:
        (Q, V) ones.
    """
    return pairs_within(cKDTree(query_um), context.tree, radius_um)


def nearest(context: Context, query_um: NDArray[np.float64], k: int, width_um: float) -> csr_matrix:
    """Weigh the nearest visible cells by exp(-(d^2 - d_1^2) / 2 w^2), d_1 the distance of the nearest.

    Args:
        context: What is visible.
        query_um: (Q, 2) micrometres.
        k: How many.
        width_um: w in micrometres; infinite for equal weights.

    Returns:
        (Q, V) weights.
    """
    k = min(k, len(context.xy_um))
    distance, column = context.tree.query(query_um, k=range(1, k + 1))
    weight = np.exp(-0.5 * (distance**2 - distance[:, :1] ** 2) / width_um**2).astype(np.float32)
    indptr = np.arange(len(query_um) + 1) * k
    return csr_matrix((weight.ravel(), column.ravel(), indptr), shape=(len(query_um), len(context.xy_um)))


def average(weights: csr_matrix, context: Context) -> Estimate:
    """Weighted mean and share of visible cells, and the composition of the weighted sum of their counts.

    The sum of counts is the most likely composition of cells that share one; on tissue it had a lower deviance than the
    mean of the cells' own compositions at every number of neighbours and every width tried.

    Args:
        weights: (Q, V), not negative.
        context: What is visible.

    Returns:
        Whoever has no weight gets the training cells' mean, share and composition.
    """
    return pooled(weights, every_cell(context), training_estimate(context, weights.shape[0]))


def training_estimate(context: Context, num_queries: int) -> Estimate:
    """What is known of a cell about which nothing is known.

    Args:
        context: Has the training profile.
        num_queries: Q.

    Returns:
        The training profile in every row.
    """
    training = context.training
    return Estimate(
        *(
            np.tile(part.astype(np.float32), (num_queries, 1))
            for part in (training.mean, training.share, training.composition)
        )
    )


def pairs_within(queries: cKDTree, places: cKDTree, radius_um: float) -> csr_matrix:
    """Find places at most a radius away.

    Args:
        queries: Q places.
        places: M places.
        radius_um: Micrometres.

    Returns:
        (Q, M) ones.
    """
    found = queries.sparse_distance_matrix(places, radius_um, output_type="ndarray")
    ones = np.ones(len(found), dtype=np.float32)
    return csr_matrix((ones, (found["i"], found["j"])), shape=(queries.n, places.n))


def pooled(weights: csr_matrix, pool: Pool, instead: Estimate) -> Estimate:
    """Weighted means over cells or squares of cells.

    Args:
        weights: (Q, M), not negative.
        pool: What is weighed.
        instead: For whoever has no weight.

    Returns:
        Mean, share and composition.
    """
    mass = np.asarray(weights @ pool.number)
    mean, share = _mean(weights, pool.expression, mass), _mean(weights, pool.expressed, mass)
    depth = weights @ np.asarray(pool.counts.sum(axis=1), dtype=np.float32)
    composition = _mean(weights, pool.counts, depth)
    lonely, uncounted = mass[:, 0] == 0, depth[:, 0] == 0
    mean[lonely], share[lonely] = instead.mean[lonely], instead.share[lonely]
    if instead.composition is not None:
        composition[uncounted] = instead.composition[uncounted]
    return Estimate(mean, np.minimum(share, 1), composition)


def _mean(weights: csr_matrix, values: csr_matrix, mass: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q, P) weighted sums by their mass; 0 where there is none."""
    total = weighted_sums(weights, values)
    total /= np.where(mass > 0, mass, 1)
    return total
