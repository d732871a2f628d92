"""Small panels side by side, one per measure: the same rows in all of them, each on an axis of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cifm_cli.report import canvas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS: Final = 3
_WIDTH_IN: Final = 8.4
_ROW_IN: Final = 0.21
_AROUND_IN: Final = 0.72  # title and axis of a panel


@dataclass(frozen=True)
class Panel:
    """One measure."""

    title: str
    values: Sequence[float]  # one per row
    intervals: Sequence[tuple[float, float]]  # low and high end, one per row
    remark: str = ""  # second line of the title
    is_marked: bool = False  # whether the remark is emphasised


def draw_panels(names: Sequence[str], panels: Sequence[Panel], title: str, colours: Mapping[str, str]) -> bytes:
    """Draw a dot with its interval for each row of each panel, the first row on top.

    Args:
        names: Names of the rows.
        panels: The panels, row by row.
        title: Title of the figure.
        colours: Hexadecimal colour by name of a row; others are grey.

    Returns:
        The image.
    """
    num_rows = math.ceil(len(panels) / _COLUMNS)

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(num_rows, _COLUMNS, number + 1)
            _draw_panel(axes, panel, [canvas.on_ground(colours.get(name, "#7d868f")) for name in names])
            axes.set_yticks(range(len(names)), names if number % _COLUMNS == 0 else [""] * len(names), fontsize=8)

    return canvas.render(draw, _WIDTH_IN, 0.4 + num_rows * (_AROUND_IN + _ROW_IN * len(names)))


def _draw_panel(axes: Axes, panel: Panel, colours: Sequence[str]) -> None:
    rows = zip(panel.values, panel.intervals, colours, strict=True)
    for position, (value, interval, colour) in enumerate(rows):
        axes.plot(interval, [position, position], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot([value], [position], "o", markersize=6 if position == 0 else 4.5, color=colour)
    # The other rows are compared with the first one along this line.
    axes.axvline(panel.values[0], color=colours[0], linewidth=0.8, alpha=0.5, zorder=0)
    axes.set_ylim(len(colours) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x")
    axes.margins(x=0.08)
    axes.set_title(panel.title, fontsize=8.5, pad=15)
    colour, weight = (colours[0], "bold") if panel.is_marked else (canvas.theme().quiet, "normal")
    axes.text(0, 1.03, panel.remark, transform=axes.transAxes, fontsize=7.5, color=colour, weight=weight)
