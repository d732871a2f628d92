"""A simulation in memory: from model, slide and settings to a result, for the command and the Python API."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.labelled_cells import source_name
from cifm_cli.inference.adaptation.option import SLIDE, can_adapt, open_adapted
from cifm_cli.provenance import numpy_generator
from cifm_cli.report.table import Table
from cifm_cli.report.terminal import progress
from cifm_cli.response.summary import response_facts
from cifm_cli.simulation import structure, summary
from cifm_cli.simulation.answer import MIN_STABLE, describe_answer
from cifm_cli.simulation.edits.apply import Addition, apply_edits
from cifm_cli.simulation.edits.requests import Inject
from cifm_cli.simulation.experiment import ARMS, CONTROL, TREATED, Experiment, Trajectory, fit_experiment
from cifm_cli.simulation.prepared_tissue import prepare_tissue
from cifm_cli.simulation.response import respond
from cifm_cli.simulation.window import choose_window

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.response.effects import ResponseEstimate
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.edits.resolve import ResolvedEdit
    from cifm_cli.simulation.source_cells import SourceCells

logger = logging.getLogger(__name__)

FEW_SOURCE_CELLS: Final = 20  # below this number of source cells the user is warned
CAVEATS: Final = (
    (
        "The control is the same tissue on the same schedule with the same random numbers, without the edits. "
        "Interpret the difference between the arms, not the change since the first step."
    ),
    (
        "Replicates differ in the positions, the source cells and the donor of injected cells and in the schedule. They share "
        "one trained model, so their spread does not measure the error of the model."
    ),
    (
        "Cells keep their position and their number of counts; no cell divides, dies or moves, and cells outside the "
        "window are not simulated. A change of composition is a change of what the model predicts at these positions."
    ),
    (
        "Types are called by marker genes, with a classifier that was fitted on the slide before the edits; a cell "
        "without a clear type is unassigned."
    ),
)


@dataclass(frozen=True)
class SimulationResult:
    """Settings and trajectories of a simulation."""

    slide: Slide  # the slide, at the model's radius
    config: SimulateConfig  # the settings
    experiment: Experiment  # window, edits, annotator and update rule
    trajectories: Sequence[Trajectory]  # control and treated trajectory of every replicate
    response: ResponseEstimate  # effects on genes of the residents, at their labels before the simulation

    @property
    def model(self) -> LoadedModel:
        """The model that both arms used, adapted to the slide if the settings say so."""
        return self.experiment.dynamics.model

    @property
    def type_names(self) -> tuple[str, ...]:
        """Cell types, then `unassigned`."""
        return self.experiment.annotator.names

    def composition(self) -> pd.DataFrame:
        """Number of residents by arm, replicate, step and cell type; see `summary.composition_table`."""
        return summary.composition_table(self.trajectories, self.type_names)

    def transitions(self) -> pd.DataFrame:
        """Number of residents by arm, replicate, first type and last type; see `summary.transition_table`."""
        return summary.transition_table(self.trajectories, self.type_names)

    def neighbours(self) -> pd.DataFrame:
        """Number of pairs of neighbours by arm, replicate, distance and types; see `structure.neighbour_table`."""
        return structure.neighbour_table(self.trajectories, self.type_names, self.experiment.tissue.slide.radius_um)

    def to_json(self) -> dict[str, Any]:
        """The content of `simulation.json`, without provenance."""
        config, experiment, schedule = self.config, self.experiment, self.config.schedule
        content: dict[str, Any] = {
            "slide": self.slide.name,
            # Keys of the file format keep their names: `share` is the update fraction, donors are source cells.
            "settings": {
                "steps": schedule.steps,
                "share": schedule.update_fraction,
                "form": schedule.form,
                "dynamics": config.dynamics_name,
                "feedback": experiment.dynamics.coupling and experiment.dynamics.coupling.feedback,
                "replicates": config.replicates,
                "seed": schedule.seed,
                "updates_per_cell": schedule.steps / schedule.steps_per_sweep,
            },
            "window": {"box_um": list(experiment.window.box_um), "num_cells": len(experiment.window.rows)},
            "injected": _injected(experiment.edits),
            "edits": [entry.to_json() for entry in experiment.edits],
            "types": {"known": list(self.type_names), "too_few_markers": experiment.annotator.left_out},
            "response": response_facts(self.response),
            "change": summary.composition_change(self.trajectories, self.type_names),
            "drift": summary.control_drift(self.trajectories, self.type_names),
            "stability": summary.stability(self.trajectories),
            "structure": structure.structure_facts(self.trajectories, experiment.tissue.slide.radius_um),
            "notes": list(CAVEATS),
        }
        return content | {"answer": describe_answer(content, self.response.effects)}


def simulate(model: LoadedModel, slide: Slide, config: SimulateConfig) -> SimulationResult:
    """Edit a tissue, update its cells step by step, and do the same without the edits.

    Args:
        model: The model as trained.
        slide: The slide, with the radius that it was prepared for.
        config: The settings.

    Returns:
        The result. The size of the window and the edits are logged.

    Raises:
        CifmError: The marker table or the reference cannot be read, the window is empty, or an edit cannot be made.
    """
    window = choose_window(slide.xy_um, config.crop_um, config.max_cells)
    logger.info(window.describe(slide))
    # Before the adaptation, which takes much longer, as an edit may be impossible. An adapted model knows all genes.
    adapts = config.adapt == SLIDE and can_adapt(model)
    columns = np.arange(slide.num_genes) if adapts else model.panel(slide).columns
    prepared = prepare_tissue(slide.with_radius(model.checkpoint.recipe.data.radius_um), columns, config, window)
    # There may be too few places for injected cells.
    apply_edits(prepared.tissue, [entry.edit for entry in prepared.edits], numpy_generator(config.seed, "places"))
    # Once, to the tissue before the edits: both arms must have the same model.
    model, slide = open_adapted(model, slide, config.adapt, config.seed)
    experiment = fit_experiment(model, prepared, config)
    for entry in experiment.edits:
        logger.info(entry.describe())
        if isinstance(entry.edit, Addition) and not entry.edit.source.is_void:
            _warn_of_few(entry.edit.source, config.replicates)
    logger.info(
        "%d steps (%s), %d replicate(s), each with and without the edits; backend %s",
        config.schedule.steps,
        config.dynamics_name,
        config.replicates,
        model.backend.name,
    )
    with progress("simulating", config.schedule.steps * len(ARMS) * config.replicates) as advance:
        trajectories = experiment.run(config.replicates, advance)
    with progress("measuring the response and its controls", None):
        response = respond(experiment, slide, config)
    return SimulationResult(slide, config, experiment, trajectories, response)


def _injected(edits: Sequence[ResolvedEdit]) -> dict[str, Any] | None:
    """All injected cells together, under the keys of the file format; None if there are none."""
    added = [(entry.request, entry.edit) for entry in edits]
    pairs = [(asked, edit) for asked, edit in added if isinstance(asked, Inject) and isinstance(edit, Addition)]
    if not pairs:
        return None
    names = [source_name(asked.reference.source) if asked.reference else "the slide" for asked, _ in pairs]
    return {
        "cell_type": ", ".join(dict.fromkeys(edit.source.cell_type for _, edit in pairs)),
        "count": sum(edit.count for _, edit in pairs),
        "num_donors": sum(edit.source.num_cells for _, edit in pairs),
        "donors": ", ".join(dict.fromkeys(names)),
    }


def _warn_of_few(source: SourceCells, replicates: int) -> None:
    """Warn where few cells are copied, or where some donors are left out."""
    if source.num_cells < FEW_SOURCE_CELLS:
        logger.warning("only %d cells of %s, of which copies are injected", source.num_cells, source.cell_type)
    donors = [] if source.donors is None else sorted(set(source.donors))
    if 1 < replicates < len(donors):
        logger.warning(
            "%d donors, of which %d replicates use one each: more replicates would use more", len(donors), replicates
        )


def change_table(facts: dict[str, Any], max_types: int | None = None) -> Table:
    """The change of composition as a table of text.

    Args:
        facts: Dictionary from `SimulationResult.facts`.
        max_types: If given, only so many of the most frequent types.

    Returns:
        One row per type: percentages of the residents before the first step and in each arm, the difference in
        percentage points, how many cells of the type keep it without the edits, and the interval of the difference over the
        replicates if there are several.
    """
    changes = list(facts["change"].items())[:max_types]
    columns = ["cell type", "before", CONTROL, TREATED, "difference (points)", "keep the type without edits"]
    rows = [
        [
            name,
            *(f"{100 * change[key]:.2f} %" for key in ("before", CONTROL, TREATED)),
            f"{100 * change['difference']:+.2f}",
            _kept_text(change["kept"]),
        ]
        for name, change in changes
    ]
    if facts["settings"]["replicates"] == 1:
        return Table(columns, rows)
    intervals = [f"{100 * change['low']:+.2f} to {100 * change['high']:+.2f}" for _, change in changes]
    return Table([*columns, "95 % interval"], [[*row, text] for row, text in zip(rows, intervals, strict=True)])


def _kept_text(kept: float | None) -> str:
    """How many cells of a type keep it without the edits, and what follows where they are few."""
    if kept is None:
        return "-"
    return f"{100 * kept:.0f} %" + (", do not interpret" if kept < MIN_STABLE else "")


def result_notes(facts: dict[str, Any]) -> list[str]:
    """Lines that belong below the table: drift of the control, and change of the structure.

    Args:
        facts: Dictionary from `SimulationResult.facts`.

    Returns:
        One or two lines.
    """
    notes = [f"without the edits the composition changed by {100 * facts['drift']:.1f} % of the cells"]
    share = facts["structure"][0]["like_neighbour_share"]
    if share["before"] is not None:
        notes.append(
            f"neighbours of the same type: {100 * share['before']:.1f} %, then {100 * share[CONTROL]:.1f} % without and "
            f"{100 * share[TREATED]:.1f} % with the edits"
        )
    return notes
