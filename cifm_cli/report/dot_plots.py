"""Estimates with their intervals: rows of dots, and small panels over distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report import canvas
from cifm_cli.report.palette import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Interval = tuple[float, float]

_WIDTH_IN: Final = 7.2
_ROW_IN: Final = 0.27
_PANEL_IN: Final = 1.75
_PANELS_PER_ROW: Final = 4
_FAR: Final = 1e3  # outside of every panel
_MARKERS: Final = ("o", "D", "s", "^", "v", "P", "X")  # of the series, one after the other


@dataclass(frozen=True)
class Dots:
    """One series of `draw_rows`: a value per row."""

    name: str  # entry of the legend
    values: Sequence[float]  # NaN for a row without a value
    intervals: Sequence[Interval | None] = ()  # low and high end; none by default
    points: Sequence[Sequence[float]] = ()  # single measurements of each row, drawn small; none by default
    is_open: bool = False  # whether dots are drawn as outlines


def draw_rows(
    labels: Sequence[str],
    series: Sequence[Dots],
    title: str,
    *,
    x_label: str,
    colours: Sequence[str] | None = None,
    squares: Sequence[Sequence[str]] = (),
) -> bytes:
    """Draw one row per label and in it one dot per series, with a line at zero.

    Args:
        labels: Names of the rows, the first on top.
        series: Dots; the first is drawn over the others.
        title: Title of the figure.
        x_label: Label of the axis.
        colours: Colours of the series; those of the palette by default.
        squares: For each row, colours of the squares before its name, such as those of a cell type.

    Returns:
        PNG.
    """
    own = colours or [COLOURS[i % len(COLOURS)] for i in range(len(series))]

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        axes = figure.add_subplot()
        axes.axvline(0, color=canvas.theme().quiet, linewidth=1, zorder=1)
        for number, (dots, colour) in enumerate(zip(series, own, strict=True)):
            marker = _MARKERS[number % len(_MARKERS)]
            _draw_series(axes, dots, colour, marker, zorder=10.0 - number)
        for position, tones in enumerate(squares):
            for i, tone in enumerate(reversed(list(tones))):
                axes.plot(
                    [-0.014 - 0.018 * i], [position], marker="s", color=canvas.on_ground(tone), markersize=6, clip_on=False,
                    transform=axes.get_yaxis_transform(),
                )  # fmt: skip
        axes.set_yticks(range(len(labels)), labels)
        widest = max((len(list(tones)) for tones in squares), default=0)
        axes.tick_params(axis="y", length=0, pad=4 + 8 * widest)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.set_xlabel(x_label)
        axes.set_title(title)
        if len(series) > 1:
            figure.legend(loc="outside right center", fontsize=canvas.NOTE_PT)

    return canvas.render(draw, _WIDTH_IN, 1.1 + _ROW_IN * len(labels))


def _draw_series(axes: Axes, dots: Dots, colour: str, marker: str, zorder: float) -> None:
    for row, points in enumerate(dots.points):
        axes.plot(
            points,
            [row] * len(points),
            linestyle="",
            marker="o",
            color=colour,
            markersize=2.5,
            alpha=0.45,
            zorder=zorder,
        )
    for row, interval in enumerate(dots.intervals):
        if interval is not None:
            axes.plot(interval, [row, row], color=colour, linewidth=1.4, solid_capstyle="butt", zorder=zorder)
    axes.plot(
        dots.values, range(len(dots.values)), linestyle="", marker=marker, color=colour, markersize=6.5,
        markerfacecolor=canvas.theme().paper if dots.is_open else colour, label=dots.name, zorder=zorder + 0.5,
    )  # fmt: skip


@dataclass(frozen=True)
class DistancePoint:
    """One estimate of a panel of `draw_by_distance`."""

    low_um: float  # the distance band
    high_um: float
    value: float
    interval: Interval
    is_called: bool  # whether the dot is filled
    reference: float | None = None  # value without adjustment, drawn as a dotted line
    chance: float | None = None  # size that chance explains; from its negative to it, the panel is shaded


@dataclass(frozen=True)
class DistancePanel:
    """One panel of `draw_by_distance`."""

    title: str
    points: Sequence[DistancePoint]


def draw_by_distance(
    panels: Sequence[DistancePanel], title: str, *, y_label: str, names: tuple[str, str, str, str]
) -> bytes:
    """Draw estimates and their intervals over distance, one small panel each, on common axes.

    Args:
        panels: The panels, row by row.
        title: Title of the figure.
        y_label: Label of the y axes.
        names: Entries of the legend for filled dots, open dots, dotted lines and shading; the latter if there is any.

    Returns:
        PNG.
    """
    num_rows = max(1, math.ceil(len(panels) / _PANELS_PER_ROW))
    low, high = _limits(panels)
    farthest_um = max((point.high_um for panel in panels for point in panel.points), default=1.0)

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        figure.suptitle(title, x=0.01, ha="left", fontsize=canvas.TITLE_PT)
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(num_rows, _PANELS_PER_ROW, number + 1)
            _draw_panel(axes, panel)
            axes.set_ylim(low, high)
            axes.set_xlim(-0.03 * farthest_um, 1.03 * farthest_um)
            if number % _PANELS_PER_ROW:
                axes.set_yticklabels([])
            else:
                axes.set_ylabel(y_label, fontsize=canvas.NOTE_PT)
            if number + _PANELS_PER_ROW >= len(panels):
                axes.set_xlabel("distance (µm)", fontsize=canvas.NOTE_PT)
        dot: dict[str, Any] = {"linestyle": "", "marker": "o", "color": COLOURS[0], "markersize": 5}
        first = figure.axes[0]
        handles: list[Artist] = [
            first.plot([], [], **dot)[0],
            first.plot([], [], markerfacecolor=canvas.theme().paper, **dot)[0],
            first.plot([], [], linestyle=":", color=canvas.theme().quiet)[0],
        ]
        if any(point.chance is not None for panel in panels for point in panel.points):
            handles.append(first.fill_between([], [], color=canvas.theme().shade, linewidth=0))
        figure.legend(handles, names[: len(handles)], loc="outside lower left", ncols=4, fontsize=canvas.NOTE_PT)

    return canvas.render(draw, _WIDTH_IN, 0.9 + _PANEL_IN * num_rows)


def _draw_panel(axes: Axes, panel: DistancePanel) -> None:
    axes.axhline(0, color=canvas.theme().quiet, linewidth=0.8)
    for point in panel.points:
        if point.chance is not None:
            ends_um = [point.low_um, point.high_um]
            axes.fill_between(ends_um, -point.chance, point.chance, color=canvas.theme().shade, linewidth=0, zorder=0)
        middle = (point.low_um + point.high_um) / 2
        axes.plot([point.low_um, point.high_um], [point.value] * 2, color=COLOURS[0], linewidth=1, alpha=0.5)
        # Where nothing is known, intervals are infinite.
        ends = np.clip(point.interval, -_FAR, _FAR)
        axes.plot([middle, middle], ends, color=COLOURS[0], linewidth=1.4)
        fill = COLOURS[0] if point.is_called else canvas.theme().paper
        axes.plot([middle], [point.value], marker="o", color=COLOURS[0], markerfacecolor=fill, markersize=5)
        if point.reference is not None:
            axes.plot(
                [point.low_um, point.high_um],
                [point.reference] * 2,
                color=canvas.theme().quiet,
                linewidth=1.2,
                linestyle=":",
            )
    axes.set_title(panel.title, fontsize=canvas.NOTE_PT)
    axes.tick_params(labelsize=canvas.SMALL_PT)
    axes.grid(axis="y")


def _limits(panels: Sequence[DistancePanel]) -> Interval:
    """Ends of the y axes: all dots, and of the intervals as much as one and a half times their range."""
    points = [point for panel in panels for point in panel.points]
    values = [value for point in points for value in (point.value, point.reference or 0.0)] or [0.0]
    ends = [end for point in points for end in point.interval if math.isfinite(end)] or [0.0]
    span = max(max(values) - min(0.0, *values), 0.5)
    low = max(min(0.0, *values) - span, min(0.0, *ends, *values))
    high = min(max(0.0, *values) + span, max(0.0, *ends, *values))
    return low - 0.05 * span, high + 0.05 * span
