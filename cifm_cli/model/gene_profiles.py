"""Statistics of each gene over the cells of a slide, from sums that cells can be taken out of again.

Only cells with counts are counted: adding void cells changes nothing.

Letters: P genes, m cells.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cifm_cli.data.slide import log_normalise
from cifm_cli.data.tiles import chunks

if TYPE_CHECKING:
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.model.vocabulary import Panel

_BLOCK_CELLS = 20_000  # cells that are read at a time


class GeneProfiles(NamedTuple):
    """Statistics of each gene."""

    mean: torch.Tensor  # (P,) float32 mean log-normalised expression
    expressed: torch.Tensor  # (P,) float32 fraction of cells that express the gene
    composition: torch.Tensor  # (P,) float32 fraction of all counts, positive; the sum is 1


@dataclass(frozen=True)
class GeneTotals:
    """Sums over cells with counts, float64: float32 sums over millions of cells lose small values."""

    values: torch.Tensor  # (P,) sum of the log-normalised expression
    expressed: torch.Tensor  # (P,) number of cells that express the gene
    counts: torch.Tensor  # (P,) sum of the counts
    num_cells: torch.Tensor  # (P,) number of cells in which the gene was measured

    @classmethod
    def zeros(cls, num_genes: int) -> GeneTotals:
        """Totals over no cell."""
        return cls(*(torch.zeros(num_genes, dtype=torch.float64) for _ in fields(cls)))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def add(self, other: GeneTotals, genes: torch.Tensor) -> GeneTotals:
        """Add totals over other cells, whose genes have the positions `genes` here."""
        return GeneTotals(
            *(own.index_add(0, genes, added) for own, added in zip(_values(self), _values(other), strict=True))
        )

    def take_genes(self, genes: torch.Tensor) -> GeneTotals:
        """Select genes by position."""
        return GeneTotals(*(values[genes] for values in _values(self)))

    def without(self, values: torch.Tensor, counts: torch.Tensor, num_cells: int) -> GeneTotals:
        """Take cells out of the totals.

        Args:
            values: (m, P) log-normalised expression of cells that are part of the totals.
            counts: (m, P) their counts.
            num_cells: How many of them have counts.

        Returns:
            Totals over the other cells.
        """
        return GeneTotals(
            # Rounding may leave a sum slightly below zero.
            (self.values - values.sum(0, dtype=torch.float64)).clamp(min=0),
            self.expressed - (values > 0).sum(0),
            self.counts - counts.sum(0, dtype=torch.float64),
            self.num_cells - num_cells,
        )

    def minus(self, other: GeneTotals) -> GeneTotals:
        """Take out cells whose totals over the same genes are known."""
        # Rounding may leave a sum slightly below zero.
        return GeneTotals(
            *((own - taken).clamp(min=0) for own, taken in zip(_values(self), _values(other), strict=True))
        )

    def profiles(self) -> GeneProfiles:
        """Means over the cells. One count more in every gene, so that no gene is impossible."""
        measured = self.num_cells.clamp(min=1)  # genes that no cell measures are divided by 1
        rate = (self.counts + 1) / measured
        profiles = (self.values / measured, self.expressed / measured, rate / rate.sum())
        return GeneProfiles(*(profile.float() for profile in profiles))


def sum_genes(slide: Slide, rows: Rows, panel: Panel, target_sum: float) -> GeneTotals:
    """Sum the cells of a slide, a block at a time.

    Args:
        slide: The slide.
        rows: Rows of the cells.
        panel: The P genes.
        target_sum: Sum that counts are scaled to before log1p.

    Returns:
        Totals over those of the cells that have counts.
    """
    sums, expressing, counts = (np.zeros(panel.num_genes) for _ in range(3))
    with_counts = rows[slide.total_counts[rows] > 0]
    for block_rows in chunks(with_counts, _BLOCK_CELLS):
        block_counts = slide.counts(block_rows)
        # Depth is that of all genes of the slide, also of those that the panel lacks.
        block = log_normalise(block_counts, slide.total_counts[block_rows], target_sum)[:, panel.columns]
        block_counts = block_counts[:, panel.columns]
        # `bincount` sums in float64; the sum of a sparse matrix is in its own type, whatever the result is.
        sums += np.bincount(block.indices, block.data, panel.num_genes)
        expressing += np.bincount(block.indices[block.data > 0], minlength=panel.num_genes)
        counts += np.bincount(block_counts.indices, block_counts.data, panel.num_genes)
    number = np.full(panel.num_genes, float(len(with_counts)))
    return GeneTotals(*(torch.from_numpy(total) for total in (sums, expressing, counts, number)))


def _values(totals: GeneTotals) -> tuple[torch.Tensor, ...]:
    return totals.values, totals.expressed, totals.counts, totals.num_cells
