"""Figures of embeddings: cells in two dimensions, and the composition of clusters.

Letters: N cells, R rows, C categories.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report import canvas
from cifm_cli.report.palette import OTHERS, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from cifm_cli.report.canvas import ImageFormat

_SQUARE_IN: Final = 5.0  # width and height of the cells
_LEFT_IN, _BOTTOM_IN, _TOP_IN, _RIGHT_IN = 0.35, 0.35, 0.35, 0.1
_ENTRY_IN, _LETTER_IN = 0.45, 0.081  # width of an entry of the legend without text, and of a letter
_ROW_IN: Final = 0.24
_BARS_IN: Final = 4.4
_SEPARATIONS: Final = 200  # rounds in which texts that hide each other are moved apart
_LEGEND_ROWS: Final = 28  # in a column of the legend of a UMAP
_MAX_NUMBERS: Final = 12  # of clusters, from which on they are smaller
_NUMBER_PT: Final = (10.0, 8.5)  # size of few and of many numbers
_MARGIN: Final = 0.05  # of the cells on each side, as a fraction of their extent
_MAX_DRAWN: Final = 200_000  # cells of a figure
_POINTS_PER_INCH: Final = 72


def draw_embedding(
    places: NDArray[np.float32],
    names: NDArray[np.object_],
    entries: Mapping[str, str],
    title: str,
    *,
    numbers: Mapping[str, NDArray[np.float32]] | None = None,
    image_format: ImageFormat = "png",
) -> bytes:
    """Draw cells in two dimensions, such as those of a UMAP.

    Args:
        places: (N, 2) places.
        names: (N,) category of each cell, all of them in `entries`.
        entries: Colour of each category, in the order of the legend.
        title: Title of the figure.
        numbers: Texts that are written at (2,) places, such as the numbers of clusters.
        image_format: `png` or `svg`, in which the cells are pixels.

    Returns:
        The image.
    """
    # In random order, so that no slide hides another; always the same one.
    order = np.random.default_rng(0).permutation(len(places))[:_MAX_DRAWN]
    diameter = float(np.clip(_SQUARE_IN * _POINTS_PER_INCH * 0.55 / np.sqrt(len(order)), 0.7, 6.0))

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        width_in, height_in = _size_in(entries)
        shown = {name: canvas.on_ground(colour) for name, colour in entries.items()}
        figure.set_layout_engine("none")
        box = (_LEFT_IN / width_in, _BOTTOM_IN / height_in, _SQUARE_IN / width_in, _SQUARE_IN / height_in)
        axes = figure.add_axes(box, title=title)
        colours = [shown[name] for name in names[order].tolist()]
        axes.scatter(places[order, 0], places[order, 1], s=diameter**2, c=colours, linewidths=0, rasterized=True)
        low, high = _limits(places[order])
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        size = _NUMBER_PT[len(numbers or {}) > _MAX_NUMBERS]
        for name, (x, y) in separate_numbers(numbers or {}, low, (high - low) / _SQUARE_IN, size).items():
            frame: Any = {
                "boxstyle": "round,pad=0.12",
                "facecolor": canvas.theme().paper,
                "edgecolor": "none",
                "alpha": 0.85,
            }
            axes.text(x, y, name, ha="center", va="center", fontsize=size, bbox=frame)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("UMAP 1", loc="left", fontsize=canvas.NOTE_PT)
        axes.set_ylabel("UMAP 2", loc="bottom", fontsize=canvas.NOTE_PT)
        handles = [axes.scatter([], [], c=colour, s=24, linewidths=0, label=name) for name, colour in shown.items()]
        right = (_LEFT_IN + _SQUARE_IN) / width_in
        figure.legend(
            handles=handles, loc="center left", bbox_to_anchor=(right, 0.5), fontsize=canvas.NOTE_PT, handletextpad=0.2, columnspacing=0.8,
            ncols=_num_columns(entries),
        )  # fmt: skip

    return canvas.render(draw, *_size_in(entries), image_format)


def _limits(places: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower left and upper right corner of a figure of (N, 2) places; each is (2,)."""
    low, high = (np.asarray(corner, dtype=np.float64) for corner in (places.min(axis=0), places.max(axis=0)))
    margin = np.maximum(_MARGIN * (high - low), 1e-6)  # cells at one place are drawn, too
    return low - margin, high + margin


def separate_numbers(
    numbers: Mapping[str, NDArray[np.float32]], low: NDArray[np.float64], per_inch: NDArray[np.float64], size_pt: float
) -> dict[str, NDArray[np.float64]]:
    """Places of texts in a figure, moved so that none hides another: (2,) each.

    Args:
        numbers: Texts, and the (2,) places where they should be.
        low: (2,) lower left corner of the figure.
        per_inch: (2,) units of the places in an inch.
        size_pt: Size of the letters, points.

    Returns:
        The places. A clustering of interleaved cells puts the medians of two clusters on the same place.
    """
    if not numbers:
        return {}
    letter_in = size_pt / _POINTS_PER_INCH
    # A digit is 0.64 of the size of the letters wide; the frame adds 0.12 of it on each side.
    boxes = np.array([[0.64 * len(name) + 0.24, 1.24] for name in numbers]) * letter_in
    places = (np.array([*numbers.values()], dtype=np.float64) - low) / per_inch
    wanted = (boxes[:, None] + boxes[None]) / 2
    for _ in range(_SEPARATIONS):
        apart = places[:, None] - places[None]
        overlap = wanted - np.abs(apart)
        hidden: NDArray[np.bool_] = np.min(overlap, axis=2) > 0
        np.fill_diagonal(hidden, val=False)
        if not hidden.any():
            break
        # Along the axis with the smaller overlap; of texts at one place, the first goes up.
        along = np.eye(2)[overlap.argmin(axis=2)]
        order = np.arange(len(places))
        side = np.where(apart != 0, np.sign(apart), np.sign(order[None, :, None] - order[:, None, None]))
        places += (0.5 * hidden[:, :, None] * along * side * (overlap + 1e-3)).sum(axis=1)
    return dict(zip(numbers, places * per_inch + low, strict=True))


def _size_in(entries: Mapping[str, str]) -> tuple[float, float]:
    """Width and height of a figure of cells with its legend."""
    letters = max(map(len, entries), default=0)
    width_in = _LEFT_IN + _SQUARE_IN + _num_columns(entries) * (_ENTRY_IN + _LETTER_IN * letters) + _RIGHT_IN
    return width_in, _BOTTOM_IN + _SQUARE_IN + _TOP_IN


def _num_columns(entries: Mapping[str, str]) -> int:
    """Columns of the legend of a UMAP."""
    return max(1, math.ceil(len(entries) / _LEGEND_ROWS))


def draw_composition(
    fractions: NDArray[np.float64],
    rows: Sequence[str],
    entries: Mapping[str, str],
    title: str,
    *,
    label: str = "",
    image_format: ImageFormat = "png",
) -> bytes:
    """Draw the composition of each row as a bar of parts.

    Args:
        fractions: (R, C) fractions; each row has the sum 1.
        rows: R names, the first on top.
        entries: C categories in the order of the parts, with their colours.
        title: Title of the figure.
        label: What the rows are.
        image_format: `png` or `svg`.

    Returns:
        The image.
    """
    ends = np.cumsum(fractions, axis=1)
    positions = np.arange(len(rows))
    # The legend is at the right, with the names at the left in about as much room as they need.
    margins_in = 0.7 + _LETTER_IN * max(map(len, rows), default=0) + _ENTRY_IN
    width_in = _BARS_IN + margins_in + _LETTER_IN * max(map(len, entries), default=0)
    height_in = 0.85 + max(_ROW_IN * len(rows), 0.2 * len(entries))

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        axes = figure.add_subplot(title=title)
        for number, (name, colour) in enumerate(entries.items()):
            left = ends[:, number] - fractions[:, number]
            axes.barh(
                positions, fractions[:, number], left=left, height=0.8, color=canvas.on_ground(colour), edgecolor=canvas.theme().paper, linewidth=0.4,
                label=name,
            )  # fmt: skip
        axes.set_yticks(positions, rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel("fraction of cells")
        axes.set_ylabel(label)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside right center", fontsize=canvas.NOTE_PT)

    return canvas.render(draw, width_in, height_in, image_format)


def shown_categories(names: Sequence[str], colours: Mapping[str, str], unknown: str = "") -> dict[str, str]:
    """Entries of a legend: the categories that have a colour, and one entry for all others.

    Args:
        names: All categories, in their order.
        colours: Colours of some of them.
        unknown: Name of the category of cells without one; empty if there are none.

    Returns:
        Name to colour. The entry for the others is named `others_name(names, colours)`.
    """
    entries = {name: colours[name] for name in names if name in colours}
    if others := others_name([name for name in names if name != unknown], colours):
        entries[others] = OTHERS
    return entries | ({unknown: UNKNOWN} if unknown else {})


def others_name(names: Sequence[str], colours: Mapping[str, str]) -> str:
    """The entry of the legend for the categories without a colour; empty if all have one."""
    others = [name for name in names if name not in colours]
    if len(others) > 1:
        # A range only where it has no name with a colour in it: types are ordered by frequency, clusters by number.
        numbers = list(map(int, others)) if all(map(str.isdecimal, others)) else []
        is_range = numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else False
        return f"{others[0]} to {others[-1]}" if is_range else f"{len(others)} others"
    return others[0] if others else ""
