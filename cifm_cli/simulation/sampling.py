"""Whole counts from profiles, so that the same random numbers give nearly the same counts for nearly the same profile.

A simulation compares two runs that should differ by the injection alone. Inverting one cumulative distribution over all
genes would not do: a small change of one gene shifts the borders of all genes after it. Here each gene has random
numbers of its own.

Letters: Q cells, G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def draw_counts(
    profiles: NDArray[np.float64], depths: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw from the multinomial distribution of every cell.

    Poisson counts of mean depth * profile are multinomial given their sum, and `settle` keeps them so.

    Args:
        profiles: (Q, G) not negative, rows sum to 1.
        depths: (Q,) what each row of the result sums to.
        generator: Source of randomness; used up, see `settle`.

    Returns:
        (Q, G) counts.
    """
    counts = _poisson_quantile(generator.random(profiles.shape), profiles * depths[:, None])
    return settle(counts, profiles, depths, generator)


def settle(
    counts: NDArray[np.int64],
    profiles: NDArray[np.float64],
    depths: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Bring every cell to its depth: take single counts away at random, or add some in proportion to its profile.

    Args:
        counts: (Q, G).
        profiles: (Q, G) not negative, with a positive entry wherever a count is missing.
        depths: (Q,) what each row of the result sums to.
        generator: Source of randomness; how far it moves on depends on the largest correction, so give it away here.

    Returns:
        (Q, G) counts.
    """
    counts = counts.copy()
    missing = depths - counts.sum(axis=1)
    while missing.any():
        race = generator.standard_exponential(counts.shape, dtype=np.float32)
        cells = np.flatnonzero(missing)
        sign = np.sign(missing[cells])
        weights = np.where(sign[:, None] > 0, profiles[cells], counts[cells])
        counts[cells, _winners(race[cells], weights)] += sign
        missing[cells] -= sign
    return counts


def draw_one(weights: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw one column for every row, with probability in proportion to the weights.

    Args:
        weights: (Q, K) not negative, no row all zero.
        generator: Source of randomness.

    Returns:
        (Q,) columns.
    """
    return _winners(generator.standard_exponential(weights.shape), weights)


def _winners(race: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.int64]:
    """Columns that come first when each runs for an exponential time at the speed of its weight: likely as it weighs."""
    # A weight of zero never arrives, not even where single precision drew a time of exactly zero.
    times = np.divide(race, weights, out=np.full(race.shape, np.inf), where=weights > 0)
    winners: NDArray[np.int64] = times.argmin(axis=1)
    return winners


def _poisson_quantile(uniform: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.int64]:
    """The smallest k whose Poisson probability of at most k exceeds `uniform`, entry by entry; it grows with `mean`.

    A mean beyond 700, whose probability of zero is zero in double precision, is taken as it is, rounded up.
    """
    counts = np.zeros(mean.shape, dtype=np.int64)
    probability = np.exp(-mean)
    below = probability.copy()
    beyond = np.nonzero(uniform > below)
    k = 0
    while len(beyond[0]):
        k += 1
        counts[beyond] = k
        probability[beyond] *= mean[beyond] / k
        below[beyond] += probability[beyond]
        further = (uniform[beyond] > below[beyond]) & ((probability[beyond] > 0) | (k < mean[beyond]))
        beyond = (beyond[0][further], beyond[1][further])
    return counts
