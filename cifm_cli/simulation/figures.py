"""The figures of a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.report import html, plots
from cifm_cli.simulation import summary
from cifm_cli.simulation.experiment import ARMS, CONTROL, TREATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.simulation.experiment import Trajectory
    from cifm_cli.simulation.simulate import SimulationResult

_MAX_TYPES: Final = 12  # types in the curves and in the transition matrices
_INJECTED: Final = "injected"


def draw_figures(result: SimulationResult, common: Sequence[str]) -> dict[str, html.Image]:
    """Draw tissue maps of the first replicate, curves of the composition, and transition matrices.

    Args:
        result: The simulation.
        common: Names of the types, in descending order of their frequency.

    Returns:
        Images by file name without suffix. Cells of the type `unassigned` are grey.
    """
    names = np.array(result.type_names, dtype=object)
    selected = [list(names).index(name) for name in common[:_MAX_TYPES]]
    transitions = {
        arm: summary.mean_transitions(result.trajectories, arm, len(names))[np.ix_(selected, selected)] for arm in ARMS
    }
    labels = [str(names[i]) for i in selected]
    # `unassigned` is left out of the order, and so drawn in grey.
    order = [_INJECTED, *(name for name in common if name != UNASSIGNED)]
    figures = _draw_maps(result, names, order) | {
        "composition": (
            _draw_composition(result.trajectories, names, selected),
            "Treated minus control at every step.",
        ),
        "transitions": (
            plots.heat_map(
                transitions[TREATED], labels, labels, "From (rows) to (columns), treated", label="fraction of cells"
            ),
            "Types after the last step by type before the first step, treated.",
        ),
        "transitions_difference": (
            plots.heat_map(
                transitions[TREATED] - transitions[CONTROL],
                labels,
                labels,
                "Transitions, treated minus control",
                centred=True,
            ),
            "The effect of the edits on the transitions.",
        ),
    }
    return {name: html.Image(content, caption) for name, (content, caption) in figures.items()}


def _draw_maps(
    result: SimulationResult, names: np.ndarray[Any, Any], order: Sequence[str]
) -> dict[str, tuple[bytes, str]]:
    """Maps of the first replicate before the first step and after the last step, with captions."""
    # Trajectories are in the order of the replicates, control and treated in turn.
    first = {trajectory.arm: trajectory for trajectory in result.trajectories[:2]}
    tissue = first[TREATED].final
    injected = np.full(tissue.slide.num_cells - tissue.num_residents, _INJECTED, dtype=object)

    def draw_map(arm: str, step: int, title: str) -> bytes:
        """Draw the types of an arm after one step as PNG."""
        types, xy_um = names[first[arm].codes[step]], tissue.slide.xy_um
        if arm == TREATED and len(injected):
            return plots.tissue_map(xy_um, np.concatenate([types, injected]), title, order=order)
        return plots.tissue_map(xy_um[: tissue.num_residents], types, title, order=order)

    return {
        "map_before": (
            draw_map(TREATED, 0, "Before the first step"),
            "Cell types before the first step, with the edits.",
        ),
        "map_treated": (
            draw_map(TREATED, -1, "After the last step, with the edits"),
            "Cell types after the last step, treated.",
        ),
        "map_control": (
            draw_map(CONTROL, -1, "After the last step, without the edits"),
            "Cell types after the last step, control.",
        ),
    }


def _draw_composition(
    trajectories: Sequence[Trajectory], names: np.ndarray[Any, Any], selected: Sequence[int]
) -> bytes:
    """Curves of treated minus control over the steps, with the range over replicates."""
    fractions = {
        arm: np.array(
            [
                summary.count_types(trajectory, len(names)) / trajectory.compared_codes.shape[1]
                for trajectory in trajectories
                if trajectory.arm == arm
            ]
        )
        for arm in ARMS
    }
    points = 100 * (fractions[TREATED] - fractions[CONTROL])[:, :, selected]
    several = len(points) > 1
    labels = [str(names[i]) for i in selected]
    series = {name: points[:, :, i].mean(axis=0).tolist() for i, name in enumerate(labels)}
    bands = {
        name: (points[:, :, i].min(axis=0).tolist(), points[:, :, i].max(axis=0).tolist())
        for i, name in enumerate(labels)
    }
    title = "Composition of the residents, treated minus control" + ("; range over replicates" if several else "")
    steps = list(range(points.shape[1]))
    return plots.curves(
        steps, series, title, x_label="step", y_label="percentage points", bands=bands if several else None
    )
