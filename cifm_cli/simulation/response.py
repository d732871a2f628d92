"""The response of the residents to the edits of a simulation; see `cifm_cli.response`.

Letters: N cells of the slide, R residents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.base import TYPING_SUM, UNASSIGNED, Annotation
from cifm_cli.data.tiles import chunks
from cifm_cli.errors import CifmError
from cifm_cli.response.bands import SurroundingsEdit
from cifm_cli.response.effects import COLUMNS, ResponseEstimate, estimate_response
from cifm_cli.response.surroundings import NO_LABEL, LabelledCells
from cifm_cli.simulation.edits.apply import GeneChange
from cifm_cli.simulation.edits.labels import AnnotatorLabels, ColumnLabels
from cifm_cli.simulation.model_response import model_changes, void_change

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    """Estimate the response to the edits, averaged over the replicates, and its controls.

    Args:
        experiment: The tissue and its edits.
        slide: The slide, of whose cells surroundings and effects are learnt.
        config: The settings.
        advance: Called after every label of the residents.

    Returns:
        The response.
    """
    edited = [experiment.edit(replicate, config.replicates) for replicate in range(config.replicates)]
    edits = surroundings_edits(experiment, edited, slide, label_slide(experiment, slide, config))
    estimate = estimate_response(slide, edits, config.seed, advance)
    if estimate.effects.empty:
        return estimate
    model, window = experiment.dynamics.model, experiment.window.rows
    residents = {
        key: [np.searchsorted(window, rows) for rows in replicates] for key, replicates in estimate.residents.items()
    }
    changes = model_changes(model, experiment.tissue, [one.tissue for one in edited], residents, config.seed)
    effects = estimate.effects.drop(columns="model_log2_change")
    effects = effects.merge(changes, how="left", on=["label", "band_high_um", "gene_id"])[list(COLUMNS)]
    controls = replace(
        estimate.controls,
        no_edit=_num_called(slide, replace(edits[0], after=edits[0].before), config.seed),
        void=_num_called(slide, void_edit(edits[0]), config.seed),
        void_model_change=void_change(model, experiment.tissue, edited[0].xy_um, config.seed),
    )
    return replace(estimate, effects=effects, controls=controls)


def void_edit(edit: SurroundingsEdit) -> SurroundingsEdit:
    """Void cells at the places of an edit, in place of what it changes."""
    before, places_um = edit.before, edit.places_um
    codes = np.concatenate([before.codes, np.full(len(places_um), NO_LABEL)])
    return replace(edit, after=LabelledCells(np.concatenate([before.xy_um, places_um]), codes, before.names))


def _num_called(slide: Slide, edit: SurroundingsEdit, seed: int) -> int:
    return int(estimate_response(slide, edit, seed).effects["called"].sum())


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


def surroundings_edits(
    experiment: Experiment, edited: Sequence[EditedTissue], slide: Slide, labels: CellLabels
) -> list[SurroundingsEdit]:
    """Describe the replicates of an edit by the labels of the slide's cells before and after it.

    A label that is edited includes the types below it. A cell of which a gene is edited is labelled by whether it
    expresses the gene.

    Args:
        experiment: The tissue and its edits.
        edited: The tissue after them, in every replicate.
        slide: The slide.
        labels: Labels of all of its cells.

    Returns:
        The replicates, with equal labels before the edit.
    """
    window = experiment.window.rows
    arms = [_label_arms(experiment, one, slide, labels) for one in edited]
    names = tuple(sorted({name for pair in arms for arm in pair for name in arm if name is not None}))
    number = {name: code for code, name in enumerate(names)} | {None: NO_LABEL}
    found = []
    for one, pair in zip(edited, arms, strict=True):
        residents = np.setdiff1d(window, window[one.edited])
        residents = residents[pair[0][residents] != UNASSIGNED]
        xy_um = np.concatenate([slide.xy_um, one.tissue.slide.xy_um[one.added]])
        before, after = (np.array([number[name] for name in arm], dtype=np.int64) for arm in pair)
        found.append(
            SurroundingsEdit(
                LabelledCells(slide.xy_um, before, names), LabelledCells(xy_um, after, names), residents, one.xy_um
            )
        )
    return found


def _label_arms(
    experiment: Experiment, edited: EditedTissue, slide: Slide, labels: CellLabels
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels of the slide's cells before an edit, and of these and the added cells after it; None for void cells."""
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
    return before, after


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
    """Divide the labels with most cells of which a gene is edited into cells with and without that gene, in place."""
    window = experiment.window.rows
    for entry in experiment.edits:
        if not isinstance(entry.edit, GeneChange):
            continue
        column = slide.columns[edited.tissue.slide.gene_ids[entry.edit.column]]
        symbol = slide.symbols[column]
        own = _most_changed(experiment, entry.edit, before)
        rows = np.flatnonzero(np.isin(before.astype(str), own))
        expresses = slide.counts(rows)[:, column].toarray().ravel() > 0
        residents = edited.tissue.slide.counts(np.arange(len(window)))[:, entry.edit.column].toarray().ravel() > 0
        expresses_after = np.zeros(slide.num_cells, dtype=bool)
        expresses_after[rows] = expresses
        expresses_after[window[entry.edit.cells]] = residents[entry.edit.cells]
        for arm, has in ((before, expresses), (after, expresses_after[rows])):
            arm[rows] = [f"{name} {symbol}{'+' if is_on else '-'}" for name, is_on in zip(arm[rows], has, strict=True)]


def _most_changed(experiment: Experiment, edit: GeneChange, labels: NDArray[Any]) -> list[str]:
    """The `MAX_SPLIT_LABELS` labels with most cells that may gain or lose a gene, as each takes many predictors."""
    expresses = experiment.tissue.slide.counts(edit.cells)[:, edit.column].toarray().ravel() > 0
    # The tissue before the edit decides, so that all replicates have equal labels before it.
    cells = edit.cells[expresses] if edit.fold == 0 else edit.cells
    own = [str(name) for name in labels[experiment.window.rows[cells]] if name is not None]
    names, sizes = np.unique(own, return_counts=True)
    return sorted(names[np.argsort(-sizes, kind="stable")[:MAX_SPLIT_LABELS]].tolist())
