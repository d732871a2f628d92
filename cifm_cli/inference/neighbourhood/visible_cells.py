"""The visible cells around hidden ones, and statistics of each gene.

Letters: V visible cells, P genes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

    Floats = NDArray[np.float64]
    Values = NDArray[np.float32]

_ROWS_AT_ONCE = 50_000  # cells read at a time when a whole region is summed


@dataclass(frozen=True)
class GeneStats:
    """Statistics of each gene over some cells, usually the training cells."""

    mean: Floats  # (P,) mean log-normalised expression
    fraction: Floats  # (P,) fraction of the cells that express the gene
    counts: Floats  # (P,) total counts

    @cached_property
    def composition(self) -> Floats:
        """(P,) fraction of all counts in each gene; equal fractions where there are no counts."""
        total = self.counts.sum()
        return self.counts / total if total else np.full(len(self.counts), 1 / len(self.counts))

    def take_genes(self, genes: NDArray[np.int64]) -> GeneStats:
        """Select genes by position."""
        return GeneStats(self.mean[genes], self.fraction[genes], self.counts[genes])

    def without(self, other: GeneStats, num_cells: int, num_other: int) -> GeneStats:
        """Statistics of the cells that remain when `num_other` of `num_cells` cells are left out."""
        # Rounding can leave a difference slightly below zero.
        mean, fraction = (
            np.maximum(mine * num_cells - theirs * num_other, 0) / (num_cells - num_other)
            for mine, theirs in ((self.mean, other.mean), (self.fraction, other.fraction))
        )
        return GeneStats(mean, fraction, np.maximum(self.counts - other.counts, 0))


def gene_stats(slide: Slide, rows: Rows, columns: Rows, target_sum: float) -> GeneStats:
    """Compute the statistics of P genes (`columns` of the slide) over at least one cell."""
    totals = np.zeros((3, len(columns)))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        expression = slide.expression(block, target_sum)[:, columns]
        totals[0] += np.asarray(expression.sum(axis=0, dtype=np.float64)).ravel()
        totals[1] += expression.getnnz(axis=0)
        totals[2] += np.asarray(slide.counts(block)[:, columns].sum(axis=0, dtype=np.float64)).ravel()
    return GeneStats(totals[0] / len(rows), totals[1] / len(rows), totals[2])


class CellSums(NamedTuple):
    """Cells, or squares filled with cells, that weighted means are taken over; M of them."""

    tree: cKDTree  # their places
    number: Values  # (M, 1) number of cells in each
    expression: csr_matrix  # (M, P) sum of log-normalised expression
    expressed: csr_matrix  # (M, P) number of cells that express the gene
    counts: csr_matrix  # (M, P) sum of counts


@dataclass(frozen=True)
class VisibleCells:
    """The cells that a baseline may use. It knows of the hidden cells only where they are."""

    xy_um: Floats  # (V, 2) places of the visible cells with counts, micrometres
    expression: csr_matrix  # (V, P) log-normalised
    counts: csr_matrix  # (V, P) raw
    gene_stats: GeneStats  # statistics of the training cells, for places without visible neighbours
    radius_um: float  # radius of the graph
    reach_um: float  # full receptive field of the model
    seed: int = 0  # the user's seed, for baselines that draw at random
    fold_number: int = 0  # number of the fold, so that folds have different draws
    _squares: dict[float, CellSums] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def cells(self) -> CellSums:
        """The visible cells one by one."""
        x = self.expression
        expressed = csr_matrix((np.ones_like(x.data), x.indices, x.indptr), x.shape)
        number = np.ones((len(self.xy_um), 1), dtype=np.float32)
        return CellSums(cKDTree(self.xy_um), number, x, expressed, self.counts)

    def squares(self, side_um: float) -> CellSums:
        """The visible cells summed over the squares of a grid, of those that contain cells."""
        if side_um not in self._squares:
            square, cell_of = np.unique(np.floor(self.xy_um / side_um), axis=0, return_inverse=True)
            rows = np.arange(len(self.xy_um))
            member = csr_matrix((np.ones(len(rows), dtype=np.float32), (cell_of.ravel(), rows)))
            number = np.asarray(member.sum(axis=1), dtype=np.float32)
            sums = [member @ values for values in (self.expression, self.cells.expressed, self.counts)]
            self._squares[side_um] = CellSums(cKDTree((square + 0.5) * side_um), number, *sums)
        return self._squares[side_um]

    def generator(self, name: str) -> np.random.Generator:
        """Random generator of a baseline in this fold."""
        return numpy_generator(self.seed, "baseline", name, self.fold_number)
