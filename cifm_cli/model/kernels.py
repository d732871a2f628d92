"""Weighted sums of sparse rows, compiled. They take most of the time in which a training tile is prepared.

Letters: M queries, V visible cells, E pairs of a query and a visible cell, S scales, P genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli.jit import compiled
from cifm_cli.model.vector_sums import LANES, add_multiple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.jit import Array

RUN = 64  # consecutive visible cells that share a bounding box; such cells are near each other on a prepared slide


def pairs_within(
    query: NDArray[np.float64], visible: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Find the visible cells within a distance of each query, in ascending order.

    Unlike the pairs of a tree, these are found in their order: cells are compared one after the other, and runs of them
    whose bounding box is too far away are left out.

    Args:
        query: (M, 2) coordinates.
        visible: (V, 2) coordinates. The search is fast if consecutive cells are near each other.
        cutoff: Largest distance, inclusive.

    Returns:
        (M + 1,) position of the first pair of each query, (E,) visible cells and (E,) squared distances.
    """
    starts = np.arange(0, len(visible), RUN)
    low, high = (
        extreme.reduceat(visible, starts) if len(visible) else np.empty((0, 2)) for extreme in (np.minimum, np.maximum)
    )
    number = np.zeros(len(query) + 1, np.int64)
    found, squared = np.empty(0, np.int64), np.empty(0)
    # Counted first, so that the arrays have the right size.
    _find(query, visible, low, high, cutoff * cutoff, number, found, squared)
    indptr = np.cumsum(number)
    found, squared = np.empty(indptr[-1], np.int64), np.empty(indptr[-1])
    _find(query, visible, low, high, cutoff * cutoff, number, found, squared)
    return indptr, found, squared


@compiled
def _find(  # noqa: PLR0913, PLR0917 - compiled code takes arrays, not objects
    query: Array,
    visible: Array,
    low: Array,
    high: Array,
    squared_cutoff: float,
    number: Array,
    found: Array,
    squared: Array,
) -> None:
    stores, position = len(found) > 0, 0
    for q in range(len(query)):
        x, y, first = query[q, 0], query[q, 1], position
        for run in range(len(low)):
            gap_x = max(low[run, 0] - x, x - high[run, 0], 0.0)
            gap_y = max(low[run, 1] - y, y - high[run, 1], 0.0)
            if gap_x * gap_x + gap_y * gap_y > squared_cutoff:
                continue
            for cell in range(run * RUN, min(run * RUN + RUN, len(visible))):
                dx, dy = visible[cell, 0] - x, visible[cell, 1] - y
                distance = dx * dx + dy * dy
                if distance <= squared_cutoff:
                    if stores:
                        found[position], squared[position] = cell, distance
                    position += 1
        number[q + 1] = position - first


class PairWeights(NamedTuple):
    """Weights of the pairs of a query and a visible cell."""

    padded: NDArray[np.float64]  # (E, L) one for each scale, then zeros up to a multiple of `LANES`
    weight: Array  # (E, S) the same, rounded, without the zeros
    mass: Array  # (M, S) their sums over the pairs of a query, rounded


def pair_weights(
    indptr: NDArray[np.int64],
    visible: NDArray[np.int64],
    squared: NDArray[np.float64],
    reliability: NDArray[np.float64],
    scales: Sequence[float],
    dtype: DTypeLike = np.float64,
) -> PairWeights:
    """Weigh pairs by a Gaussian of the distance at every scale, and by the reliability of the visible cell.

    Args:
        indptr: (M + 1,) position of the first pair of each query.
        visible: (E,) visible cell of each pair.
        squared: (E,) squared distances.
        reliability: (V,) a factor for each visible cell.
        scales: Standard deviations of the Gaussians, the narrowest first.
        dtype: Type to which weights and masses are rounded.

    Returns:
        The weights.
    """
    num_scales, widths = len(scales), np.asarray(scales, np.float64)
    padded = np.zeros((len(visible), -(-num_scales // LANES) * LANES))
    weight, mass = np.empty((len(visible), num_scales), dtype), np.empty((len(indptr) - 1, num_scales), dtype)
    doubles = bool((widths[1:] == 2 * widths[:-1]).all())
    _weigh(indptr, visible, squared, reliability, -0.5 / widths**2, doubles, padded, weight, mass)
    return PairWeights(padded, weight, mass)


@compiled
def _weigh(  # noqa: PLR0913, PLR0917 - compiled code takes arrays, not objects
    indptr: Array,
    visible: Array,
    squared: Array,
    reliability: Array,
    factors: Array,
    doubles: bool,  # noqa: FBT001 - compiled code has no keyword arguments
    padded: Array,
    weight: Array,
    mass: Array,
) -> None:
    last, sums = len(factors) - 1, np.empty(len(factors))
    for query in range(len(indptr) - 1):
        sums[:] = 0
        for pair in range(indptr[query], indptr[query + 1]):
            reliable = reliability[visible[pair]]
            gaussian = np.exp(squared[pair] * factors[last])
            for step in range(last + 1):
                scale = last - step
                if not doubles:
                    gaussian = np.exp(squared[pair] * factors[scale])
                padded[pair, scale] = gaussian * reliable
                weight[pair, scale] = padded[pair, scale]
                sums[scale] += padded[pair, scale]
                # The Gaussian of half the scale: squares take a tenth of the time of an exponential.
                gaussian *= gaussian
                gaussian *= gaussian
        mass[query] = sums


def weighted_sums(
    indptr: NDArray[np.int64],
    visible: NDArray[np.int64],
    weight: PairWeights,
    expression: csr_matrix,
    counts: csr_matrix,
    dtype: DTypeLike = np.float64,
) -> tuple[Array, Array, Array]:
    """Sum the expression of the visible cells around each query, in the order of the pairs and in double precision.

    Args:
        indptr: (M + 1,) position of the first pair of each query.
        visible: (E,) visible cell of each pair.
        weight: Weights of the pairs.
        expression: (V, P) log-normalised expression.
        counts: (V, P) raw counts, of the same sparsity.
        dtype: Type to which the sums are rounded.

    Returns:
        Three arrays of shape (M, S, P): sums of the expression, of the indicator "the gene is expressed", and of the
        counts.
    """
    num_scales, num_genes = weight.weight.shape[1], expression.shape[1]
    # One array for the three kinds of sums, which the compiled loop fills together.
    sums = np.empty((3, len(indptr) - 1, num_scales, num_genes), dtype)
    # scipy chooses int32 or int64 by the size of a matrix; a single type needs a single compilation.
    starts, genes = expression.indptr.astype(np.int64), expression.indices.astype(np.int64)
    values, raw = expression.data.astype(np.float64), counts.data.astype(np.float64)
    _add(indptr, visible, weight.padded.ravel(), starts, genes, values, raw, np.empty(num_genes * 3 * LANES), sums)
    return sums[0], sums[1], sums[2]


@compiled
def _add(  # noqa: PLR0913, PLR0917 - compiled code takes arrays, not objects
    indptr: Array,
    visible: Array,
    weight: Array,
    starts: Array,
    genes: Array,
    values: Array,
    counts: Array,
    buffer: Array,
    sums: Array,
) -> None:
    num_scales, num_genes = sums.shape[2], sums.shape[3]
    num_lanes = -(-num_scales // LANES) * LANES  # of the weights of a pair
    for query in range(len(indptr) - 1):
        for first in range(0, num_scales, LANES):
            # The buffer is gene by gene, so that each non-zero value updates a few adjacent numbers.
            buffer[:] = 0
            for pair in range(indptr[query], indptr[query + 1]):
                cell, factors = visible[pair], pair * num_lanes + first
                for entry in range(starts[cell], starts[cell + 1]):
                    row = 3 * LANES * genes[entry]
                    add_multiple(buffer, row, weight, factors, values[entry])
                    add_multiple(buffer, row + LANES, weight, factors, 1.0)
                    add_multiple(buffer, row + 2 * LANES, weight, factors, counts[entry])
            # Transposed to (S, P) only once per query.
            for kind in range(3):
                for scale in range(first, min(first + LANES, num_scales)):
                    out = sums[kind, query, scale]
                    for gene in range(num_genes):
                        out[gene] = buffer[(3 * gene + kind) * LANES + scale - first]
