"""Figures with one pair of axes, as bytes of images: maps, bars, histograms and curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report import canvas
from cifm_cli.report.palette import CATEGORY_COLOURS, COLOURS, OTHERS, assign_colours, colour_categories, sort_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

SEQUENTIAL: Final = "viridis"
_POINTS_PER_INCH = 72
_LEGEND_ROW_IN = 0.2  # height of an entry of a legend
_MAX_LEGEND_ROWS = 21


def tissue_map(
    xy_um: NDArray[np.float64],
    values: NDArray[Any],
    title: str,
    *,
    label: str = "",
    limits: tuple[float, float] | None = None,
    order: Sequence[str] | None = None,
    unknown: str = "",
) -> bytes:
    """Draw cells at their positions as in the image of the slide: y pointing down, equal scales, with axes in micrometres and a scale bar.

    Args:
        xy_um: (N, 2) positions, micrometres.
        values: (N,) numbers, or text for categories.
        title: Title of the figure.
        label: Label of the colour bar.
        limits: Ends of the colour scale, which is a diverging one where they are symmetric around zero; minimum and maximum
            of the values by default.
        order: Categories in the order of their colours, so that several maps can share colours; those after the twelfth,
            and other categories, are grey, with one entry in the legend. Sorted by name by default.
        unknown: Category of cells without one, such as `unassigned`, in a paler grey.

    Returns:
        PNG; its size depends on the positions, and on the number of categories where the legend is higher than the map.
    """
    low_um, high_um = xy_um.min(axis=0), xy_um.max(axis=0)
    # Cells on a line or at one position have an extent of zero, which would be divided by.
    span_um = np.maximum(high_um - low_um, 1.0)
    # A quarter of the width is left for the legend or the colour bar.
    height_in = float(np.clip(canvas.WIDTH_IN * 0.75 * span_um[1] / span_um[0], 1.2, 9.0))
    inches_per_um = min(canvas.WIDTH_IN * 0.75 / span_um[0], height_in / span_um[1])
    if values.dtype.kind in "OUST":
        height_in = max(height_in, _legend_in(values, order, unknown))
    # Mean distance between cells, if they were spread evenly over the extent.
    pitch_in = math.sqrt(float(span_um.prod()) / len(xy_um)) * inches_per_um
    # matplotlib takes areas in square points. Markers as wide as the pitch leave no gaps in a dense tissue.
    area = float(np.clip(pitch_in * _POINTS_PER_INCH * 1.1, 0.7, 8.0)) ** 2

    def draw(axes: Axes) -> None:
        """Draw the plot on the given axes."""
        markers: dict[str, Any] = {"s": area, "linewidths": 0, "rasterized": True}
        if values.dtype.kind in "OUST":
            _draw_categories(axes, xy_um, values.astype(str), order, unknown, markers)
        else:
            low, high = limits or (None, None)
            is_signed = low is not None and high is not None and low == -high < 0
            colours = canvas.diverging_colours() if is_signed else SEQUENTIAL
            scale: dict[str, Any] = {"cmap": colours, "vmin": low, "vmax": high}
            drawn = axes.scatter(xy_um[:, 0], xy_um[:, 1], c=values.astype(float), **scale, **markers)
            axes.figure.colorbar(drawn, ax=axes, shrink=0.6, label=label)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.set_xlabel("x (µm)")
        axes.set_ylabel("y (µm)")
        axes.tick_params(labelsize=canvas.SMALL_PT)
        draw_scale_bar(axes, low_um[0], high_um[1], span_um)

    return canvas.render_axes(draw, title, height_in + 0.5)


def _legend_in(values: NDArray[Any], order: Sequence[str] | None, unknown: str) -> float:
    """Height of a legend in one column; a second one would take the room of a map that is wider than high."""
    names = set(values.astype(str).tolist()) - {unknown} if order is None else order
    entries = min(len(names), len(CATEGORY_COLOURS) + 1) + bool(unknown)
    return _LEGEND_ROW_IN * min(entries, _MAX_LEGEND_ROWS)


def _draw_categories(
    axes: Axes,
    xy_um: NDArray[np.float64],
    names: NDArray[Any],
    order: Sequence[str] | None,
    unknown: str,
    markers: dict[str, Any],
) -> None:
    """Draw cells of all categories in one call, in the order of the cells, so that no category hides another."""
    present = set(names.tolist())
    palette = colour_categories(sort_names(present - {unknown}) if order is None else order)
    entries = {name: canvas.on_ground(colour) for name, colour in palette.items() if name in present}
    others = sort_names(present - set(entries) - {unknown})
    grey = canvas.theme().others
    shown = entries | dict.fromkeys(others, grey) | {unknown: canvas.theme().unknown}
    axes.scatter(xy_um[:, 0], xy_um[:, 1], c=[shown[name] for name in names.tolist()], **markers)
    if others:
        entries[others[0] if len(others) == 1 else f"{len(others)} others"] = grey
    if unknown in present:
        entries[unknown] = shown[unknown]
    for name, colour in entries.items():
        # Empty series make the entries of the legend, because the cells are drawn in one call.
        axes.scatter([], [], c=colour, s=20, linewidths=0, label=name)
    # A slide that is much wider than high gives a low figure, over whose edge a single column would reach.
    rows = max(1, int(axes.figure.bbox.height / axes.figure.dpi / _LEGEND_ROW_IN))
    columns = math.ceil(len(entries) / min(rows, _MAX_LEGEND_ROWS))
    # Of the figure: beside axes of equal scales, room would be left as if they filled their place, and names be cut off.
    axes.figure.legend(loc="outside right center", fontsize=canvas.SMALL_PT, ncols=columns, handletextpad=0.2)


def draw_scale_bar(axes: Axes, x_um: float, bottom_um: float, span_um: NDArray[np.float64]) -> None:
    """Draw a bar of a round length, about a fifth of the width, below the tissue."""
    target_um = float(span_um[0]) / 5
    decade = 10.0 ** math.floor(math.log10(target_um))
    # The largest of 1, 2 and 5 times a power of ten that is not longer than a fifth of the width
    length_um = max(step * decade for step in (1, 2, 5) if step * decade <= target_um)
    y_um = bottom_um + 0.04 * float(span_um.max())
    axes.plot([x_um, x_um + length_um], [y_um, y_um], color=canvas.theme().ink, linewidth=2, solid_capstyle="butt")
    axes.annotate(
        f"{length_um:,g} µm",
        (x_um + length_um, y_um),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=canvas.NOTE_PT,
    )


def bars(
    labels: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    title: str,
    *,
    label: str = "",
    reference: float | None = None,
    colours: Sequence[str] | None = None,
) -> bytes:
    """Draw one horizontal bar per label, the first on top.

    Args:
        labels: Names of the bars.
        values: One number per bar.
        intervals: (low, high) per bar, or None.
        title: Title of the figure.
        label: Label of the axis.
        reference: A value that is marked by a line, such as the value of a random guess.
        colours: Hexadecimal colour of each bar; one colour for all by default.

    Returns:
        PNG.
    """
    positions = np.arange(len(labels))

    def draw(axes: Axes) -> None:
        """Draw the plot on the given axes."""
        own = [canvas.on_ground(colour) for colour in colours or [COLOURS[0]]]
        axes.barh(positions, values, height=0.62, color=own)
        for position, value, interval in zip(positions, values, intervals, strict=True):
            end = value
            if interval is not None:
                axes.plot(
                    interval, [position, position], color=canvas.theme().ink, linewidth=1.2, solid_capstyle="butt"
                )
                # The number stands to the right of the interval, not on it.
                end = max(value, interval[1])
            axes.annotate(
                f"{value:.3g}",
                (max(end, 0.0), position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=canvas.NOTE_PT,
            )
        if reference is not None:
            axes.axvline(reference, color=canvas.theme().quiet, linewidth=1, linestyle="--")
        axes.set_yticks(positions, labels)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(label)
        axes.grid(axis="x")

    return canvas.render_axes(draw, title, 1.0 + 0.32 * len(labels))


def histogram(values: NDArray[Any], edges: Sequence[float], title: str, *, label: str = "") -> bytes:
    """Draw a histogram and the median.

    Args:
        values: (n,) numbers; those above the last edge are counted in the last bar.
        edges: Ascending edges of the bars.
        title: Title of the figure.
        label: Label of the axis.

    Returns:
        PNG.
    """
    median = float(np.median(values))

    def draw(axes: Axes) -> None:
        """Draw the plot on the given axes."""
        axes.hist(np.minimum(values, edges[-1]), bins=edges, color=canvas.on_ground(COLOURS[0]))
        axes.margins(y=0.18)  # the median is written above the bars
        axes.axvline(median, color=canvas.theme().ink, linewidth=1, linestyle="--")
        position: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(f"median {median:,g}", (median, 1.0), xytext=(4, -10), fontsize=canvas.NOTE_PT, **position)
        axes.set_xlabel(label)
        axes.set_ylabel("cells")
        axes.grid(axis="y")

    return canvas.render_axes(draw, title, 2.8)


def curves(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    title: str,
    *,
    x_label: str = "",
    y_label: str = "",
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    colours: Mapping[str, str] | None = None,
) -> bytes:
    """Draw several lines over a common x axis.

    Args:
        x: (n,) positions.
        series: (n,) values by name; NaN leaves a gap.
        title: Title of the figure.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        bands: Name of a series to (low, high), (n,) each, which are shaded.
        colours: Hexadecimal colour by name of a series; others are grey. Those of the palette by default.

    Returns:
        PNG.
    """
    palette = assign_colours(list(series)) if colours is None else {name: colours.get(name, OTHERS) for name in series}

    def draw(axes: Axes) -> None:
        """Draw the plot on the given axes."""
        shown = {name: canvas.on_ground(colour) for name, colour in palette.items()}
        for name, values in series.items():
            axes.plot(x, values, color=shown[name], linewidth=1.6, label=name, marker="o", markersize=2.5)
        for name, (low, high) in (bands or {}).items():
            axes.fill_between(x, low, high, color=shown[name], alpha=0.18, linewidth=0)
        if all(isinstance(position, int) for position in x):
            axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(visible=True)
        if len(series) > 1:
            columns = 1 + len(series) // 18
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=canvas.NOTE_PT, ncols=columns)

    return canvas.render_axes(draw, title, 3.4)
