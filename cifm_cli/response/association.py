"""What the slide shows without a model of all surroundings: the mean shift, and the count stratified by other labels.

Both compare residents that have a cell of a label in a distance band with residents that have none so near. The mean shift
is not adjusted. The stratified count compares residents with a similar propensity to have the label nearby, given the
distances to all other labels (Rosenbaum and Rubin 1984).

Letters: Q residents, G genes, S strata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

NUM_STRATA: Final = 10
_HALF_COUNT: Final = 0.5  # added to the sums, so that the logarithm is finite


class Association(NamedTuple):
    """Differences between residents with and without a label nearby, log2, relative to the median gene."""

    mean_shift: Numbers  # (G,)
    stratified: Numbers  # (G,)
    error: Numbers  # (G,) standard error of the mean shift, of Poisson counts


def associate(counts: csr_matrix, exposure: Numbers, near: NDArray[np.bool_], others: Numbers) -> Association | None:
    """Compare residents near a label with the other residents.

    Args:
        counts: (Q, G) counts.
        exposure: (Q,) depth of each resident.
        near: (Q,) whether a resident has the label nearby.
        others: (Q, F) predictors of the surroundings without the label.

    Returns:
        The differences; None if all residents or none are near.
    """
    if near.all() or not near.any():
        return None
    strata = propensity_strata(near, others)
    num_strata = int(strata.max()) + 1
    group = strata * 2 + near
    membership = csr_matrix((np.ones(len(near)), (group, np.arange(len(near)))), shape=(2 * num_strata, len(near)))
    sums = np.asarray((membership @ counts).todense(), dtype=np.float64).reshape(num_strata, 2, -1)
    depths = np.asarray(membership @ exposure).reshape(num_strata, 2)
    pooled = sums.sum(axis=0), depths.sum(axis=0)
    both = (depths > 0).all(axis=1)
    error = np.sqrt((1 / (pooled[0] + _HALF_COUNT)).sum(axis=0)) / np.log(2)
    if not both.any():
        return Association(_log2_ratio(*pooled), np.zeros(sums.shape[-1]), error)
    # Rates of the residents that are far, in the strata of those that are near
    rate = sums[both, 0] / depths[both, :1]
    expected = (rate * depths[both, 1:]).sum(axis=0)
    depth = depths[both, 1].sum()
    standardised = np.stack([expected, sums[both, 1].sum(axis=0)]), np.array([depth, depth])
    return Association(_log2_ratio(*pooled), _log2_ratio(*standardised), error)


def propensity_strata(near: NDArray[np.bool_], others: Numbers) -> NDArray[np.int64]:
    """Divide residents into strata of the propensity to have a label nearby, which a linear regression estimates.

    Args:
        near: (Q,) whether a resident has the label nearby; neither all nor none.
        others: (Q, F) predictors of the surroundings without the label.

    Returns:
        (Q,) strata from 0.
    """
    x = np.concatenate([np.ones((len(others), 1)), others], axis=1)
    # Rounded, so that a resident at an edge is in the same stratum for any order of the sums.
    propensity = np.round(x @ np.linalg.lstsq(x, near.astype(np.float64), rcond=None)[0], 8)
    edges = np.quantile(propensity[near], np.linspace(0, 1, NUM_STRATA + 1)[1:-1])
    return np.unique(np.searchsorted(edges, propensity), return_inverse=True)[1].ravel()


def _log2_ratio(sums: Numbers, depths: Numbers) -> Numbers:
    """(G,) log2 of the second row over the first, per depth, relative to the median gene."""
    rates = (sums + _HALF_COUNT) / np.maximum(depths, 1e-12)[:, None]
    ratio = np.log2(rates[1] / rates[0])
    return np.asarray(ratio - np.median(ratio))
