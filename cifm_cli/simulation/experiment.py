"""The experiment: one tissue on one schedule, simulated with and without injected cells, in several replicates.

Letters: N residents, T cell types and `unassigned`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.celltype.annotate import slide_tissue
from cifm_cli.celltype.base import TYPING_SUM
from cifm_cli.celltype.marker_annotator import MarkerAnnotator, fit_marker_annotator
from cifm_cli.celltype.markers import find_type, load_markers
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.dynamics import Dynamics, fit_dynamics
from cifm_cli.simulation.injection import draw_injected_cells
from cifm_cli.simulation.source_cells import source_cells_of_reference, source_cells_of_slide
from cifm_cli.simulation.tissue import TissueState, crop_tissue, inject

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.source_cells import SourceCells
    from cifm_cli.simulation.window import Window

TREATED: Final = "treated"
CONTROL: Final = "control"
ARMS: Final = (CONTROL, TREATED)
# Cells of the slide to which the annotator is fitted, and among which source cells are selected.
MAX_TYPED_CELLS: Final = 50_000


@dataclass(frozen=True)
class Trajectory:
    """One simulated run: one arm of one replicate."""

    arm: str  # `treated` (with injected cells) or `control` (without)
    replicate: int  # number of the replicate, from 0
    # (steps + 1, N) type of every resident before the first step and after each step, as positions in the annotator's
    # names
    codes: NDArray[np.int16]
    final: TissueState  # state after the last step


@dataclass(frozen=True)
class Experiment:
    """Tissue, source cells, annotator and update rule: the same in all arms and replicates."""

    tissue: TissueState  # the residents before the first step
    window: Window  # their rows and their extent on the slide
    source: SourceCells  # cells of which copies are injected
    annotator: MarkerAnnotator  # assigns cell types before, during and after the simulation
    dynamics: Dynamics  # the update rule
    num_injected: int  # number of injected cells

    def run(self, replicates: int, advance: Callable[[], None] = lambda: None) -> list[Trajectory]:
        """Simulate both arms of every replicate.

        Args:
            replicates: Number of replicates. Each has positions, source cells and a schedule of its own, which both of
                its arms share.
            advance: Called after every step.

        Returns:
            The control and the treated trajectory of every replicate, in this order.
        """
        return [self._simulate(arm, replicate, advance) for replicate in range(replicates) for arm in ARMS]

    def _simulate(self, arm: str, replicate: int, advance: Callable[[], None]) -> Trajectory:
        # Both arms of a replicate use the same schedule and random numbers; see `Dynamics.run`.
        tissue = self.inject(replicate) if arm == TREATED else self.tissue
        codes = [self.annotate(tissue)]
        for state in self.dynamics.run(tissue, replicate):
            tissue = state
            codes.append(self.annotate(tissue))
            advance()
        return Trajectory(arm, replicate, np.array(codes, dtype=np.int16), tissue)

    def inject(self, replicate: int) -> TissueState:
        """The initial state of the treated arm of a replicate: residents, then injected cells."""
        slide = self.tissue.slide
        generator = numpy_generator(self.dynamics.schedule.seed, "injection", replicate)
        cells = draw_injected_cells(self.source, slide.xy_um, self.num_injected, slide.radius_um, generator)
        return inject(self.tissue, cells)

    def annotate(self, tissue: TissueState) -> NDArray[np.int64]:
        """(N,) types of the residents, as positions in the annotator's names."""
        residents = np.arange(tissue.num_residents)
        # Injected cells are not counted: the composition is that of the residents in both arms.
        expression = tissue.slide.expression(residents, TYPING_SUM)
        return self.annotator.annotate(expression, tissue.slide.symbols).codes


def prepare_experiment(model: LoadedModel, slide: Slide, config: SimulateConfig, window: Window) -> Experiment:
    """Fit the annotator, select source cells, cut out the window and fit the update rule.

    Args:
        model: The model.
        slide: The slide, at the model's radius.
        config: The settings.
        window: Cells that are simulated.

    Returns:
        The experiment.

    Raises:
        CifmError: The marker table cannot be read, or there is no such cell type or no cell of it.
    """
    markers = load_markers(config.markers)
    panel = model.panel(slide)
    rows = np.arange(slide.num_cells)
    if len(rows) > MAX_TYPED_CELLS:
        rows = np.sort(numpy_generator(config.seed, "typer").choice(rows, MAX_TYPED_CELLS, replace=False))
    # Simulated cells have only the genes that the model knows; all cells must be typed by the same genes.
    symbols = [slide.symbols[column] for column in panel.columns]
    expression = slide.expression(rows, TYPING_SUM)[:, panel.columns]
    annotator = fit_marker_annotator(expression, symbols, markers, tissue=slide_tissue(slide))
    # Labelled cells of another data set have types already; cells of the slide get theirs from the annotator.
    injection = config.injection
    if injection.reference:
        source = source_cells_of_reference(slide, injection.reference, injection.cell_type, config.seed)
    else:
        cell_type = find_type(injection.cell_type, annotator.names[:-1], annotator.left_out)
        source = source_cells_of_slide(slide, rows, annotator.annotate(expression, symbols), cell_type)
    source = replace(source, counts=source.counts[:, panel.columns])
    tissue = crop_tissue(slide, window.rows, panel)
    # Fitted before the injection, so that both arms have the same rule.
    dynamics = fit_dynamics(model, tissue, config.schedule)
    return Experiment(tissue, window, source, annotator, dynamics, config.num_injected(len(window.rows)))
