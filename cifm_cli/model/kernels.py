"""Weighted sums over the visible cells around queries, compiled. They take most of the time in which a tile is prepared.

Letters: M queries, V visible cells, E pairs of a query and a visible cell, S scales, P genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli.jit import compiled
from cifm_cli.model.vector_sums import LANES, add_products, transpose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.jit import Array

KINDS = 3  # of sums: of the expression, of the indicator "the gene is expressed", and of the counts


class PairWeights(NamedTuple):
    """Weights of the pairs of a query and a visible cell."""

    padded: Array  # (E, L) one for each scale, then zeros up to a multiple of `LANES`
    weight: Array  # (E, S) the same without the zeros
    mass: Array  # (M, S) their sums over the pairs of a query


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
        dtype: Type to which weights and masses are rounded; they are computed in double precision.

    Returns:
        The weights.
    """
    num_scales, widths = len(scales), np.asarray(scales, np.float64)
    padded = np.zeros((len(visible), -(-num_scales // LANES) * LANES), dtype)
    mass = np.empty((len(indptr) - 1, num_scales), dtype)
    # The Gaussian of half the scale is the fourth power: two squares take a tenth of the time of an exponential.
    doubles = bool((widths[1:] == 2 * widths[:-1]).all())
    gaussians = np.exp(np.multiply.outer(squared, -0.5 / (widths[-1:] if doubles else widths) ** 2))
    _weigh(indptr, visible, gaussians, reliability, padded, mass)
    return PairWeights(padded, padded[:, :num_scales], mass)


@compiled
def _weigh(indptr: Array, visible: Array, gaussians: Array, reliability: Array, padded: Array, mass: Array) -> None:
    """Write the weights of the Gaussians of all scales, or of the widest one if `gaussians` has no others."""
    num_scales, widest = mass.shape[1], gaussians.shape[1] - 1
    sums = np.empty(num_scales)
    for query in range(len(indptr) - 1):
        sums[:] = 0
        for pair in range(indptr[query], indptr[query + 1]):
            reliable, gaussian = reliability[visible[pair]], gaussians[pair, widest]
            for step in range(num_scales):
                scale = num_scales - 1 - step
                if widest > 0:
                    gaussian = gaussians[pair, scale]
                weight = gaussian * reliable
                padded[pair, scale] = weight
                sums[scale] += weight
                gaussian *= gaussian
                gaussian *= gaussian
        mass[query] = sums


def weighted_sums(
    indptr: NDArray[np.int64],
    visible: NDArray[np.int64],
    weight: PairWeights,
    expression: csr_matrix,
    counts: csr_matrix,
) -> tuple[Array, Array, Array]:
    """Sum the expression of the visible cells around each query, in the order of the pairs and in the type of the weights.

    Args:
        indptr: (M + 1,) position of the first pair of each query.
        visible: (E,) visible cell of each pair.
        weight: Weights of the pairs.
        expression: (V, P) log-normalised expression.
        counts: (V, P) raw counts, of the same sparsity.

    Returns:
        Three arrays of shape (M, S, P): sums of the expression, of the indicator "the gene is expressed", and of the
        counts.
    """
    dtype, num_scales, num_genes = weight.padded.dtype, weight.weight.shape[1], expression.shape[1]
    # One array for the three kinds of sums, which the compiled loop fills together.
    sums = np.empty((KINDS, len(indptr) - 1, num_scales, num_genes), dtype)
    # scipy chooses int32 or int64 by the size of a matrix; a single type needs a single compilation.
    starts, genes = expression.indptr.astype(np.int64), expression.indices.astype(np.int64)
    entries = np.zeros((expression.nnz, LANES), dtype)
    entries[:, 0], entries[:, 1], entries[:, 2] = expression.data, 1, counts.data
    buffer = np.empty(num_genes * LANES * LANES, dtype)
    _add(indptr, visible, weight.padded.ravel(), starts, genes, entries.ravel(), buffer, sums.shape, sums.ravel())
    return sums[0], sums[1], sums[2]


@compiled
def _add(  # noqa: PLR0913, PLR0917 - compiled code takes arrays, not objects
    indptr: Array,
    visible: Array,
    weight: Array,
    starts: Array,
    genes: Array,
    entries: Array,
    buffer: Array,
    shape: tuple[int, int, int, int],
    sums: Array,
) -> None:
    num_kinds, num_queries, num_scales, num_genes = shape
    num_lanes = -(-num_scales // LANES) * LANES  # of the weights of a pair
    row = LANES * LANES  # numbers of a gene in the buffer: kind by kind, scale by scale
    for query in range(num_queries):
        for first in range(0, num_scales, LANES):
            # The buffer is gene by gene, so that each non-zero value updates adjacent numbers in one instruction.
            buffer[:] = 0
            for pair in range(indptr[query], indptr[query + 1]):
                cell, factors = visible[pair], pair * num_lanes + first
                for entry in range(starts[cell], starts[cell + 1]):
                    add_products(buffer, row * genes[entry], entries, LANES * entry, weight, factors)
            # Transposed to (S, P) only once per query.
            num_stored = min(LANES, num_scales - first)
            for kind in range(num_kinds):
                out = ((kind * num_queries + query) * num_scales + first) * num_genes
                _store(sums, out, num_genes, num_stored, buffer, LANES * kind)


@compiled
def _store(sums: Array, out: int, num_genes: int, num_stored: int, buffer: Array, column: int) -> None:
    """Write up to `LANES` columns of the buffer, from `column` on, as rows of the sums."""
    row = LANES * LANES
    # Four genes at once where there are four columns, then one number after the other.
    num_transposed = num_genes - num_genes % LANES if num_stored == LANES else 0
    for gene in range(0, num_transposed, LANES):
        transpose(sums, out + gene, num_genes, buffer, row * gene + column, row)
    for gene in range(num_transposed, num_genes):
        for scale in range(num_stored):
            sums[out + scale * num_genes + gene] = buffer[row * gene + column + scale]


@compiled
def add_by_state(query: Array, state: Array, weight: Array, sums: Array) -> None:
    """Add the weights of pairs to the sums of their query and state, in the order of the pairs.

    Args:
        query: (E,) query of each pair.
        state: (E,) state of its visible cell.
        weight: (E, S) weights.
        sums: (M, S, K) sums, which are changed.
    """
    for pair in range(len(query)):
        for scale in range(weight.shape[1]):
            sums[query[pair], scale, state[pair]] += weight[pair, scale]


def shrink_to_wider(sums: Array, mass: Array, profile: Array, prior: float, means: Array) -> None:
    """Divide sums by their mass, with the mean at the next wider scale as a prior, see `smoother.shrink`.

    Args:
        sums: (M, S, P) weighted sums, the narrowest scale first.
        mass: (M, S) sums of the weights.
        profile: (P,) prior of the widest scale.
        prior: Mass of a prior.
        means: (S + 1, M, P) is overwritten by the means, the profile last.
    """
    _shrink(sums, mass, profile, means.dtype.type(prior), means)


@compiled
def _shrink(sums: Array, mass: Array, profile: Array, prior: float, means: Array) -> None:
    num_queries, num_scales, num_genes = sums.shape
    for query in range(num_queries):
        means[num_scales, query] = profile
        for step in range(num_scales):
            # From the widest to the narrowest, since each mean is the prior of the next narrower one.
            scale = num_scales - 1 - step
            total = mass[query, scale] + prior
            for gene in range(num_genes):
                wider = means[scale + 1, query, gene]
                means[scale, query, gene] = (sums[query, scale, gene] + prior * wider) / total
