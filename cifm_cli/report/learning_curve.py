"""The figure of a training: loss of the steps and of the validations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifm_cli.report import canvas
from cifm_cli.report.palette import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure


def draw_learning_curve(
    steps: tuple[Sequence[int], Sequence[float]],
    validations: tuple[Sequence[int], Sequence[float]],
    best_step: int,
    title: str,
    image_format: canvas.ImageFormat = "png",
) -> bytes:
    """Draw the loss.

    Args:
        steps: Numbers of steps, and their loss, smoothed.
        validations: Numbers of steps after which the model was validated, and the loss.
        best_step: The validation whose model was kept, which is marked.
        title: Title of the figure.
        image_format: `png` or `svg`.

    Returns:
        The image.
    """

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        axes = figure.add_subplot()
        axes.plot(*steps, color=COLOURS[4], linewidth=1.0, label="training, running mean")
        axes.plot(*validations, color=COLOURS[0], linewidth=1.6, marker="o", markersize=3.5, label="validation")
        if best_step in validations[0]:
            lowest = validations[1][list(validations[0]).index(best_step)]
            axes.plot([best_step], [lowest], color=COLOURS[3], marker="o", markersize=7, linestyle="", label="kept")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(visible=True)
        axes.legend(loc="upper right", fontsize=8)
        axes.set_title(title)

    return canvas.render(draw, 6.5, 3.4, image_format)
