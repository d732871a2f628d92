"""Small maps side by side: the measured and the predicted expression of a few genes.

Letters: N cells, P genes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.report import canvas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_PANEL_IN: Final = 3.0  # width of a map
_HEIGHTS_IN: Final = (0.9, 3.0)  # smallest and largest height of a map
_POINTS_PER_INCH: Final = 72
_PERCENTILE: Final = 99  # of the measured values, where the colours end; a few cells would make all others pale


def paired_maps(
    xy_um: NDArray[np.float64],
    measured: NDArray[np.float32],
    predicted: NDArray[np.float32],
    names: Sequence[str],
    columns: tuple[str, str] = ("measured", "predicted"),
) -> bytes:
    """Draw each gene twice, with one colour scale for both maps.

    Args:
        xy_um: (N, 2) positions, micrometres.
        measured: (N, P) values.
        predicted: (N, P) values.
        names: P titles of the rows.
        columns: Titles of both columns.

    Returns:
        The image.
    """
    span_um = np.maximum(xy_um.max(axis=0) - xy_um.min(axis=0), 1.0)
    height_in = float(np.clip(_PANEL_IN * span_um[1] / span_um[0], *_HEIGHTS_IN))
    pitch_in = math.sqrt(float(span_um.prod()) / len(xy_um)) * min(_PANEL_IN / span_um[0], height_in / span_um[1])
    area = float(np.clip(pitch_in * _POINTS_PER_INCH, 0.7, 7.0)) ** 2

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        panels = figure.subplots(len(names), 2, sharex=True, sharey=True, squeeze=False)
        for row, name in enumerate(names):
            end = float(np.percentile(measured[:, row], _PERCENTILE)) or float(measured[:, row].max()) or 1.0
            for axes, values, column in zip(panels[row], (measured, predicted), columns, strict=True):
                drawn = axes.scatter(
                    *xy_um.T,
                    c=values[:, row],
                    s=area,
                    cmap="viridis",
                    vmin=0.0,
                    vmax=end,
                    linewidths=0,
                    rasterized=True,
                )
                axes.set_aspect("equal")
                axes.tick_params(labelsize=7)
                axes.set_title(f"{name}, {column}", fontsize=9)
            figure.colorbar(drawn, ax=list(panels[row]), shrink=0.7, pad=0.01, label="log expression")
            panels[row][0].set_ylabel("y (µm)", fontsize=8)
        panels[0][0].invert_yaxis()  # shared by all; as in the image of the slide, y points down
        for axes in panels[-1]:
            axes.set_xlabel("x (µm)", fontsize=8)

    return canvas.render(draw, 2 * _PANEL_IN + 1.3, len(names) * (height_in + 0.3) + 0.4)
