"""Paired block bootstrap: confidence intervals, p-values and decisions on differences between predictors.

Errors of neighbouring cells are correlated, so whole spatial blocks are resampled instead of cells. Every predictor is
evaluated on the same draws, which makes differences paired.

Letters: Q cells, B blocks, R draws, P genes, S slides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.jit import compiled
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NUM_DRAWS = 1_000
INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval
BLOCK_RADII = 10.0  # side of a block: wider than the distance over which neighbours are correlated
TARGET_BLOCKS = 30  # a small tissue is cut into about this many smaller blocks
MIN_BLOCKS = 8  # with fewer blocks, the draws are too similar to each other for a decision
_GENES_AT_ONCE = 64
_ROUNDING = 1e-10  # of the sum of squares: the variance that rounding leaves of a constant


class Statistic(NamedTuple):
    """A metric of one predictor."""

    value: float  # on all cells
    draws: Floats  # (R,) on each draw of blocks


class PairedDifference(NamedTuple):
    """The difference of a metric between two predictors."""

    difference: float  # first minus second, on all cells
    low: float  # lower end of the 95 % interval
    high: float  # upper end of it
    p: float  # two-sided p-value of no difference; at least 2 / (R + 1)
    decided: bool  # True if there are enough blocks and the interval excludes zero


def paired_difference(difference: float, draws: Floats, *, decidable: bool) -> PairedDifference:
    """Summarise draws of a difference.

    Args:
        difference: Difference on all cells.
        draws: (R,) difference on each draw.
        decidable: Whether there are enough blocks. If not, the interval is extended to zero and p is 1.

    Returns:
        The difference with its interval, p-value and decision.
    """
    low, high = percentile_interval(draws)
    if not decidable:
        return PairedDifference(difference, min(low, 0.0), max(high, 0.0), 1.0, decided=False)
    rarer = min((draws <= 0).sum(), (draws >= 0).sum())  # ties count on both sides
    # One is added to both counts, so that p is never zero (Davison and Hinkley 1997).
    p = float(min(1.0, 2 * (rarer + 1) / (len(draws) + 1)))
    return PairedDifference(difference, low, high, p, decided=not low <= 0 <= high)


@dataclass(frozen=True)
class Bootstrap:
    """Draws of spatial blocks with replacement."""

    block: NDArray[np.int64]  # (Q,) block of each cell, 0 to B - 1
    weights: Floats  # (R, B) how often each draw contains each block
    side_um: float  # side of a block in micrometres

    @property
    def num_blocks(self) -> int:
        """B."""
        return int(self.weights.shape[1])

    @property
    def decidable(self) -> bool:
        """Whether there are enough blocks to decide on a difference."""
        return self.num_blocks >= MIN_BLOCKS

    def compare(self, a: Statistic, b: Statistic) -> PairedDifference:
        """Compare a metric of two predictors.

        Args:
            a: The metric of the first predictor.
            b: The same metric of the second, on the same draws.

        Returns:
            First minus second; undecided where there are too few blocks.
        """
        return paired_difference(a.value - b.value, a.draws - b.draws, decidable=self.decidable)

    def mean(self, values: Floats) -> Floats:
        """Average (Q,) values over the cells of each draw: (R,)."""
        return self.ratio(values, np.ones(len(values)))

    def ratio(self, numerator: Floats, denominator: Floats) -> Floats:
        """Ratio of two sums over the cells of each draw.

        Args:
            numerator: (Q,) values whose sum is divided.
            denominator: (Q,) values, not negative.

        Returns:
            (R,); 0 where the sum of the denominator is 0.
        """
        # Sums per block first: a draw then weights B sums instead of Q cells.
        above, below = (self.weights @ (self._membership @ values) for values in (numerator, denominator))
        return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))

    def correlation(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> Floats:
        """Pearson's correlation over the cells of each draw, averaged over genes; computed from sums per block.

        Args:
            x: (P, Q) values, one row per gene.
            y: (P, Q) values to correlate with `x`.

        Returns:
            (R,); a gene that is constant in a draw contributes 0 to it.
        """
        total = np.zeros(len(self.weights))
        num_cells = np.maximum(self.weights @ np.bincount(self.block), 1)[:, None]
        # Some genes at a time, so that the (R, P) sums of all draws stay small.
        for start in range(0, len(x), _GENES_AT_ONCE):
            genes = slice(start, start + _GENES_AT_ONCE)
            # Values are centred before they are squared, as sums of squares of large values would lose digits.
            means = np.stack([z[genes].mean(axis=1, dtype=np.float64) for z in (x, y)])
            sums = np.zeros((5, len(x[genes]), self.num_blocks))
            _sum_blocks(x[genes], y[genes], means, self.block, sums)
            sum_x, sum_y, xx, yy, xy = (self.weights @ z.T for z in sums)
            spread_x, spread_y = xx - sum_x**2 / num_cells, yy - sum_y**2 / num_cells
            # Rounding leaves a tiny variance of a constant gene, and dividing
            # by it would give an arbitrary correlation.
            constant = (spread_x <= _ROUNDING * xx) | (spread_y <= _ROUNDING * yy)
            scale = np.sqrt(np.where(constant, 1, spread_x * spread_y))
            total += np.where(constant, 0, (xy - sum_x * sum_y / num_cells) / scale).sum(axis=1)
        return total / len(x)

    @cached_property
    def _membership(self) -> csr_matrix:
        """(B, Q) ones where a cell belongs to a block."""
        cells = np.arange(len(self.block))
        return csr_matrix((np.ones(len(cells)), (self.block, cells)), shape=(self.num_blocks, len(cells)))


def spatial_bootstrap(xy_um: Floats, radius_um: float, seed: int) -> Bootstrap:
    """Cut cells into square blocks and draw the blocks with replacement.

    Args:
        xy_um: (Q, 2) positions of the scored cells, micrometres.
        radius_um: Radius of the graph. Blocks are 10 radii wide, or narrower if there would be fewer than about 30.
        seed: The user's seed.

    Returns:
        The bootstrap.
    """
    side_um, block = cut_blocks(xy_um, radius_um)
    weights = resample(int(block.max()) + 1, NUM_DRAWS, numpy_generator(seed, "bootstrap"))
    return Bootstrap(block, weights, side_um)


def cut_blocks(xy_um: Floats, radius_um: float) -> tuple[float, NDArray[np.int64]]:
    """Cut cells into square blocks.

    Args:
        xy_um: (Q, 2) micrometres.
        radius_um: Radius of the graph.

    Returns:
        Side of a block in micrometres, and (Q,) block of each cell, 0 to B - 1.
    """
    # A single row of cells has no width of its own; one radius keeps the side of a block above zero.
    extent_um = np.maximum(xy_um.max(axis=0) - xy_um.min(axis=0), radius_um)
    side_um = min(BLOCK_RADII * radius_um, float(np.sqrt(extent_um.prod() / TARGET_BLOCKS)))
    square = ((xy_um - xy_um.min(axis=0)) // side_um).astype(np.int64)
    _, block = np.unique(square, axis=0, return_inverse=True)
    return side_um, block.ravel()


def resample(num_groups: int, num_draws: int, generator: np.random.Generator) -> Floats:
    """Draw groups with replacement.

    Args:
        num_groups: B groups, such as blocks, samples or slides.
        num_draws: R.
        generator: Random generator; the call advances its state.

    Returns:
        (R, B) how often each draw contains each group.
    """
    return generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), num_draws).astype(np.float64)


def compare_over_slides(
    differences: Sequence[float], draws: Floats, seed: int, *, decidable: bool, groups: Sequence[str] | None = None
) -> PairedDifference:
    """Average a difference over slides; each draw resamples groups of slides, then the blocks within each slide.

    Args:
        differences: S differences, one of each slide.
        draws: (S, R) difference of each slide on each draw.
        seed: The user's seed.
        decidable: Whether every slide has enough blocks. If one has too few, the mean is not decided either.
        groups: S names, one for each slide; slides with the same name, such as those of one patient, are drawn together.
            None: every slide is drawn by itself.

    Returns:
        The mean difference over slides.
    """
    num_slides, num_draws = draws.shape
    generator = numpy_generator(seed, "slides")
    members = _group_members(range(num_slides) if groups is None else groups)
    num_groups, largest = members.shape
    # Both levels are drawn, as results vary between slides as well as between the blocks of a slide.
    group = generator.integers(num_groups, size=(num_groups, num_draws))
    draw = generator.integers(num_draws, size=(largest, num_groups, num_draws))
    totals, counts = np.zeros(num_draws), np.zeros(num_draws)
    for position in range(largest):
        slide = members[group, position]
        chosen = slide >= 0
        totals += np.where(chosen, draws[slide, draw[position]], 0.0).sum(axis=0)
        counts += chosen.sum(axis=0)
    # Groups differ in size, so that the number of slides differs from draw to draw.
    return paired_difference(float(np.mean(differences)), totals / counts, decidable=decidable)


def _group_members(groups: Sequence[object]) -> NDArray[np.int64]:
    """(groups, size of the largest) numbers of the slides in each group, in the order of their first slides; -1 pads."""
    slides: dict[object, list[int]] = {}
    for number, name in enumerate(groups):
        slides.setdefault(name, []).append(number)
    members = np.full((len(slides), max(map(len, slides.values()))), -1)
    for row, numbers in zip(members, slides.values(), strict=True):
        row[: len(numbers)] = numbers
    return members


def percentile_interval(draws: Floats) -> tuple[float, float]:
    """95 % percentile interval of (R,) draws; draws that are NaN are left out."""
    low, high = np.nanpercentile(draws, INTERVAL)
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of tests (Holm 1979).

    Args:
        p_values: p-values of several tests.

    Returns:
        Corrected p-values, in the same order.
    """
    order = np.argsort(p_values, kind="stable")
    factor = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    # The running maximum keeps the corrected p-values in the order of the given ones.
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factor), 1)
    return [float(value) for value in corrected]


@compiled
def _sum_blocks(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    means: Floats,
    block: NDArray[np.int64],
    sums: Floats,
) -> None:
    """Add x, y, x x, y y and x y over the cells of each block to (5, P, B) sums; means (2, P) are subtracted first."""
    # Plain loops: the compiled function needs no temporary arrays of the size of the expression.
    for gene in range(len(x)):
        for cell in range(len(block)):
            dx, dy, of_block = x[gene, cell] - means[0, gene], y[gene, cell] - means[1, gene], block[cell]
            sums[0, gene, of_block] += dx
            sums[1, gene, of_block] += dy
            sums[2, gene, of_block] += dx * dx
            sums[3, gene, of_block] += dy * dy
            sums[4, gene, of_block] += dx * dy
