"""Settings of a simulation: edits, updates of the cells, and the simulated window of the slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np

from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.simulation.edits.labels import ColumnLabels
    from cifm_cli.simulation.edits.requests import EditRequest
    from cifm_cli.simulation.window import Box

Form = Literal["state", "sample", "mean", "gated"]
"""How the prediction of a cell is turned into counts; see `UpdateSchedule`."""

DynamicsName = Literal["coupled", "redraw"]
"""How the new state of an updated cell depends on its present one; see `dynamics`."""

DEFAULT_SWEEPS: Final = 2  # updates of every cell, unless the number of steps is given


@dataclass(frozen=True)
class UpdateSchedule:
    """Which cells are updated in which step, and how.

    A sweep is a run of consecutive steps that update every resident exactly once.
    """

    requested_steps: int | None  # number of steps; two sweeps by default
    update_fraction: float  # fraction of the residents that one step updates
    # How an updated cell gets its counts. `state`: from a real cell of a state that is drawn from the predicted
    # probabilities (see `StateSampler`); `sample`: integer counts, drawn gene by gene; `mean`: the prediction itself;
    # `gated`: the prediction, zero for genes with a low P(expressed).
    form: Form
    seed: int  # seed of all random draws

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.requested_steps or DEFAULT_SWEEPS * self.steps_per_sweep

    @property
    def steps_per_sweep(self) -> int:
        """Number of steps after which every resident has been updated once."""
        return max(1, round(1 / self.update_fraction))

    def cells_to_update(self, num_residents: int, replicate: int, step: int) -> Rows:
        """Choose the residents that a step updates. The order is drawn anew for every sweep.

        Args:
            num_residents: Number of residents.
            replicate: Number of the replicate, from 0.
            step: Number of the step, from 0.

        Returns:
            Ascending rows.
        """
        sweep, position = divmod(step, self.steps_per_sweep)
        # One permutation per sweep, cut into steps, updates every resident exactly once.
        order = numpy_generator(self.seed, "sweep", replicate, sweep).permutation(num_residents)
        return np.sort(np.array_split(order, self.steps_per_sweep)[position])


@dataclass(frozen=True)
class SimulateConfig:
    """All settings of a simulation."""

    edits: tuple[EditRequest, ...]  # what is changed in the treated arm
    steps: int | None = None  # number of steps; two updates of every cell by default
    update_fraction: float = 0.1  # fraction of the residents that one step updates
    form: Form = "state"  # how an updated cell gets its counts; see `UpdateSchedule`
    replicates: int = 1  # number of repetitions, each with other positions, other source cells and another schedule
    crop_um: Box | None = None  # only cells in this rectangle are simulated: x0, y0, x1, y1 in micrometres
    max_cells: int = 10_000  # largest number of residents; see `window.choose_window`
    markers: Path | None = None  # table of marker genes that extends the packaged one
    adapt: Adapt = "none"  # `slide`: the model is adapted to the slide before the edits; `none`: used as trained
    seed: int = 0  # seed of all random draws
    # How an updated cell depends on its present state; by default `coupled` for the form `state`, else `redraw`
    dynamics: DynamicsName | None = None
    labels: ColumnLabels | None = None  # labels of all cells of the slide, by which edits name them; None for types

    def __post_init__(self) -> None:
        """Refuse dynamics that do not exist, and a form that cannot be coupled.

        Raises:
            CifmError: As described.
        """
        if self.dynamics not in (None, *get_args(DynamicsName)):
            raise CifmError(f"dynamics: {self.dynamics}", f"known are {', '.join(get_args(DynamicsName))}")
        if self.dynamics == "coupled" and self.form != "state":
            raise CifmError(
                f"dynamics coupled with form {self.form}: only cell states can be coupled",
                "leave out one of them, or choose the dynamics redraw",
            )

    @property
    def dynamics_name(self) -> DynamicsName:
        """The dynamics, chosen by the form unless they are given."""
        return self.dynamics or ("coupled" if self.form == "state" else "redraw")

    @property
    def schedule(self) -> UpdateSchedule:
        """The schedule of the updates."""
        return UpdateSchedule(self.steps, self.update_fraction, self.form, self.seed)
