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

    from cifm_cli.simulation.experiment import Course, Experiment

_SHOWN: Final = 12  # types in the curves and the transition matrices


def draw(experiment: Experiment, courses: Sequence[Course], common: list[str]) -> dict[str, html.Image]:
    """Draw maps, curves and transitions.

    Args:
        experiment: What was run.
        courses: What came of it; the maps show the first replicate.
        common: Names of types, the commonest first.

    Returns:
        Figures by file name; `unassigned` cells are grey.
    """
    names = np.array(experiment.typer.names, dtype=object)
    order = ["injected", *(name for name in common if name != UNASSIGNED)]
    first = {course.arm: course for course in courses[:2]}
    tissue = first[TREATED].final
    donated = np.full(tissue.slide.num_cells - tissue.num_residents, "injected", dtype=object)

    def draw_map(arm: str, step: int, title: str) -> bytes:
        kinds, xy_um = names[first[arm].codes[step]], tissue.slide.xy_um
        if arm == TREATED and len(donated):
            return plots.tissue_map(xy_um, np.concatenate([kinds, donated]), title, order=order)
        return plots.tissue_map(xy_um[: tissue.num_residents], kinds, title, order=order)

    some = [list(names).index(name) for name in common[:_SHOWN]]
    moved = {arm: summary.mean_transitions(courses, arm, len(names))[np.ix_(some, some)] for arm in ARMS}
    labels = [str(names[i]) for i in some]
    images = {
        "map_before": (
            draw_map(TREATED, 0, "Before the first step"),
            "Cell types before, and where cells are injected.",
        ),
        "map_treated": (
            draw_map(TREATED, -1, "After, with injected cells"),
            "Cell types after the last step, treated.",
        ),
        "map_control": (draw_map(CONTROL, -1, "After, without"), "Cell types after the last step, control."),
        "composition": (_draw_composition(courses, names, some), "Treated minus control at every step."),
        "transitions": (
            plots.heat_map(moved[TREATED], labels, labels, "From (rows) to (columns), treated", label="share of cells"),
            "Where the cells of each type went, treated.",
        ),
        "transitions_difference": (
            plots.heat_map(
                moved[TREATED] - moved[CONTROL], labels, labels, "Transitions, treated minus control", centred=True
            ),
            "What the injection changed in the transitions.",
        ),
    }
    return {name: html.Image(content, caption) for name, (content, caption) in images.items()}


def _draw_composition(courses: Sequence[Course], names: np.ndarray[Any, Any], some: list[int]) -> bytes:
    shares = {
        arm: np.array([summary.compositions(c, len(names)) / c.codes.shape[1] for c in courses if c.arm == arm])
        for arm in ARMS
    }
    points = 100 * (shares[TREATED] - shares[CONTROL])[:, :, some]
    labels = [str(names[i]) for i in some]
    series = {name: points[:, :, i].mean(axis=0).tolist() for i, name in enumerate(labels)}
    bands = {
        name: (points[:, :, i].min(axis=0).tolist(), points[:, :, i].max(axis=0).tolist())
        for i, name in enumerate(labels)
    }
    title = "Share of the residents, treated minus control" + ("; range over replicates" if len(points) > 1 else "")
    steps = list(range(points.shape[1]))
    many = len(points) > 1
    return plots.curves(
        steps, series, title, x_label="step", y_label="percentage points", bands=bands if many else None
    )
