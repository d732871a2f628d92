"""The experiment: the same tissue on the same schedule, with injected cells and without, some replicates of it.

Letters: N residents, P genes that slide and model share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.celltype.marker_annotator import MarkerAnnotator, fit_marker_annotator
from cifm_cli.celltype.markers import find_type
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.donors import reference_donors, slide_donors
from cifm_cli.simulation.dynamics import Dynamics, Schedule, Tissue, inject, prepare_dynamics, restrict
from cifm_cli.simulation.injection import draw_injection

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cifm_cli.celltype.markers import Markers
    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.donors import Donors, Reference
    from cifm_cli.simulation.window import Window

TREATED: Final = "treated"
CONTROL: Final = "control"
ARMS: Final = (CONTROL, TREATED)
TYPING_SUM: Final = 10_000.0  # what annotators expect expression to be normalised to
TYPER_CELLS: Final = 50_000  # cells of the slide that the typer is fitted on, and donors are taken from


@dataclass(frozen=True)
class InjectionConfig:
    """What to inject.

    Args:
        cell_type: As the user typed it.
        reference: Where to take cells from; the slide itself when absent.
    """

    cell_type: str
    reference: Reference | None = None


@dataclass(frozen=True)
class Course:
    """One run of the schedule.

    Args:
        arm: `treated` or `control`.
        replicate: From 0.
        codes: (steps + 1, N) type of every resident, before and after every step; positions in the typer's names.
        final: The last state.
    """

    arm: str
    replicate: int
    codes: NDArray[np.int16]
    final: Tissue


@dataclass(frozen=True)
class Experiment:
    """Everything that is fixed before the first cell is injected.

    Args:
        tissue: The residents, untouched.
        window: Where they are on the slide.
        donors: Cells to inject copies of.
        typer: Names cells before, during and after, with the same yardstick.
        dynamics: What a step does.
    """

    tissue: Tissue
    window: Window
    donors: Donors
    typer: MarkerAnnotator
    dynamics: Dynamics

    def run(self, number: int, replicates: int, advance: Callable[[], None] = lambda: None) -> list[Course]:
        """Run both arms of every replicate.

        Args:
            number: Cells to inject.
            replicates: Each has places, donors and a schedule of its own, the same ones in both arms.
            advance: Called after every step.

        Returns:
            Control and treated course of every replicate.
        """
        return [self._follow(arm, replicate, number, advance) for replicate in range(replicates) for arm in ARMS]

    def _follow(self, arm: str, replicate: int, number: int, advance: Callable[[], None]) -> Course:
        tissue = self.inject(number, replicate) if arm == TREATED else self.tissue
        codes = [self.annotate(tissue)]
        for state in self.dynamics.run(tissue, replicate):
            tissue = state
            codes.append(self.annotate(tissue))
            advance()
        return Course(arm, replicate, np.array(codes, dtype=np.int16), tissue)

    def inject(self, number: int, replicate: int) -> Tissue:
        """The tissue with injected cells, as the treated arm of a replicate begins."""
        slide = self.tissue.slide
        generator = numpy_generator(self.dynamics.schedule.seed, "injection", replicate)
        return inject(self.tissue, draw_injection(self.donors, slide.xy_um, number, slide.radius_um, generator))

    def annotate(self, tissue: Tissue) -> NDArray[np.int64]:
        """(N,) types of the residents."""
        residents = np.arange(tissue.num_residents)
        expression = tissue.slide.expression(residents, TYPING_SUM)
        return self.typer.annotate(expression, tissue.slide.symbols).codes


def prepare_experiment(
    engine: LoadedModel, slide: Slide, wanted: InjectionConfig, markers: Markers, window: Window, schedule: Schedule
) -> Experiment:
    """Type the slide, find donors, cut the window, fit the dynamics.

    Args:
        engine: The model.
        slide: At the model's radius.
        wanted: What to inject.
        markers: Symbols by type.
        window: Cells that exist.
        schedule: What will happen when.

    Returns:
        The experiment.

    Raises:
        CifmError: There is no such type, or no cell of it.
    """
    panel = engine.panel(slide)
    rows = np.arange(slide.num_cells)
    if len(rows) > TYPER_CELLS:
        rows = np.sort(numpy_generator(schedule.seed, "typer").choice(rows, TYPER_CELLS, replace=False))
    symbols = [slide.symbols[column] for column in panel.columns]
    expression = slide.expression(rows, TYPING_SUM)[:, panel.columns]
    typer = fit_marker_annotator(expression, symbols, markers)
    if wanted.reference:
        donors = reference_donors(slide, wanted.reference, wanted.cell_type, schedule.seed)
    else:
        cell_type = find_type(wanted.cell_type, typer.names[:-1], typer.left_out)
        donors = slide_donors(slide, rows, typer.annotate(expression, symbols), cell_type)
    donors = replace(donors, counts=donors.counts[:, panel.columns])
    tissue = restrict(slide, window.rows, panel)
    return Experiment(tissue, window, donors, typer, prepare_dynamics(engine, tissue, schedule))
