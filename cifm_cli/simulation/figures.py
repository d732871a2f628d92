"""The figures of a simulation: effects by distance, maps, animation, composition and transitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.report import canvas, html, matrix_plots, plots
from cifm_cli.report.dot_plots import Dots, draw_rows
from cifm_cli.report.palette import COLOURS, OTHERS, UNKNOWN, colour_categories
from cifm_cli.response.effect_figure import draw_effects
from cifm_cli.simulation import summary
from cifm_cli.simulation.experiment import ARMS, CONTROL, TREATED
from cifm_cli.simulation.maps import draw_animation, draw_maps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cifm_cli.simulation.simulate import SimulationResult

_MAX_TYPES: Final = 12  # types with a colour of their own, in the curves and in the matrix
_MAX_TRANSITIONS: Final = 15


def draw_figures(result: SimulationResult) -> dict[str, html.Image]:
    """Draw all figures. A type has the same colour in all of them.

    Args:
        result: The simulation.

    Returns:
        Images by file name without suffix; those without content, such as effects where nothing can be estimated, are
        left out.
    """
    colours = type_colours(result)
    light = _draw_pictures(result, colours)
    with canvas.dark_theme():
        dark = _draw_pictures(result, colours)
    return {name: html.Image(content, caption, dark[name][0]) for name, (content, caption) in light.items()}


def _draw_pictures(result: SimulationResult, colours: Mapping[str, str]) -> dict[str, tuple[bytes, str]]:
    """Images and captions of all figures, by file name without suffix."""
    change = summary.composition_change(result.trajectories, result.type_names)
    figures = draw_effects(result.response) | draw_maps(result, colours)
    # Types that only edited and injected cells have are not compared.
    compared = {name: colour for name, colour in colours.items() if name in change}
    figures |= {"change": _draw_change(change, colours), "composition": _draw_curves(result, compared)}
    return figures | _draw_transitions(result, compared) | {"animation": draw_animation(result, colours)}


def type_colours(result: SimulationResult) -> dict[str, str]:
    """Colours of the types that are most frequent before or after, edited cells included, and of injected ones.

    Args:
        result: The simulation.

    Returns:
        Name to hexadecimal colour, in descending order of the initial frequency; without `unassigned`.
    """
    control, treated = result.trajectories[:2]
    states = (control.codes[0], control.codes[-1], treated.codes[-1])
    counts = np.array([np.bincount(codes, minlength=len(result.type_names)) for codes in states])
    injected = np.isin(result.type_names, treated.added_labels.astype(str))
    chosen = np.lexsort((-counts.max(axis=0), ~injected)).tolist()
    kept = [i for i in chosen if (counts[:, i].any() or injected[i]) and result.type_names[i] != UNASSIGNED][
        :_MAX_TYPES
    ]
    return colour_categories([result.type_names[i] for i in sorted(kept, key=lambda i: (-int(counts[0, i]), i))])


def _draw_change(change: Mapping[str, Mapping[str, Any]], colours: Mapping[str, str]) -> tuple[bytes, str]:
    """The change of composition with intervals over replicates."""
    names = [name for name in change if name in colours or name == UNASSIGNED]
    own = [change[name] for name in names]
    several = own[0]["low"] is not None if own else False
    dots = Dots(
        "treated minus control",
        [100 * each["difference"] for each in own],
        [(100 * each["low"], 100 * each["high"]) for each in own] if several else (),
        [[100 * value for value in each["replicates"]] for each in own] if several else (),
    )
    image = draw_rows(
        names,
        [dots],
        "Composition after the last step, with the edits minus without",
        x_label="percentage points",
        squares=[[colours.get(name, UNKNOWN)] for name in names],
    )
    if several:
        return image, "Mean over the replicates (small dots) and its 95 % interval. Edited cells are not counted."
    return image, "One replicate, so without intervals (see --replicates). Edited cells are not counted."


def _draw_curves(result: SimulationResult, colours: Mapping[str, str]) -> tuple[bytes, str]:
    """Curves of treated minus control over the steps, with the range over replicates."""
    num_types = len(result.type_names)
    fractions = {
        arm: np.array(
            [
                summary.count_types(trajectory, num_types) / trajectory.compared_codes.shape[1]
                for trajectory in result.trajectories
                if trajectory.arm == arm
            ]
        )
        for arm in ARMS
    }
    points = 100 * (fractions[TREATED] - fractions[CONTROL])
    position = {name: result.type_names.index(name) for name in colours}
    series = {name: points[:, :, i].mean(axis=0).tolist() for name, i in position.items()}
    bands = {
        name: (points[:, :, i].min(axis=0).tolist(), points[:, :, i].max(axis=0).tolist())
        for name, i in position.items()
    }
    several = len(points) > 1
    image = plots.curves(
        list(range(points.shape[1])),
        series,
        "Composition step by step, with the edits minus without",
        x_label="step",
        y_label="percentage points",
        bands=bands if several else None,
        colours=colours,
    )
    return image, "Mean over the replicates; shaded: their range." if several else "One replicate."


def _draw_transitions(result: SimulationResult, colours: Mapping[str, str]) -> dict[str, tuple[bytes, str]]:
    """The transitions that the edits change most, if they change any, and a matrix of the difference of all."""
    counts = {
        arm: np.array(
            [summary.count_transitions(own, len(result.type_names)) for own in result.trajectories if own.arm == arm],
            dtype=np.float64,
        )
        for arm in ARMS
    }
    pairs = _largest_transitions(counts)
    largest = {"transitions": _draw_largest(result.type_names, counts, pairs, colours)} if pairs else {}
    return largest | {"transitions_difference": _draw_matrix(result, colours)}


def _draw_largest(
    names: Sequence[str],
    counts: Mapping[str, NDArray[np.float64]],
    pairs: Sequence[tuple[int, int]],
    colours: Mapping[str, str],
) -> tuple[bytes, str]:
    """Numbers of cells that changed from one type to another, in both arms."""

    def colour(position: int) -> str:
        """Colour of a type."""
        return colours.get(names[position], UNKNOWN if names[position] == UNASSIGNED else OTHERS)

    image = draw_rows(
        [f"{names[i]} → {names[j]}" for i, j in pairs],
        [
            Dots("with the edits", *_per_replicate(counts[TREATED], pairs)),
            Dots("without the edits", *_per_replicate(counts[CONTROL], pairs), is_open=True),
        ],
        "Cells that changed their type over all steps",
        x_label="cells, mean over replicates" if len(counts[TREATED]) > 1 else "cells",
        colours=[COLOURS[0], COLOURS[3]],
        squares=[[colour(i), colour(j)] for i, j in pairs],
    )
    return image, "The changes of type of which the edits change the number most."


def _draw_matrix(result: SimulationResult, colours: Mapping[str, str]) -> tuple[bytes, str]:
    """Difference between the arms in the fraction of each type that became each type."""
    selected = [result.type_names.index(name) for name in colours]
    treated, control = (
        summary.mean_transitions(result.trajectories, arm, len(result.type_names))[np.ix_(selected, selected)]
        for arm in (TREATED, CONTROL)
    )
    image = matrix_plots.heat_map(
        np.round(100 * (treated - control), 2),
        list(colours),
        list(colours),
        "Transitions from (rows) to (columns), with the edits minus without",
        label="% of the cells of the row",
        centred=True,
        colours=colours,
    )
    caption = "Of the cells of a type (row), how many more or fewer end as another type (column) because of the edits."
    return image, caption


def _largest_transitions(counts: Mapping[str, NDArray[np.float64]]) -> list[tuple[int, int]]:
    """Changes of type of which the edits change the number most, the largest first."""
    difference = np.abs((counts[TREATED] - counts[CONTROL]).mean(axis=0))
    np.fill_diagonal(difference, 0.0)
    order = np.argsort(-difference, axis=None, kind="stable")[:_MAX_TRANSITIONS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, difference.shape), strict=True)]
    return [pair for pair in pairs if difference[pair] > 0]


def _per_replicate(
    counts: NDArray[np.float64], pairs: Sequence[tuple[int, int]]
) -> tuple[list[float], tuple[()], list[list[float]]]:
    """Means over the replicates, no intervals, and the single values if there are several."""
    values = [counts[:, i, j].tolist() for i, j in pairs]
    return [float(np.mean(own)) for own in values], (), values if len(counts) > 1 else []
