"""Integer counts drawn from expression profiles with common random numbers.

A simulation compares two runs that should differ by the edits alone. The same random numbers must therefore give
nearly the same counts for nearly the same profile. Inverting one cumulative distribution over all genes does not have
this property, since a small change of one gene shifts the boundaries of all genes after it. Here, each gene has its own
random numbers.

Letters: Q cells, P genes, K categories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def draw_counts(
    profiles: NDArray[np.float64], depths: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the counts of every cell from a multinomial distribution.

    Independent Poisson counts with mean depth * profile are multinomial given their sum. `match_depths` corrects the
    sums; the counts stay multinomial.

    Args:
        profiles: (Q, P) not negative, rows sum to 1.
        depths: (Q,) row sums of the result.
        generator: Source of randomness; do not use it afterwards, see `match_depths`.

    Returns:
        (Q, P) counts.
    """
    counts = _poisson_quantile(generator.random(profiles.shape), profiles * depths[:, None])
    return match_depths(counts, profiles, depths, generator)


def match_depths(
    counts: NDArray[np.int64],
    profiles: NDArray[np.float64],
    depths: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Give every cell a required sum: remove single counts at random, or add counts in proportion to the profile.

    Args:
        counts: (Q, P).
        profiles: (Q, P) not negative, with a positive entry in every row to which counts are added.
        depths: (Q,) row sums of the result.
        generator: Source of randomness. The number of draws depends on the largest correction, so the generator must
            not be used for anything else afterwards.

    Returns:
        (Q, P) counts.
    """
    counts = counts.copy()
    missing = depths - counts.sum(axis=1)
    # Each pass changes one count of each cell that is not finished.
    while missing.any():
        # Drawn for all cells, also for those that are finished, so that a cell's numbers do not depend on the others.
        waiting_times = generator.standard_exponential(counts.shape, dtype=np.float32)
        cells = np.flatnonzero(missing)
        sign = np.sign(missing[cells])
        weights = np.where(sign[:, None] > 0, profiles[cells], counts[cells])
        counts[cells, _first_arrival(waiting_times[cells], weights)] += sign
        missing[cells] -= sign
    return counts


def draw_category(weights: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw one column per row, with a probability proportional to its weight.

    Args:
        weights: (Q, K) not negative, with a positive entry in every row.
        generator: Source of randomness.

    Returns:
        (Q,) columns.
    """
    return _first_arrival(generator.standard_exponential(weights.shape), weights)


def _first_arrival(waiting_times: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.int64]:
    """Column with the smallest exponential waiting time of rate `weights`: it is drawn in proportion to its weight."""
    # A weight of zero must never be drawn, even where single precision rounded a waiting time to zero.
    times = np.divide(waiting_times, weights, out=np.full(waiting_times.shape, np.inf), where=weights > 0)
    first: NDArray[np.int64] = times.argmin(axis=1)
    return first


def _poisson_quantile(uniform: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.int64]:
    """Inverse of the Poisson distribution function, entry by entry; it increases with `mean`.

    The result is the smallest k with P(X <= k) > `uniform`. A mean above 700, for which P(X = 0) underflows in double
    precision, gives the mean itself, rounded up.
    """
    counts = np.zeros(mean.shape, dtype=np.int64)
    probability = np.exp(-mean)
    cumulative = probability.copy()
    unfinished = np.nonzero(uniform > cumulative)
    k = 0
    while len(unfinished[0]):
        k += 1
        counts[unfinished] = k
        # P(X = k) = P(X = k - 1) mean / k
        probability[unfinished] *= mean[unfinished] / k
        cumulative[unfinished] += probability[unfinished]
        # Beyond the mean, a probability that has underflowed to zero stays zero: without the second condition the loop
        # might never end.
        larger = (uniform[unfinished] > cumulative[unfinished]) & (
            (probability[unfinished] > 0) | (k < mean[unfinished])
        )
        unfinished = (unfinished[0][larger], unfinished[1][larger])
    return counts
