"""Looking up edits on a slide: which cells, genes and places they mean, and which cells are copied.

Letters: N residents, S labelled cells of the slide, P genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.data.counts_source import row_sums
from cifm_cli.errors import CifmError
from cifm_cli.simulation.edits.apply import Addition, GeneChange, Removal, Replacement
from cifm_cli.simulation.edits.labels import find_gene
from cifm_cli.simulation.edits.places import Area, area_near, in_region, tissue_area
from cifm_cli.simulation.edits.requests import VOID, Inject, Knockout, Overexpress, Remove, Swap
from cifm_cli.simulation.source_cells import SourceCells, source_cells_of_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.simulation.edits.apply import Edit
    from cifm_cli.simulation.edits.labels import CellLabels
    from cifm_cli.simulation.edits.requests import EditRequest, Where
    from cifm_cli.simulation.tissue import TissueState

DEFAULT_INJECTED: Final = 0.02  # injected cells per resident, unless their number is given
MAX_PER_RESIDENT: Final = 10  # injected cells per resident; more are taken for a mistake
OTHER_DATA: Final = "take them from labelled cells of another data set with --inject-from FILE.h5ad"
MAX_RADII: Final = 10.0  # a place that is farther from every cell is taken for a mistake


@dataclass(frozen=True)
class EditContext:
    """What edits are looked up on."""

    slide: Slide  # the slide, at the model's radius
    columns: NDArray[np.int64]  # (P,) genes of the slide that the model knows
    tissue: TissueState  # the N residents
    labels: CellLabels  # of the residents
    source_rows: Rows  # (S,) rows of the slide that have labels, among which cells to copy are selected
    source_labels: CellLabels  # of these S rows
    seed: int  # seed of the downsampling of a reference


@dataclass(frozen=True)
class ResolvedEdit:
    """A request, and what it means on a slide."""

    request: EditRequest
    edit: Edit

    def of_replicate(self, replicate: int, num_replicates: int, order: Sequence[str]) -> Edit:
        """The edit of one replicate, which copies the cells of one donor where there are several of both.

        Args:
            replicate: Number of the replicate, from 0.
            num_replicates: Number of replicates; a single one copies cells of all donors alike.
            order: Names of the donors, in the order in which the replicates take them.

        Returns:
            The edit.
        """
        edit = self.edit
        if not isinstance(edit, Addition) or edit.source.donors is None or num_replicates == 1:
            return edit
        # Of several types, a donor may lack one.
        names = [name for name in order if name in set(edit.source.donors)]
        own = np.flatnonzero(edit.source.donors == names[replicate % len(names)])
        return Addition(edit.source.take(own), edit.count, edit.area, edit.at_um, edit.min_distance_um)

    def describe(self) -> str:
        """One line about what is edited."""
        edit, request = self.edit, self.request
        if isinstance(edit, Addition):
            copies = "" if edit.source.is_void else f", copies of {edit.source.num_cells:,}"
            return f"injecting {edit.count:,} cells ({edit.source.cell_type}){copies}"
        number = f"{len(edit.cells):,} cells"
        if isinstance(request, Remove):
            return f"removing {number} ({request.cells})"
        if isinstance(request, Swap):
            return f"replacing {number} ({request.cells}) by copies of {request.by}"
        if isinstance(request, Overexpress):
            return f"multiplying {request.gene} by {request.fold:g} in {number}"
        return f"removing {request.gene if isinstance(request, Knockout) else 'a gene'} from {number}"

    def to_json(self) -> dict[str, Any]:
        """The request, with the number of cells that it adds or changes."""
        edit = self.edit
        facts: dict[str, Any] = {**self.request.to_json(), "description": self.describe()}
        if isinstance(edit, Addition):
            facts |= {
                "cell_type": edit.source.cell_type,
                "num_cells": edit.count,
                "num_source_cells": edit.source.num_cells,
            }
            if edit.source.donors is not None:
                facts["donors"] = sorted(set(edit.source.donors.tolist()))
            return facts
        return facts | {"num_cells": len(edit.cells)}


def resolve_edits(requests: Sequence[EditRequest], context: EditContext) -> list[ResolvedEdit]:
    """Look up edits on a slide.

    Args:
        requests: The edits.
        context: What they are looked up on.

    Returns:
        The edits, in the order of the requests.

    Raises:
        CifmError: There is no edit, no such label or gene, no cell to edit or to copy, no place; or two edits contradict
            each other.
    """
    if not requests:
        raise CifmError(
            "no edit: nothing would be simulated",
            "name one: cells to inject, remove or swap, or a gene to knock out or overexpress",
        )
    resolved = [ResolvedEdit(request, _resolve(request, context)) for request in requests]
    _require_consistent(resolved, context.tissue.num_residents)
    return resolved


def _resolve(request: EditRequest, context: EditContext) -> Edit:
    if isinstance(request, Inject):
        return _addition(request, context)
    if isinstance(request, Remove):
        return Removal(_cells(request, request.cells, context))
    if isinstance(request, Swap):
        if context.labels.find(request.cells) == context.source_labels.find(request.by):
            raise CifmError(f"swap {request.cells}={request.by}: one label twice", "name two labels")
        hint = "choose another type, or other --labels"
        return Replacement(_cells(request, request.cells, context), _source_of_slide(request.by, context, hint))
    return _gene_change(request, context)


def _cells(where: Where, label: str | None, context: EditContext) -> Rows:
    """Ascending rows of the residents of a label, in the part of the tissue that is named."""
    slide, num_residents = context.tissue.slide, context.tissue.num_residents
    rows = np.arange(num_residents) if label is None else context.labels.rows(context.labels.find(label))
    rows = rows[in_region(slide.xy_um[rows], where.region_um)]
    if where.near is not None and len(rows):
        near = cKDTree(slide.xy_um[_cells_near(where.near, context)])
        # The nearest of two, so that a cell is not near itself.
        distance = near.query(slide.xy_um[rows], k=2)[0]
        own = np.isin(rows, context.labels.rows(context.labels.find(where.near)))
        rows = rows[np.where(own, distance[:, 1], distance[:, 0]) <= (where.within_um or slide.radius_um)]
    if not len(rows):
        what = "" if label is None else f" is labelled {context.labels.find(label)}"
        part = "" if where.region_um is None and where.near is None else " in that part of the tissue"
        raise CifmError(
            f"nothing to edit: none of the {num_residents:,} simulated cells{what}{part}",
            "choose another window with --crop, or another label or region",
        )
    return rows


def _cells_near(label: str, context: EditContext) -> Rows:
    """Rows of the residents that edits are near to."""
    found = context.labels.find(label)
    rows = context.labels.rows(found)
    if not len(rows):
        raise CifmError(
            f"near {found}: there is none among the {context.tissue.num_residents:,} simulated cells",
            "choose another window with --crop, or another label",
        )
    return rows


def _source_of_slide(label: str, context: EditContext, hint: str = OTHER_DATA) -> SourceCells:
    """Cells of the slide to copy."""
    found = context.source_labels.find(label)
    rows = context.source_rows[context.source_labels.rows(found)]
    if not len(rows):
        raise CifmError(f"slide {context.slide.name}: no {found} among its cells", hint)
    return SourceCells(found, context.slide.counts(rows)[:, context.columns], context.slide.total_counts[rows])


def _addition(request: Inject, context: EditContext) -> Addition:
    slide = context.tissue.slide
    if request.cell_type.strip().lower() == VOID:
        source = SourceCells(VOID, csr_matrix((1, slide.num_genes), dtype=np.float32), np.zeros(1))
    elif request.reference:
        source = source_cells_of_reference(context.slide, request.reference, request.cell_type, context.seed)
        source = SourceCells(source.cell_type, source.counts[:, context.columns], source.total_counts, source.donors)
    else:
        source = _source_of_slide(request.cell_type, context)
    if request.at_um is not None:
        _require_near(request.at_um, context)
        _require_few(len(request.at_um), context)
        return Addition(source, len(request.at_um), None, request.at_um)
    area = _area(request, context)
    count = round(DEFAULT_INJECTED * context.tissue.num_residents)
    if request.count is not None:
        count = request.count
    elif request.density is not None:
        count = round(request.density * area.size_mm2())
        if request.density and not count:
            raise CifmError(
                f"density {request.density:g} per mm2: not a single cell in {area.size_mm2():.3g} mm2",
                "inject a number of cells (--count), or more cells per mm2",
            )
    _require_few(count, context)
    return Addition(source, count, area, None, request.min_distance_um)


def _require_few(count: int, context: EditContext) -> None:
    """Refuse numbers that are a mistake, and would fill the memory."""
    num_residents = context.tissue.num_residents
    if count > MAX_PER_RESIDENT * num_residents:
        raise CifmError(
            f"{count:,} cells to inject among {num_residents:,} simulated cells",
            f"inject at most {MAX_PER_RESIDENT} per simulated cell",
        )


def _area(request: Inject, context: EditContext) -> Area:
    """Where cells may be injected."""
    slide = context.tissue.slide
    if request.near is None:
        area = tissue_area(slide.xy_um, slide.radius_um, request.region_um)
    else:
        near_um = slide.xy_um[_cells_near(request.near, context)]
        within_um = request.within_um or slide.radius_um
        area = area_near(near_um, within_um, slide.xy_um, slide.radius_um, request.region_um)
    if not len(area.centres_um):
        (x0, y0), (x1, y1) = slide.xy_um.min(axis=0), slide.xy_um.max(axis=0)
        raise CifmError(
            f"region {','.join(f'{edge:g}' for edge in request.region_um or ())}: no place for a cell in it",
            f"the simulated cells span {x0:.0f},{y0:.0f},{x1:.0f},{y1:.0f} micrometres",
        )
    return area


def _require_near(at_um: np.ndarray[Any, Any], context: EditContext) -> None:
    """Refuse places where no cell is near, such as pixels."""
    slide = context.tissue.slide
    distance = cKDTree(slide.xy_um).query(at_um)[0]
    far = np.flatnonzero(distance > MAX_RADII * slide.radius_um)
    if len(far):
        (x0, y0), (x1, y1) = slide.xy_um.min(axis=0), slide.xy_um.max(axis=0)
        x, y = at_um[far[0]]
        raise CifmError(
            f"{len(far):,} of {len(at_um):,} places have no simulated cell within {MAX_RADII * slide.radius_um:g} um, "
            f"such as {x:g},{y:g}",
            f"the simulated cells span {x0:.0f},{y0:.0f},{x1:.0f},{y1:.0f} micrometres; choose the window with --crop",
        )


def _gene_change(request: Knockout | Overexpress, context: EditContext) -> GeneChange:
    slide = context.tissue.slide
    column = find_gene(request.gene, slide.symbols, slide.gene_ids)
    cells = _cells(request, request.cells, context)
    # The mean over cells that all lack the gene says nothing, so that of all residents takes its place.
    for rows in (cells, np.arange(context.tissue.num_residents)):
        counts = slide.counts(rows)
        expressed = float(counts[:, column].sum())
        if isinstance(request, Knockout) and not expressed:
            raise CifmError(
                f"nothing to edit: no count of {slide.symbols[column]} in {len(rows):,} cells",
                "choose other cells or genes",
            )
        if expressed:
            fold = request.fold if isinstance(request, Overexpress) else 0.0
            return GeneChange(cells, column, fold, expressed / float(row_sums(counts).sum()))
    raise CifmError(
        f"nothing to multiply: no count of {slide.symbols[column]} in {context.tissue.num_residents:,} cells",
        "choose another gene, or another window with --crop",
    )


def _require_consistent(resolved: Sequence[ResolvedEdit], num_residents: int) -> None:
    """Refuse edits of which one would undo another, and edits of all residents, as edited ones are not updated."""
    times = np.zeros(num_residents, dtype=np.int64)
    for entry in resolved:
        # A changed gene of a removed cell is removed with it.
        if isinstance(entry.edit, Removal | Replacement):
            times[entry.edit.cells] += 1
    if number := int((times > 1).sum()):
        raise CifmError(
            f"{number:,} cells are removed or swapped by two edits", "remove or swap each cell once: types may overlap"
        )
    edited = [entry.edit.cells for entry in resolved if not isinstance(entry.edit, Addition)]
    if edited and len(np.unique(np.concatenate(edited))) == num_residents:
        raise CifmError(
            f"all {num_residents:,} simulated cells are edited: none is left that could respond",
            "edit some of them: genes in the cells of --in LABEL, or cells in a --region",
        )
    changes = [(entry.edit.column, entry.edit.cells) for entry in resolved if isinstance(entry.edit, GeneChange)]
    for number, (column, cells) in enumerate(changes):
        if any(column == other and len(np.intersect1d(cells, rows)) for other, rows in changes[:number]):
            raise CifmError("one gene is changed twice in the same cells", "give each gene one edit")
