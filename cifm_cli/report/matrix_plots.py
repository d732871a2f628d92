"""Matrices as figures: heat maps and dots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report import canvas
from cifm_cli.report.palette import OTHERS
from cifm_cli.report.plots import SEQUENTIAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_MAX_ANNOTATED: Final = (15, 12)  # rows and columns up to which a heat map also shows its values as text
_MAX_LARGE: Final = 10  # columns up to which these values are as large as the names
_VALUE_PT: Final = 7.0  # size of the values of more columns
_LETTER_IN: Final = 0.055  # height of a letter of the names of columns, which are turned by 60 degrees
_DOT_COLUMN_IN: Final = 0.15  # width of a column of dots, whose name is turned by 90 degrees
_AROUND_DOTS_IN: Final = 1.4  # width of the colour bar and the margins
_POINTS_PER_INCH: Final = 72


def heat_map(  # noqa: PLR0913 - options of a figure
    matrix: NDArray[np.float64],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    *,
    label: str = "",
    centred: bool = False,
    colours: Mapping[str, str] | None = None,
    largest: float | None = None,
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
        largest: Upper end of the colour scale; larger values have its colour.

    Returns:
        PNG.
    """
    # `initial` allows for a matrix that is empty or all NaN.
    extreme = float(np.nanmax(np.abs(matrix), initial=0.0))
    limits = (-extreme, extreme) if centred else (None, largest)

    def draw(axes: Axes) -> None:
        """Draw the plot on the given axes."""
        drawn = axes.imshow(
            matrix,
            cmap=canvas.diverging_colours() if centred else SEQUENTIAL,
            aspect="auto",
            vmin=limits[0],
            vmax=limits[1],
        )
        extend = "neither" if largest is None or centred else "max"
        axes.figure.colorbar(drawn, ax=axes, shrink=0.7, label=label, extend=extend)
        axes.set_xticks(
            range(len(column_labels)),
            column_labels,
            rotation=60,
            ha="right",
            rotation_mode="anchor",
            fontsize=canvas.SMALL_PT,
        )
        axes.set_yticks(range(len(row_labels)), row_labels, fontsize=canvas.SMALL_PT)
        axes.spines[:].set_visible(False)
        if colours is not None:
            _mark_names(axes, row_labels, column_labels, colours)
        if all(np.less_equal(matrix.shape, _MAX_ANNOTATED)):
            _write_values(axes, matrix, drawn.to_rgba(matrix), skip_zero=centred)

    # Long names of columns would leave no room for the matrix; those of ten letters have room.
    names_in = float(np.clip(_LETTER_IN * (max(map(len, column_labels), default=0) - 10), 0.0, 2.8))
    return canvas.render_axes(draw, title, names_in + float(np.clip(1.6 + 0.22 * len(row_labels), 2.4, 9.0)))


def _write_values(axes: Axes, matrix: NDArray[np.float64], colours: NDArray[np.float64], *, skip_zero: bool) -> None:
    """Write (R, C) values on cells of (R, C, 4) colours."""
    size = canvas.SMALL_PT if matrix.shape[1] <= _MAX_LARGE else _VALUE_PT
    for (i, j), value in np.ndenumerate(matrix):
        if value == 0 and skip_zero:
            continue  # most of a matrix of differences; the others are found more easily
        # The sum of red, green and blue is above half of its maximum of 3 on light cells.
        colour = "black" if colours[i, j, :3].sum() > 1.5 else "white"
        axes.annotate(_short(value), (j, i), ha="center", va="center", fontsize=size, color=colour)


def _mark_names(
    axes: Axes, row_labels: Sequence[str], column_labels: Sequence[str], colours: Mapping[str, str]
) -> None:
    """Draw a square in the colour of each row and column next to its name."""
    square: dict[str, Any] = {"marker": "s", "markersize": 5, "clip_on": False}
    for i, name in enumerate(row_labels):
        axes.plot(
            [-0.017],
            [i],
            color=canvas.on_ground(colours.get(name, OTHERS)),
            transform=axes.get_yaxis_transform(),
            **square,
        )
    for j, name in enumerate(column_labels):
        axes.plot(
            [j],
            [-0.025],
            color=canvas.on_ground(colours.get(name, OTHERS)),
            transform=axes.get_xaxis_transform(),
            **square,
        )
    axes.tick_params(length=0, pad=12)


def _short(value: float) -> str:
    """Two digits but at most two decimals, or whole numbers above: 100 and not 1e+02, 0.01 and not 0.0069."""
    if abs(value) >= 99.5:
        return f"{value:.0f}"
    return f"{round(value, 2) + 0.0:.2g}"  # + 0.0 turns -0 into 0


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
        largest = min(60.0, (_DOT_COLUMN_IN * _POINTS_PER_INCH) ** 2)
        drawn = axes.scatter(
            column.ravel(), row.ravel(), s=largest * sizes.ravel(), c=colours.ravel(), cmap=SEQUENTIAL, linewidths=0
        )
        axes.figure.colorbar(drawn, ax=axes, shrink=0.7, label=label)
        axes.set_xticks(range(len(column_labels)), column_labels, rotation=90, fontsize=canvas.SMALL_PT)
        axes.set_yticks(range(len(row_labels)), row_labels, fontsize=canvas.SMALL_PT)
        axes.set_xlim(-0.7, len(column_labels) - 0.3)
        axes.set_ylim(len(row_labels) - 0.3, -0.7)
        axes.grid(visible=True)

    letters = max(map(len, row_labels), default=0)
    width_in = _AROUND_DOTS_IN + _LETTER_IN * 1.5 * letters + _DOT_COLUMN_IN * len(column_labels)
    height_in = float(np.clip(1.6 + 0.22 * len(row_labels), 2.4, 9.0))
    return canvas.render_axes(draw, title, height_in, max(width_in, canvas.WIDTH_IN))
