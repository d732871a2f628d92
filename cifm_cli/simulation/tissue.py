"""The simulated tissue: residents, which are updated, and injected cells, which never change.

Letters: N cells of the tissue (residents, then K injected cells), Q changed cells, P genes that slide and model share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, vstack

from cifm_cli.data.counts_source import MemoryCounts, row_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide


@dataclass(frozen=True)
class InjectedCells:
    """Cells that are added to a tissue. No update changes them."""

    xy_um: NDArray[np.float64]  # (K, 2) positions, micrometres
    counts: csr_matrix  # (K, P) counts
    total_counts: NDArray[np.float64]  # (K,) depths that normalisation divides by


@dataclass(frozen=True)
class TissueState:
    """The counts of all cells at one step."""

    slide: Slide  # residents, then injected cells, with their current counts
    num_residents: int  # number of residents
    depths: NDArray[np.float64]  # (N,) sum of each cell's counts over the P genes, which no update changes

    @property
    def counts(self) -> csr_matrix:
        """(N, P) counts."""
        return self.slide.counts(np.arange(self.slide.num_cells))

    @property
    def expressing(self) -> Rows:
        """Ascending rows of the cells that are not void; void cells have no effect on a prediction."""
        return np.flatnonzero(self.slide.total_counts > 0)

    def with_counts(self, cells: Rows, counts: csr_matrix) -> TissueState:
        """The state in which some cells have new counts.

        Args:
            cells: (Q,) rows.
            counts: (Q, P) their new counts.

        Returns:
            A new state; `self` does not change.
        """
        # The new rows are appended and selected in place of the old ones; assigning to CSR rows would cost more.
        row = np.arange(self.slide.num_cells)
        row[cells] = self.slide.num_cells + np.arange(len(cells))
        updated = vstack([self.counts, counts.astype(np.float32)], format="csr")[row]
        return replace(self, slide=replace(self.slide, source=MemoryCounts(updated)))


def crop_tissue(slide: Slide, rows: Rows, columns: NDArray[np.int64]) -> TissueState:
    """Cut the simulated cells and genes out of a slide.

    Args:
        slide: The slide, at the model's radius.
        rows: Ascending rows of the window.
        columns: (P,) genes that slide and model share.

    Returns:
        A state in memory that contains residents only.
    """
    counts = slide.counts(rows)[:, columns]
    cropped = replace(
        slide,
        xy_um=slide.xy_um[rows],
        # The depth over all genes of the slide still normalises expression, as it does outside of a simulation.
        total_counts=slide.total_counts[rows],
        split=slide.split[rows],
        gene_ids=tuple(slide.gene_ids[column] for column in columns),
        symbols=tuple(slide.symbols[column] for column in columns),
        source=MemoryCounts(counts),
    )
    return TissueState(cropped, len(rows), row_sums(counts))


def inject(tissue: TissueState, injected: InjectedCells) -> TissueState:
    """Append cells to a tissue.

    Args:
        tissue: Residents.
        injected: Cells with the same genes.

    Returns:
        The tissue with the injected cells after the residents.
    """
    slide = tissue.slide
    extended = replace(
        slide,
        xy_um=np.concatenate([slide.xy_um, injected.xy_um]),
        total_counts=np.concatenate([slide.total_counts, injected.total_counts]),
        # Regions are not used in a simulation; the array must only have the right length.
        split=np.concatenate([slide.split, np.zeros(len(injected.xy_um), dtype=np.int8)]),
        source=MemoryCounts(vstack([tissue.counts, injected.counts.astype(np.float32)], format="csr")),
    )
    return TissueState(extended, tissue.num_residents, np.concatenate([tissue.depths, row_sums(injected.counts)]))


def replace_cells(
    tissue: TissueState, cells: Rows, counts: csr_matrix, total_counts: NDArray[np.float64]
) -> TissueState:
    """Give some cells other counts, of another depth.

    Args:
        tissue: A state.
        cells: (Q,) rows.
        counts: (Q, P) their new counts.
        total_counts: (Q,) depths that normalisation divides by.

    Returns:
        A new state; `tissue` does not change.
    """
    changed = tissue.with_counts(cells, counts)
    totals, depths = tissue.slide.total_counts.copy(), tissue.depths.copy()
    totals[cells], depths[cells] = total_counts, row_sums(counts)
    return replace(changed, slide=replace(changed.slide, total_counts=totals), depths=depths)
