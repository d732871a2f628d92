"""The experiment: one tissue on one schedule, simulated with and without its edits, in several replicates.

Letters: N residents, T cell types and `unassigned`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.celltype.base import TYPING_SUM
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.dynamics import Dynamics, fit_dynamics
from cifm_cli.simulation.edits.apply import Addition, EditedTissue, apply_edits
from cifm_cli.simulation.prepared_tissue import PreparedTissue, prepare_tissue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.celltype.marker_annotator import MarkerAnnotator
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.edits.labels import CellLabels
    from cifm_cli.simulation.edits.resolve import ResolvedEdit
    from cifm_cli.simulation.tissue import TissueState
    from cifm_cli.simulation.window import Window

TREATED: Final = "treated"
CONTROL: Final = "control"
ARMS: Final = (CONTROL, TREATED)


@dataclass(frozen=True)
class Trajectory:
    """One simulated run: one arm of one replicate."""

    arm: str  # `treated` (with the edits) or `control` (without)
    replicate: int  # number of the replicate, from 0
    # (steps + 1, N) type of every resident before the first step and after each step, as positions in the annotator's
    # names
    codes: NDArray[np.int16]
    final: TissueState  # state after the last step
    # (n,) ascending rows of the residents that no edit changed, whose composition is compared; None for all
    compared: Rows | None = None
    # (K,) labels of the added cells
    added_labels: NDArray[np.object_] = field(default_factory=lambda: np.empty(0, dtype=object))

    @property
    def compared_codes(self) -> NDArray[np.int16]:
        """(steps + 1, n) types of the residents whose composition is compared."""
        return self.codes if self.compared is None else self.codes[:, self.compared]


@dataclass(frozen=True)
class Experiment:
    """Tissue, edits, annotator and update rule: the same in all arms and replicates."""

    tissue: TissueState  # the residents before any edit
    window: Window  # their rows and their extent on the slide
    edits: Sequence[ResolvedEdit]  # what the treated arm changes; may be empty
    annotator: MarkerAnnotator  # assigns cell types before, during and after the simulation
    labels: CellLabels  # of the residents, by which edits name them
    dynamics: Dynamics  # the update rule
    seed: int  # seed of all random draws

    @property
    def donors(self) -> list[str]:
        """Donors of injected cells, in the order in which the replicates take them."""
        sources = [entry.edit.source for entry in self.edits if isinstance(entry.edit, Addition)]
        names = sorted({name for source in sources if source.donors is not None for name in source.donors})
        order: list[str] = numpy_generator(self.seed, "donors").permutation(np.array(names, dtype=object)).tolist()
        return order

    def run(self, replicates: int, advance: Callable[[], None] = lambda: None) -> list[Trajectory]:
        """Simulate both arms of every replicate.

        Args:
            replicates: Number of replicates. Each has places, copied cells and a schedule of its own, which both of its
                arms share.
            advance: Called after every step.

        Returns:
            The control and the treated trajectory of every replicate, in this order.

        Raises:
            CifmError: There are too few places for the injected cells.
        """
        trajectories = []
        for replicate in range(replicates):
            edited = self.edit(replicate, replicates)
            trajectories += [self._simulate(arm, replicate, edited, advance) for arm in ARMS]
        return trajectories

    def _simulate(self, arm: str, replicate: int, edited: EditedTissue, advance: Callable[[], None]) -> Trajectory:
        # Both arms of a replicate use the same schedule and random numbers; see `Dynamics.run`.
        tissue = edited.tissue if arm == TREATED else self.tissue
        codes = [self.annotate(tissue)]
        for state in self.dynamics.run(tissue, replicate, edited.edited):
            # Most steps of a coupled control change nothing, and typing takes as long as a prediction.
            codes.append(codes[-1] if state is tissue else self.annotate(state))
            tissue = state
            advance()
        compared = np.setdiff1d(np.arange(tissue.num_residents), edited.edited) if len(edited.edited) else None
        added_labels = edited.added_labels if arm == TREATED else edited.added_labels[:0]
        return Trajectory(arm, replicate, np.array(codes, dtype=np.int16), tissue, compared, added_labels)

    def edit(self, replicate: int, num_replicates: int = 1) -> EditedTissue:
        """The initial state of the treated arm of a replicate.

        Args:
            replicate: Number of the replicate, from 0.
            num_replicates: Number of replicates; several take injected cells of one donor each, if donors are known.

        Returns:
            Residents, then added cells.

        Raises:
            CifmError: There are too few places for the injected cells.
        """
        donors = self.donors
        edits = [entry.of_replicate(replicate, num_replicates, donors) for entry in self.edits]
        return apply_edits(self.tissue, edits, numpy_generator(self.seed, "injection", replicate))

    def annotate(self, tissue: TissueState) -> NDArray[np.int64]:
        """(N,) types of the residents, as positions in the annotator's names."""
        residents = np.arange(tissue.num_residents)
        # Injected cells are not counted: the composition is that of the residents in both arms.
        expression = tissue.slide.expression(residents, TYPING_SUM)
        return self.annotator.annotate(expression, tissue.slide.symbols).codes


def prepare_experiment(model: LoadedModel, slide: Slide, config: SimulateConfig, window: Window) -> Experiment:
    """Fit the annotator, cut out the window, look up the edits and fit the update rule.

    Args:
        model: The model.
        slide: The slide, at the model's radius.
        config: The settings.
        window: Cells that are simulated.

    Returns:
        The experiment.

    Raises:
        CifmError: The marker table cannot be read, or an edit cannot be made; see `resolve_edits`.
    """
    return fit_experiment(model, prepare_tissue(slide, model.panel(slide).columns, config, window), config)


def fit_experiment(model: LoadedModel, prepared: PreparedTissue, config: SimulateConfig) -> Experiment:
    """Fit the update rule to the tissue before any edit, so that both arms have the same rule.

    Args:
        model: The model, which knows the genes of the tissue.
        prepared: The tissue and its edits.
        config: The settings.

    Returns:
        The experiment.
    """
    dynamics = fit_dynamics(model, prepared.tissue, config.schedule, config.dynamics_name)
    return Experiment(
        prepared.tissue,
        prepared.window,
        prepared.edits,
        prepared.annotator,
        prepared.labels,
        dynamics,
        config.seed,
    )
