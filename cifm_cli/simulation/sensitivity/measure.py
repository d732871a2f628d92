"""A sensitivity analysis in memory: from model, slide and settings to a map and checked proposals.

Letters: N residents, R target residents, X places.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.inference.adaptation.option import SLIDE, can_adapt, open_adapted
from cifm_cli.provenance import numpy_generator
from cifm_cli.report.terminal import progress
from cifm_cli.simulation.edits.apply import Addition
from cifm_cli.simulation.edits.labels import AnnotatorLabels, ColumnLabels
from cifm_cli.simulation.prepared_tissue import prepare_tissue
from cifm_cli.simulation.sensitivity.added_cells import AddedCells, Grid, free_places, no_cells, typical_cell
from cifm_cli.simulation.sensitivity.full_recomputation import FullRecomputation
from cifm_cli.simulation.sensitivity.gradient import TargetFunction, hidden_sets
from cifm_cli.simulation.sensitivity.search_genes import check_edits, expression_gradient, propose_edits
from cifm_cli.simulation.sensitivity.search_places import (
    SPACING_RADII,
    Agreement,
    check_places,
    compare_derivatives,
    select_places,
)
from cifm_cli.simulation.sensitivity.target import find_target, make_readout
from cifm_cli.simulation.state_sampler import fit_state_sampler
from cifm_cli.simulation.window import choose_window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.prepared_tissue import PreparedTissue
    from cifm_cli.simulation.sensitivity.config import SensitivityConfig
    from cifm_cli.simulation.sensitivity.target import Readout, Target

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SensitivityResult:
    """A map of derivatives, and proposals."""

    model: LoadedModel  # the model, adapted to the slide if the settings say so
    slide: Slide  # the slide, at the model's radius
    config: SensitivityConfig
    prepared: PreparedTissue  # the residents
    target: Target
    value: float  # mean of the target over its residents, without an edit
    added: AddedCells | None  # None where only genes are searched
    grid: Grid | None
    # One row per place: `x_um`, `y_um`; `value`, the derivative of the mean over the target residents in the weight of a cell
    # there; `summed`, that of their sum; `nearest_label` and `nearest_um`, label and distance of the nearest resident
    places: pd.DataFrame
    agreement: Agreement | None  # of the derivatives with those at weight 1/2; None without a map
    proposals: pd.DataFrame | None  # checked edits; None without a search
    together: dict[str, float] | None  # all proposed placements at once: `predicted` and `checked`


@dataclass(frozen=True)
class _Analysis:
    """What the map and the searches share."""

    model: LoadedModel
    config: SensitivityConfig
    prepared: PreparedTissue
    readout: Readout
    sets: list[Rows]

    @cached_property
    def full(self) -> FullRecomputation:
        """Predictions with and without a finite edit."""
        return FullRecomputation(self.model, self.prepared.tissue, self.readout, self.sets)

    def function(self, added: AddedCells) -> TargetFunction:
        """The target as a function of added cells."""
        return TargetFunction(self.model, self.prepared.tissue, added, self.readout, self.sets)

    def derivative(self, added: AddedCells, gate: NDArray[np.float64], description: str) -> NDArray[np.float64]:
        """Derivatives in the weights of added cells, with a bar of progress."""
        function = self.function(added)
        with progress(description, function.num_tiles) as advance:
            return function.evaluate(gate, advance)[1]


def measure_sensitivity(model: LoadedModel, slide: Slide, config: SensitivityConfig) -> SensitivityResult:
    """Map how a target changes with an infinitesimal cell at each free place, and search for edits.

    Args:
        model: The model as trained.
        slide: The slide, with the radius that it was prepared for.
        config: The settings.

    Returns:
        The result. The size of the window is logged.

    Raises:
        CifmError: The window is empty, there is no such target, type or free place, or the marker table or the reference
            cannot be read.
    """
    window = choose_window(slide.xy_um, config.crop_um, config.max_cells)
    logger.info(window.describe(slide))
    # What the user asks for may be impossible, which is found before the adaptation, as that takes longer.
    columns = np.arange(slide.num_genes) if config.adapt == SLIDE and can_adapt(model) else model.panel(slide).columns
    fitted = slide.with_radius(model.checkpoint.recipe.data.radius_um)
    prepared = prepare_tissue(fitted, columns, config.simulation, window)
    target = find_target(config.target, config.cells, prepared)
    added, grid = _added(prepared, config, model.checkpoint.recipe.data.target_sum)
    model, slide = open_adapted(model, slide, config.adapt, config.seed)
    analysis = _analyse(model, config, prepared, target)
    logger.info("%s; %d sets of hidden cells", target.describe(), len(analysis.sets))
    derivative, agreement = np.zeros(0), None
    if grid is None:
        value = sum(float(values.sum()) for values in analysis.full.before)
    else:
        function = analysis.function(added)
        with progress("differentiating", function.num_tiles) as advance:
            value, derivative = function.evaluate(advance=advance)
        agreement = compare_derivatives(
            derivative, added, SPACING_RADII * slide.radius_um, numpy_generator(config.seed, "compared places"),
            lambda cells, gate: analysis.derivative(cells, gate, "comparing with half a cell"),
        )  # fmt: skip
    places = _places(derivative, added, len(target.cells), prepared)
    proposals, together = _search(analysis, target, added, derivative)
    mean = value / len(target.cells)
    shown = None if grid is None else added
    return SensitivityResult(
        model, slide, config, prepared, target, mean, shown, grid, places, agreement, proposals, together
    )


def _analyse(model: LoadedModel, config: SensitivityConfig, prepared: PreparedTissue, target: Target) -> _Analysis:
    sampler = None
    if target.gene is None:
        sampler = fit_state_sampler(model, prepared.tissue.slide, config.hidden_fraction, config.seed)
    readout = make_readout(target, prepared, sampler)
    sets = hidden_sets(target.cells, config.hidden_fraction, config.seed)
    return _Analysis(model, config, prepared, readout, sets)


def _added(prepared: PreparedTissue, config: SensitivityConfig, target_sum: float) -> tuple[AddedCells, Grid | None]:
    """The added cells, at every free place; none where only genes are searched."""
    edit = prepared.edits[0].edit
    if config.inject is None or not isinstance(edit, Addition):
        return no_cells(prepared.tissue.slide.num_genes), None
    grid = free_places(prepared.tissue, edit)
    row = typical_cell(edit.source, target_sum)
    cell = AddedCells(
        edit.source.cell_type, grid.xy_um, edit.source.counts[[row]], float(edit.source.total_counts[row])
    )
    return cell, grid


def resident_labels(prepared: PreparedTissue) -> NDArray[Any]:
    """(N,) label of each resident; `unassigned` for a cell without one."""
    labels = prepared.labels
    names: NDArray[Any] = np.full(prepared.tissue.num_residents, UNASSIGNED, dtype=object)
    if isinstance(labels, AnnotatorLabels):
        names[:] = labels.annotation.labels
    elif isinstance(labels, ColumnLabels):
        names[labels.labels != None] = labels.labels[labels.labels != None]  # noqa: E711 - elementwise
    return names


def _places(derivative: NDArray[np.float64], added: AddedCells, number: int, prepared: PreparedTissue) -> pd.DataFrame:
    """The map as a table."""
    tissue = prepared.tissue
    expressing = tissue.expressing
    distance, nearest = cKDTree(tissue.slide.xy_um[expressing]).query(added.xy_um)
    names = resident_labels(prepared)[expressing]
    return pd.DataFrame({
        "x_um": added.xy_um[:, 0],
        "y_um": added.xy_um[:, 1],
        "value": derivative / number,
        "summed": derivative,
        "nearest_label": names[nearest],
        "nearest_um": distance,
    })  # fmt: skip


def _search(
    analysis: _Analysis, target: Target, added: AddedCells, derivative: NDArray[np.float64]
) -> tuple[pd.DataFrame | None, dict[str, float] | None]:
    """Propose edits and check them, those with the greatest checked effect in the direction of the goal first."""
    config = analysis.config
    if not config.search:
        return None, None
    sign = 1 if config.goal == "raise" else -1
    if config.search_genes:
        table, together = _search_genes(analysis, target, sign), None
    else:
        table, together = _search_places(analysis, added, derivative, sign)
    order = np.argsort(-sign * table["checked"].to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True), together


def _search_places(
    analysis: _Analysis, added: AddedCells, derivative: NDArray[np.float64], sign: int
) -> tuple[pd.DataFrame, dict[str, float] | None]:
    config, tissue = analysis.config, analysis.prepared.tissue

    def evaluate(cells: AddedCells, gate: NDArray[np.float64]) -> NDArray[np.float64]:
        """Derivatives in the direction of the goal."""
        return sign * analysis.derivative(cells, gate, "comparing candidates")

    spacing_um = SPACING_RADII * tissue.slide.radius_um
    found = select_places(sign * derivative, added, config.search, spacing_um, evaluate)
    found = replace(found, predicted=sign * found.predicted, midpoint=sign * found.midpoint)
    number = found.cells.num_cells
    with progress("checking", (number + bool(number)) * len(analysis.sets)) as advance:
        table, together = check_places(found, analysis.full, advance)
    nearest = _places(found.predicted, found.cells, 1, analysis.prepared)["nearest_label"]
    table.insert(2, "nearest_label", nearest.to_numpy())
    return table, together


def _search_genes(analysis: _Analysis, target: Target, sign: int) -> pd.DataFrame:
    config, tissue = analysis.config, analysis.prepared.tissue
    function = analysis.function(no_cells(tissue.slide.num_genes))
    with progress("differentiating in the expression", function.num_tiles) as advance:
        gradient = expression_gradient(function, tissue, advance)
    target_sum = analysis.model.checkpoint.recipe.data.target_sum
    edits = propose_edits(gradient, tissue, _labels(analysis.prepared), target_sum, target.gene, config.seed)
    edits = sorted((edit for edit in edits if sign * edit.predicted > 0), key=lambda edit: -sign * edit.predicted)
    edits = edits[: config.search]
    with progress("checking", len(edits) * len(analysis.sets)) as advance:
        return check_edits(edits, analysis.full, config.seed, advance)


def _labels(prepared: PreparedTissue) -> Sequence[tuple[str, Rows]]:
    """Labels of the residents; a type includes those below it."""
    names = sorted({name for name in resident_labels(prepared) if name != UNASSIGNED})
    return [(name, prepared.labels.rows(name)) for name in names]
