"""Paired intervals: a bootstrap over square spatial blocks, the same draws for every predictor.

Neighbouring cells err alike, so blocks are drawn, not cells. Letters: Q cells, B blocks, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.evaluation.compiled import sum_blocks
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NUM_RESAMPLES = 1_000
SIDE_RADII = 10.0  # side of a block: wider than what neighbours share by being neighbours
MIN_BLOCKS = 30  # a small tissue is cut finer, into about this many
FEWEST_BLOCKS = 8  # with fewer, no difference is told from none: draws of so few blocks are too much alike
LEVEL = (2.5, 97.5)  # per cent
_GENES_AT_ONCE = 64
_NO_VARIANCE = 1e-10  # of the sum of squares: what rounding leaves of a constant


@dataclass(frozen=True)
class Resampler:
    """Draws of spatial blocks with replacement.

    Args:
        side_um: Side of a block.
        block: (Q,) block of each cell, 0 to B - 1.
        weights: (R, B) how often each draw holds each block. Where there are too few blocks the first draw is empty, so that
            all its means are 0: that is how `interval` and `p_value`, which see draws alone, know.
    """

    side_um: float
    block: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def num_blocks(self) -> int:
        """B."""
        return int(self.weights.shape[1])

    @cached_property
    def _membership(self) -> csr_matrix:
        """(B, Q) ones."""
        cells = np.arange(len(self.block))
        return csr_matrix((np.ones(len(cells)), (self.block, cells)), shape=(self.num_blocks, len(cells)))

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over the cells of each draw.

        Args:
            values: (Q,).

        Returns:
            (R,).
        """
        return self.ratio(values, np.ones(len(values)))

    def ratio(self, numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
        """Ratio of two sums over the cells of each draw; 0 where the second is.

        Args:
            numerator: (Q,).
            denominator: (Q,), not negative.

        Returns:
            (R,).
        """
        above, below = (self.weights @ (self._membership @ part) for part in (numerator, denominator))
        return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))

    def correlation(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean over the genes of Pearson's correlation over the cells of each draw, from sums per block.

        Args:
            x: (P, Q) gene by gene.
            y: (P, Q).

        Returns:
            (R,); a gene constant in a draw counts 0 there.
        """
        total = np.zeros(len(self.weights))
        num_cells = np.maximum(self.weights @ np.bincount(self.block), 1)[:, None]
        for start in range(0, len(x), _GENES_AT_ONCE):
            part = slice(start, start + _GENES_AT_ONCE)
            means = np.stack([z[part].mean(axis=1, dtype=np.float64) for z in (x, y)])
            sums = np.zeros((5, len(x[part]), self.num_blocks))
            sum_blocks(x[part], y[part], means, self.block, sums)
            sum_a, sum_b, aa, bb, ab = (self.weights @ z.T for z in sums)
            spread_a, spread_b = aa - sum_a**2 / num_cells, bb - sum_b**2 / num_cells
            constant = (spread_a <= _NO_VARIANCE * aa) | (spread_b <= _NO_VARIANCE * bb)
            scale = np.sqrt(np.where(constant, 1, spread_a * spread_b))
            total += np.where(constant, 0, (ab - sum_a * sum_b / num_cells) / scale).sum(axis=1)
        return total / len(x)


def cut_blocks(xy_um: NDArray[np.float64], radius_um: float) -> tuple[float, NDArray[np.int64]]:
    """Cut the scored cells into square blocks.

    Args:
        xy_um: (Q, 2) micrometres.
        radius_um: Radius of the graph.

    Returns:
        Side of a block in micrometres, and (Q,) block of each cell, 0 to B - 1.
    """
    # A row of cells has a width too: who stands in the same place within a radius is no block of his own.
    extent_um = np.maximum(xy_um.max(axis=0) - xy_um.min(axis=0), radius_um)
    side_um = min(SIDE_RADII * radius_um, float(np.sqrt(extent_um.prod() / MIN_BLOCKS)))
    square = ((xy_um - xy_um.min(axis=0)) // side_um).astype(np.int64)
    _, block = np.unique(square, axis=0, return_inverse=True)
    return side_um, block.ravel()


def spatial_blocks(xy_um: NDArray[np.float64], radius_um: float, seed: int) -> Resampler:
    """Cut the scored cells into square blocks and draw resamples of them.

    Args:
        xy_um: (Q, 2) micrometres.
        radius_um: Radius of the graph; blocks are 10 radii wide, or less where that gives fewer than about 30.
        seed: The user's seed.

    Returns:
        The resampler.
    """
    side_um, block = cut_blocks(xy_um, radius_um)
    num_blocks = int(block.max()) + 1
    draws = numpy_generator(seed, "bootstrap").multinomial(
        num_blocks, np.full(num_blocks, 1 / num_blocks), NUM_RESAMPLES
    )
    if num_blocks < FEWEST_BLOCKS:
        draws[0] = 0
    return Resampler(side_um, block, draws.astype(np.float64))


def _says_nothing(model: NDArray[np.float64], baseline: NDArray[np.float64]) -> bool:
    """Whether the draws are of too few blocks."""
    return bool(model[0] == 0 == baseline[0])


def interval(model: NDArray[np.float64], baseline: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of a paired difference.

    Args:
        model: (R,) a metric of the model, draw by draw.
        baseline: (R,) the same metric of a baseline, on the same draws.

    Returns:
        Low and high end of model minus baseline; it reaches to zero where there are too few blocks.
    """
    low, high = np.percentile(model - baseline, LEVEL)
    if _says_nothing(model, baseline):
        low, high = min(low, 0.0), max(high, 0.0)
    return float(low), float(high)


def p_value(model: NDArray[np.float64], baseline: NDArray[np.float64]) -> float:
    """Two-sided p-value of a paired difference being zero, from the draws of its interval.

    Args:
        model: (R,) a metric of the model, draw by draw.
        baseline: (R,) the same metric of a baseline, on the same draws.

    Returns:
        Twice the share of draws on the rarer side of zero, ties counting for both; at least 2 / (R + 1), and 1 where
        there are too few blocks.
    """
    if _says_nothing(model, baseline):
        return 1.0
    difference = model - baseline
    rarer = min((difference <= 0).sum(), (difference >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(difference) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, by Holm's method.

    Args:
        p_values: Of several tests.

    Returns:
        Corrected, in the same order.
    """
    order = np.argsort(p_values, kind="stable")
    factor = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factor), 1)
    return [float(value) for value in corrected]
