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

_MAX_ANNOTATED: Final = 15  # rows and columns up to which a heat map also shows its values as text
_POINTS_PER_INCH: Final = 72


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
            matrix,
            cmap=canvas.diverging_colours() if centred else SEQUENTIAL,
            aspect="auto",
            vmin=limits[0],
            vmax=limits[1],
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
                if value == 0 and centred:
                    continue  # most of a matrix of differences; the others are found more easily
                # The sum of red, green and blue is above half of its maximum of 3 on light cells.
                colour = "black" if drawn.to_rgba(np.array([value]))[0, :3].sum() > 1.5 else "white"
                axes.annotate(_short(value), (j, i), ha="center", va="center", fontsize=7, color=colour)

    # Long names of columns would leave no room for the matrix; a character is 0.045 inches high at this angle.
    names_in = float(np.clip(0.045 * (max(map(len, column_labels), default=0) - 12), 0.0, 2.5))
    return canvas.render_axes(draw, title, names_in + float(np.clip(1.6 + 0.22 * len(row_labels), 2.4, 9.0)))


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
        largest = min(60.0, (0.6 * canvas.WIDTH_IN * _POINTS_PER_INCH / max(len(column_labels), 1)) ** 2)
        drawn = axes.scatter(
            column.ravel(), row.ravel(), s=largest * sizes.ravel(), c=colours.ravel(), cmap=SEQUENTIAL, linewidths=0
        )
        axes.figure.colorbar(drawn, ax=axes, shrink=0.7, label=label)
        axes.set_xticks(range(len(column_labels)), column_labels, rotation=90, fontsize=5)
        axes.set_yticks(range(len(row_labels)), row_labels, fontsize=7)
        axes.set_xlim(-0.7, len(column_labels) - 0.3)
        axes.set_ylim(len(row_labels) - 0.3, -0.7)
        axes.grid(visible=True)

    return canvas.render_axes(draw, title, float(np.clip(1.4 + 0.22 * len(row_labels), 2.4, 9.0)))
