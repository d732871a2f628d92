"""Figures with one pair of axes, as PNG bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report import canvas
from cifm_cli.report.palette import COLOURS, assign_colours, sort_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_GREY: Final = "#C8C8C8"
_SEQUENTIAL, _DIVERGING = "viridis", "RdBu_r"
_WIDTH_IN = 6.5
_POINTS_PER_INCH = 72
_MAX_ANNOTATED = 15  # rows and columns up to which a heat map also shows its values as text


def tissue_map(
    xy_um: NDArray[np.float64],
    values: NDArray[Any],
    title: str,
    *,
    label: str = "",
    limits: tuple[float, float] | None = None,
    order: Sequence[str] | None = None,
    centred: bool = False,
) -> bytes:
    """Draw cells at their positions as in the image of the slide: y pointing down, equal scales, with axes in micrometres and a scale bar.

    Args:
        xy_um: (N, 2) positions, micrometres.
        values: (N,) numbers, or text for categories.
        title: Title of the figure.
        label: Label of the colour bar.
        limits: Ends of the colour scale; minimum and maximum of the values by default.
        order: Categories in the order of their colours, so that several maps can share colours; other categories are
            grey. Sorted by name by default.
        centred: Use a diverging colour scale for numbers, for `limits` that are symmetric around zero.

    Returns:
        PNG; its size depends on the positions only.
    """
    low_um, high_um = xy_um.min(axis=0), xy_um.max(axis=0)
    # Cells on a line or at one position have an extent of zero, which would be divided by.
    span_um = np.maximum(high_um - low_um, 1.0)
    # A quarter of the width is left for the legend or the colour bar.
    height_in = float(np.clip(_WIDTH_IN * 0.75 * span_um[1] / span_um[0], 2.0, 9.0))
    inches_per_um = min(_WIDTH_IN * 0.75 / span_um[0], height_in / span_um[1])
    # Mean distance between cells, if they were spread evenly over the extent.
    pitch_in = math.sqrt(float(span_um.prod()) / len(xy_um)) * inches_per_um
    # matplotlib takes areas in square points. Markers as wide as the pitch leave no gaps in a dense tissue.
    area = float(np.clip(pitch_in * _POINTS_PER_INCH * 1.1, 0.7, 8.0)) ** 2

    def draw(axes: Axes) -> None:
        """Draw the plot on the given axes."""
        markers: dict[str, Any] = {"s": area, "linewidths": 0, "rasterized": True}
        if values.dtype.kind in "OUST":
            _draw_categories(axes, xy_um, values.astype(str), order, markers)
        else:
            low, high = limits or (None, None)
            scale: dict[str, Any] = {"cmap": _DIVERGING if centred else _SEQUENTIAL, "vmin": low, "vmax": high}
            drawn = axes.scatter(xy_um[:, 0], xy_um[:, 1], c=values.astype(float), **scale, **markers)
            axes.figure.colorbar(drawn, ax=axes, shrink=0.6, label=label)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.set_xlabel("x (µm)")
        axes.set_ylabel("y (µm)")
        axes.tick_params(labelsize=7)
        draw_scale_bar(axes, low_um[0], high_um[1], span_um)

    return _render(draw, title, height_in + 0.5)


def _draw_categories(
    axes: Axes, xy_um: NDArray[np.float64], names: NDArray[Any], order: Sequence[str] | None, markers: dict[str, Any]
) -> None:
    """Draw cells of all categories in one call, in the order of the cells, so that no category hides another."""
    palette = assign_colours(sort_names(names.tolist()) if order is None else order)
    axes.scatter(xy_um[:, 0], xy_um[:, 1], c=[palette.get(name, _GREY) for name in names.tolist()], **markers)
    present = set(names.tolist())
    for name, colour in palette.items():
        if name in present:
            # Empty series make the entries of the legend, because the cells are drawn in one call.
            axes.scatter([], [], c=colour, s=20, linewidths=0, label=name)
    columns = 1 + len(palette) // 22
    # Of the figure: beside axes of equal scales, room would be left as if they filled their place, and names be cut off.
    axes.figure.legend(loc="outside right center", fontsize=7, ncols=columns, handletextpad=0.2)


def draw_scale_bar(axes: Axes, x_um: float, bottom_um: float, span_um: NDArray[np.float64]) -> None:
    """Draw a bar of a round length, about a fifth of the width, below the tissue."""
    target_um = float(span_um[0]) / 5
    decade = 10.0 ** math.floor(math.log10(target_um))
    # The largest of 1, 2 and 5 times a power of ten that is not longer than a fifth of the width
    length_um = max(step * decade for step in (1, 2, 5) if step * decade <= target_um)
    y_um = bottom_um + 0.04 * float(span_um.max())
    axes.plot([x_um, x_um + length_um], [y_um, y_um], color="#333333", linewidth=2, solid_capstyle="butt")
    axes.annotate(
        f"{length_um:,g} µm",
        (x_um + length_um, y_um),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
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
        axes.barh(positions, values, height=0.62, color=colours or COLOURS[0], alpha=0.75)
        for position, value, interval in zip(positions, values, intervals, strict=True):
            end = value
            if interval is not None:
                axes.plot(interval, [position, position], color="#222222", linewidth=1.2, solid_capstyle="butt")
                # The number stands to the right of the interval, not on it.
                end = max(value, interval[1])
            axes.annotate(
                f"{value:.3g}",
                (max(end, 0.0), position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        if reference is not None:
            axes.axvline(reference, color="#888888", linewidth=1, linestyle="--")
        axes.set_yticks(positions, labels)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(label)
        axes.grid(axis="x")

    return _render(draw, title, 1.0 + 0.32 * len(labels))


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
        axes.hist(np.minimum(values, edges[-1]), bins=edges, color=COLOURS[0], alpha=0.75)
        axes.axvline(median, color="#333333", linewidth=1, linestyle="--")
        position: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(f"median {median:,g}", (median, 1.0), xytext=(4, -10), fontsize=8, **position)
        axes.set_xlabel(label)
        axes.set_ylabel("cells")
        axes.grid(axis="y")

    return _render(draw, title, 2.8)


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
    palette = assign_colours(list(series)) if colours is None else {name: colours.get(name, _GREY) for name in series}

    def draw(axes: Axes) -> None:
        """Draw the plot on the given axes."""
        for name, values in series.items():
            axes.plot(x, values, color=palette[name], linewidth=1.6, label=name, marker="o", markersize=2.5)
        for name, (low, high) in (bands or {}).items():
            axes.fill_between(x, low, high, color=palette[name], alpha=0.18, linewidth=0)
        if all(isinstance(position, int) for position in x):
            axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(visible=True)
        if len(series) > 1:
            columns = 1 + len(series) // 18
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, ncols=columns)

    return _render(draw, title, 3.4)


def heat_map(
    matrix: NDArray[np.float64],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    *,
    label: str = "",
    centred: bool = False,
    colours: Mapping[str, str] | None = None,
) -> bytes:
    """Draw a matrix; small matrices also show their values as text.

    Args:
        matrix: (R, C); NaN is white.
        row_labels: R names.
        column_labels: C names.
        title: Title, which may name the rows and columns.
        label: Label of the colour bar.
        centred: Use a diverging colour scale that is symmetric around zero.
        colours: Hexadecimal colours of squares before row and column names, such as those of cell types.

    Returns:
        PNG.
    """
    # `initial` allows for a matrix that is empty or all NaN.
    largest = float(np.nanmax(np.abs(matrix), initial=0.0))
    limits = (-largest, largest) if centred else (None, None)

    def draw(axes: Axes) -> None:
        """Draw the plot on the given axes."""
        drawn = axes.imshow(
            matrix, cmap=_DIVERGING if centred else _SEQUENTIAL, aspect="auto", vmin=limits[0], vmax=limits[1]
        )
        axes.figure.colorbar(drawn, ax=axes, shrink=0.7, label=label)
        axes.set_xticks(
            range(len(column_labels)), column_labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=7
        )
        axes.set_yticks(range(len(row_labels)), row_labels, fontsize=7)
        axes.spines[:].set_visible(False)
        if colours is not None:
            _mark_names(axes, row_labels, column_labels, colours)
        if max(matrix.shape) <= _MAX_ANNOTATED:
            for (i, j), value in np.ndenumerate(matrix):
                # The sum of red, green and blue is above half of its maximum of 3 on light cells.
                colour = "black" if drawn.to_rgba(np.array([value]))[0, :3].sum() > 1.5 else "white"
                axes.annotate(_short(value), (j, i), ha="center", va="center", fontsize=7, color=colour)

    # Long names of columns would leave no room for the matrix; a character is 0.045 inches high at this angle.
    names_in = float(np.clip(0.045 * (max(map(len, column_labels), default=0) - 12), 0.0, 2.5))
    return _render(draw, title, names_in + float(np.clip(1.6 + 0.22 * len(row_labels), 2.4, 9.0)))


def _mark_names(
    axes: Axes, row_labels: Sequence[str], column_labels: Sequence[str], colours: Mapping[str, str]
) -> None:
    """Draw a square in the colour of each row and column next to its name."""
    square: dict[str, Any] = {"marker": "s", "markersize": 5, "clip_on": False}
    for i, name in enumerate(row_labels):
        axes.plot([-0.017], [i], color=colours.get(name, _GREY), transform=axes.get_yaxis_transform(), **square)
    for j, name in enumerate(column_labels):
        axes.plot([j], [-0.025], color=colours.get(name, _GREY), transform=axes.get_xaxis_transform(), **square)
    axes.tick_params(length=0, pad=10)


def _short(value: float) -> str:
    """Two digits, or whole numbers above: 100 and not 1e+02."""
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.2g}"


def dots(
    sizes: NDArray[np.float64],
    colours: NDArray[np.float64],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    *,
    label: str = "",
) -> bytes:
    """Draw a dot for each element of a matrix, such as the expression of genes (columns) in cell types (rows).

    Args:
        sizes: (R, C) relative areas of the dots, from 0 to 1.
        colours: (R, C) values of the colour scale.
        row_labels: R names.
        column_labels: C names.
        title: Title, which may explain the areas.
        label: Label of the colour bar.

    Returns:
        PNG.
    """

    def draw(axes: Axes) -> None:
        """Draw the plot on the given axes."""
        row, column = np.indices(sizes.shape)
        largest = min(60.0, (0.6 * _WIDTH_IN * _POINTS_PER_INCH / max(len(column_labels), 1)) ** 2)
        drawn = axes.scatter(
            column.ravel(), row.ravel(), s=largest * sizes.ravel(), c=colours.ravel(), cmap=_SEQUENTIAL, linewidths=0
        )
        axes.figure.colorbar(drawn, ax=axes, shrink=0.7, label=label)
        axes.set_xticks(range(len(column_labels)), column_labels, rotation=90, fontsize=5)
        axes.set_yticks(range(len(row_labels)), row_labels, fontsize=7)
        axes.set_xlim(-0.7, len(column_labels) - 0.3)
        axes.set_ylim(len(row_labels) - 0.3, -0.7)
        axes.grid(visible=True)

    return _render(draw, title, float(np.clip(1.4 + 0.22 * len(row_labels), 2.4, 9.0)))


def _render(draw: Callable[[Axes], None], title: str, height_in: float) -> bytes:
    """Make a figure with one pair of axes, call `draw` on them, and return the PNG."""

    def draw_all(figure: Figure) -> None:
        """Draw on the given figure."""
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title)

    return canvas.render(draw_all, _WIDTH_IN, height_in)
