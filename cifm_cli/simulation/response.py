"""The response of the residents to the edits of a simulation; see `cifm_cli.response`.

Letters: N cells of the slide, R residents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.base import TYPING_SUM, UNASSIGNED, Annotation
from cifm_cli.data.tiles import chunks
from cifm_cli.errors import CifmError
from cifm_cli.response.bands import SurroundingsEdit
from cifm_cli.response.effects import ResponseEstimate, estimate_response
from cifm_cli.response.surroundings import NO_LABEL, LabelledCells
from cifm_cli.simulation.edits.apply import GeneChange
from cifm_cli.simulation.edits.labels import AnnotatorLabels, ColumnLabels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.edits.apply import EditedTissue
    from cifm_cli.simulation.edits.labels import CellLabels
    from cifm_cli.simulation.experiment import Experiment

_CELLS_AT_ONCE: Final = 50_000
MAX_SPLIT_LABELS: Final = 3  # labels that an edit of a gene divides into cells with and without it


def respond(
    experiment: Experiment, slide: Slide, config: SimulateConfig, advance: Callable[[], None] = lambda: None
) -> ResponseEstimate:
    """Estimate the response to the edits of the first replicate.

    Args:
        experiment: The tissue and its edits.
        slide: The slide, of whose cells surroundings and effects are learnt.
        config: The settings.
        advance: Called after every label of the residents.

    Returns:
        The response.
    """
    edited = experiment.edit(0, config.replicates)
    edit = surroundings_edit(experiment, edited, slide, label_slide(experiment, slide, config))
    return estimate_response(slide, edit, config.seed, advance)


def label_slide(experiment: Experiment, slide: Slide, config: SimulateConfig) -> CellLabels:
    """The labels of all cells of the slide, by which edits name them."""
    if config.labels:
        return config.labels
    parts = [
        experiment.annotator.annotate(slide.expression(rows, TYPING_SUM), slide.symbols)
        for rows in chunks(np.arange(slide.num_cells), _CELLS_AT_ONCE)
    ]
    codes, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "scores"))
    return AnnotatorLabels(Annotation(parts[0].names, codes, scores), experiment.annotator.left_out)


def surroundings_edit(
    experiment: Experiment, edited: EditedTissue, slide: Slide, labels: CellLabels
) -> SurroundingsEdit:
    """Describe an edit by the labels of the slide's cells before and after it.

    A label that is edited includes the types below it. A cell of which a gene is edited is labelled by whether it
    expresses the gene.

    Args:
        experiment: The tissue and its edits.
        edited: The tissue after them.
        slide: The slide.
        labels: Labels of all of its cells.

    Returns:
        The edit.
    """
    window = experiment.window.rows
    before = _names(labels, slide)
    added = edited.added_labels.copy()
    for label in sorted({str(name) for name in added} | _edited_labels(experiment)):
        try:
            found = labels.find(label)
        except CifmError:  # void cells, or a label of another data set: the slide has no such cells
            continue
        before[labels.rows(found)] = found
        added[added == label] = found
    after = np.concatenate([before, added])
    _replace(experiment, after)
    _split_by_gene(experiment, edited, slide, before, after)
    is_void = np.zeros(len(after), dtype=bool)
    is_void[: slide.num_cells] = slide.total_counts <= 0
    before[is_void[: slide.num_cells]] = None
    totals = edited.tissue.slide.total_counts
    is_void[window] = totals[: len(window)] <= 0
    is_void[slide.num_cells :] = totals[len(window) :] <= 0
    after[is_void] = None
    names = tuple(sorted({name for name in (*before, *after) if name is not None}))
    number = {name: code for code, name in enumerate(names)} | {None: NO_LABEL}
    residents = np.setdiff1d(window, window[edited.edited])
    residents = residents[before[residents] != UNASSIGNED]
    xy_um = np.concatenate([slide.xy_um, edited.tissue.slide.xy_um[edited.added]])
    codes = [np.array([number[name] for name in arm], dtype=np.int64) for arm in (before, after)]
    return SurroundingsEdit(
        LabelledCells(slide.xy_um, codes[0], names), LabelledCells(xy_um, codes[1], names), residents, edited.xy_um
    )


def _names(labels: CellLabels, slide: Slide) -> NDArray[Any]:
    """(N,) label of each cell of the slide; None for a cell without one."""
    if isinstance(labels, AnnotatorLabels):
        return np.asarray(labels.annotation.labels)
    names: NDArray[Any] = np.full(slide.num_cells, None, dtype=object)
    if isinstance(labels, ColumnLabels):
        names[:] = labels.labels
    return names


def _edited_labels(experiment: Experiment) -> set[str]:
    """Labels that edits name."""
    requests = [entry.request for entry in experiment.edits]
    names = {getattr(request, name, None) for request in requests for name in ("cells", "by")}
    return {name for name in names if name is not None}


def _replace(experiment: Experiment, after: NDArray[Any]) -> None:
    """Give replaced residents the label of the cells they became, in place."""
    for entry in experiment.edits:
        source = getattr(entry.edit, "source", None)
        cells = getattr(entry.edit, "cells", None)
        if source is not None and cells is not None:
            after[experiment.window.rows[cells]] = source.cell_type


def _split_by_gene(
    experiment: Experiment, edited: EditedTissue, slide: Slide, before: NDArray[Any], after: NDArray[Any]
) -> None:
    """Divide the labels of cells of which a gene is edited into cells with and without that gene, in place."""
    window = experiment.window.rows
    for entry in experiment.edits:
        if not isinstance(entry.edit, GeneChange):
            continue
        own = {str(name) for name in before[window[entry.edit.cells]] if name is not None}
        if len(own) > MAX_SPLIT_LABELS:
            continue
        column = slide.columns[edited.tissue.slide.gene_ids[entry.edit.column]]
        symbol = slide.symbols[column]
        rows = np.flatnonzero(np.isin(before.astype(str), sorted(own)))
        expresses = slide.counts(rows)[:, column].toarray().ravel() > 0
        residents = edited.tissue.slide.counts(np.arange(len(window)))[:, entry.edit.column].toarray().ravel() > 0
        expresses_after = np.zeros(slide.num_cells, dtype=bool)
        expresses_after[rows] = expresses
        expresses_after[window[entry.edit.cells]] = residents[entry.edit.cells]
        for arm, has in ((before, expresses), (after, expresses_after[rows])):
            arm[rows] = [f"{name} {symbol}{'+' if is_on else '-'}" for name, is_on in zip(arm[rows], has, strict=True)]
