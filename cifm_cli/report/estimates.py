"""Figures of estimates: dots with their intervals, and the calibration of probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.report import canvas
from cifm_cli.report.palette import COLOURS, assign_colours

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from cifm_cli.report.canvas import ImageFormat

_WIDTH_IN = 6.5
_MARKERS = "osD^vPX"  # of the lines, one after the other
_RIGHT = 1.02  # of the numbers, as a fraction of the width of the axes


@dataclass(frozen=True)
class Estimate:
    """One row of `draw_estimates`."""

    name: str  # name of the row
    value: float  # NaN for a row without a value
    interval: tuple[float, float] | None = None  # low and high end
    points: Sequence[float] = ()  # the same number of single parts, such as slides
    colour: str = COLOURS[0]  # hexadecimal colour


def draw_estimates(
    rows: Sequence[Estimate],
    title: str,
    *,
    label: str = "",
    reference: float | None = None,
    image_format: ImageFormat = "png",
) -> bytes:
    """Draw a dot with its interval per row, the first on top, and a small circle for each part.

    Args:
        rows: The rows.
        title: Title of the figure.
        label: Label of the axis.
        reference: A value that is marked by a line, such as the value of a random guess.
        image_format: `png` or `svg`.

    Returns:
        The image.
    """

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        axes = figure.add_subplot(title=title)
        if reference is not None:
            axes.axvline(reference, color=canvas.theme().quiet, linewidth=1, linestyle="--")
        for position, row in enumerate(rows):
            below = [position + 0.25] * len(row.points)
            axes.plot(
                row.points, below, "o", markersize=4, markerfacecolor="none", markeredgecolor=canvas.theme().quiet
            )
            if row.interval is not None:
                axes.plot(row.interval, [position, position], color=row.colour, linewidth=2)
            axes.plot([row.value], [position], "o", markersize=7, color=row.colour)
            text = "-" if math.isnan(row.value) else f"{row.value:.3f}"
            axes.annotate(
                text, (_RIGHT, position), xycoords=axes.get_yaxis_transform(), va="center", fontsize=canvas.NOTE_PT
            )
        axes.set_yticks(np.arange(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.grid(axis="x")

    return canvas.render(draw, _WIDTH_IN, 1.0 + 0.36 * len(rows), image_format)


def draw_calibration(
    lines: Mapping[str, Sequence[tuple[float, float]]], title: str, *, image_format: ImageFormat = "png"
) -> bytes:
    """Draw observed frequencies over predicted probabilities, with the diagonal of calibrated probabilities.

    Args:
        lines: (predicted, observed) of each bin, by the name of the predictor.
        title: Title of the figure.
        image_format: `png` or `svg`.

    Returns:
        The image.
    """
    palette = assign_colours(list(lines))

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        axes = figure.add_subplot(title=title)
        axes.plot([0, 1], [0, 1], color=canvas.theme().quiet, linewidth=1, linestyle="--")
        for number, (name, bins) in enumerate(lines.items()):
            predicted, observed = [each[0] for each in bins], [each[1] for each in bins]
            marker = _MARKERS[number % len(_MARKERS)]
            colour = canvas.on_ground(palette[name])
            axes.plot(predicted, observed, color=colour, linewidth=1.4, marker=marker, markersize=4, label=name)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")
        axes.set_xlabel("predicted probability (mean of a bin)")
        axes.set_ylabel("observed frequency")
        axes.grid(visible=True)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=canvas.NOTE_PT)

    return canvas.render(draw, _WIDTH_IN, 3.8, image_format)
