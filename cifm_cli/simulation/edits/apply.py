"""Edits that were looked up on a slide, and their application to a tissue.

Letters: N residents, K edited places, P genes, Q cells of an edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.data.counts_source import row_sums
from cifm_cli.simulation.tissue import InjectedCells, inject, replace_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.simulation.edits.places import Area
    from cifm_cli.simulation.source_cells import SourceCells
    from cifm_cli.simulation.tissue import TissueState


@dataclass(frozen=True)
class Addition:
    """Copies of source cells at random or given places."""

    source: SourceCells  # cells to copy, with the P genes of the tissue
    count: int  # number of copies
    area: Area | None  # where they may be; None if the places are given
    at_um: NDArray[np.float64] | None = None  # (count, 2) given places
    min_distance_um: float = 0.0  # smallest distance to other cells and to each other


@dataclass(frozen=True)
class Removal:
    """Residents that become void cells, which have no effect on any prediction, at their places."""

    cells: Rows  # (Q,) ascending rows of the tissue


@dataclass(frozen=True)
class Replacement:
    """Residents whose counts become those of source cells."""

    cells: Rows  # (Q,) ascending rows of the tissue
    source: SourceCells  # cells to copy, with the P genes of the tissue


@dataclass(frozen=True)
class GeneChange:
    """Another expression of a gene in some residents."""

    cells: Rows  # (Q,) ascending rows of the tissue
    column: int  # the gene
    fold: float  # 0 to remove its counts; above 1 to multiply its mean over the cells
    fraction: float  # of a cell's counts that are of the gene, mean over the cells


Edit = Addition | Removal | Replacement | GeneChange
"""An edit that `resolve.resolve_edits` has looked up on a slide."""


@dataclass(frozen=True)
class EditedTissue:
    """A tissue after its edits."""

    tissue: TissueState  # residents in their order, then added cells
    edited: Rows  # ascending rows of the residents that were removed, replaced or changed
    added: Rows  # ascending rows of the added cells
    xy_um: NDArray[np.float64]  # (K, 2) places of the edits: edited residents, then added cells that are not void
    added_labels: NDArray[np.object_]  # label of each added cell


def apply_edits(tissue: TissueState, edits: Sequence[Edit], generator: np.random.Generator) -> EditedTissue:
    """Edit a tissue: replaced residents first, then changed genes, removed residents, and added cells.

    Void cells take no random numbers of other edits and come last, so that all else is equal with and without them.

    Args:
        tissue: The residents, before any edit.
        edits: The edits; an empty sequence changes nothing.
        generator: Source of randomness.

    Returns:
        The edited tissue.

    Raises:
        CifmError: There are too few places for the added cells.
    """
    num_residents = tissue.num_residents
    changes = [edit for edit in edits if not isinstance(edit, Addition)]
    changes.sort(key=lambda edit: (Replacement, GeneChange, Removal).index(type(edit)))
    # Streams of their own leave the numbers of the added cells unchanged.
    for change, own in zip(changes, generator.spawn(len(changes)), strict=True):
        tissue = _edit_residents(tissue, change, own)
    additions = [edit for edit in edits if isinstance(edit, Addition)]
    not_void = [edit for edit in additions if not edit.source.is_void]
    void = [edit for edit in additions if edit.source.is_void]
    for addition in not_void:
        tissue = _add(tissue, addition, generator)
    end = tissue.slide.num_cells
    for addition, own in zip(void, generator.spawn(len(void)), strict=True):
        tissue = _add(tissue, addition, own)
    edited = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *(change.cells for change in changes)]))
    added = np.arange(num_residents, tissue.slide.num_cells)
    places = np.concatenate([edited, added[: end - num_residents]])
    names = [edit.source.cell_type for edit in (*not_void, *void) for _ in range(edit.count)]
    return EditedTissue(tissue, edited, added, tissue.slide.xy_um[places], np.array(names, dtype=object))


def _edit_residents(
    tissue: TissueState, edit: Removal | Replacement | GeneChange, generator: np.random.Generator
) -> TissueState:
    """Give some residents other counts, and the depth that follows."""
    total = tissue.slide.total_counts[edit.cells]
    if isinstance(edit, Removal):
        void = csr_matrix((len(edit.cells), tissue.slide.num_genes), dtype=np.float32)
        return replace_cells(tissue, edit.cells, void, np.zeros(len(edit.cells)))
    if isinstance(edit, Replacement):
        chosen = edit.source.draw(len(edit.cells), generator)
        return replace_cells(tissue, edit.cells, edit.source.counts[chosen], edit.source.total_counts[chosen])
    counts = tissue.slide.counts(edit.cells)
    before = counts[:, edit.column].toarray().ravel().astype(np.float64)
    change = -before
    if edit.fold > 0:
        # Poisson counts in proportion to the depth, so that cells that happened to have no count express it too.
        change = generator.poisson((edit.fold - 1) * edit.fraction * row_sums(counts)).astype(np.float64)
    changed = csr_matrix(counts + _column(change, edit.column, counts.shape))
    changed.eliminate_zeros()
    # The normalisation divides by the counts of all genes, of which the changed ones are a part.
    return replace_cells(tissue, edit.cells, changed, total + change)


def _column(values: NDArray[np.float64], column: int, shape: tuple[int, int]) -> csr_matrix:
    """A sparse matrix with one column of values."""
    rows = np.arange(len(values))
    return csr_matrix((values.astype(np.float32), (rows, np.full(len(values), column))), shape=shape)


def _add(tissue: TissueState, edit: Addition, generator: np.random.Generator) -> TissueState:
    """Append copies of source cells."""
    if edit.at_um is not None:
        places = edit.at_um
    elif edit.area is None:
        raise ValueError("an addition needs an area or places")
    else:
        # Removed residents and void cells keep no others away.
        others = tissue.slide.xy_um[tissue.slide.total_counts > 0]
        places = edit.area.draw(edit.count, generator, others, edit.min_distance_um)
    chosen = edit.source.draw(edit.count, generator)
    return inject(tissue, InjectedCells(places, edit.source.counts[chosen], edit.source.total_counts[chosen]))
