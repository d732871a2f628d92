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
        steps: Numbers of steps, and their loss.
        validations: Numbers of steps after which the model was validated, and the loss.
        best_step: The validation whose model was kept, which is marked.
        title: Title of the figure.
        image_format: `png` or `svg`.

    Returns:
        The image.
    """

    def draw(figure: Figure) -> None:
        """Draw on the given figure."""
        # Not on one axis: the loss of single steps varies many times as much as that of the validations, and would hide it.
        above, below = figure.subplots(2, 1, sharex=True)
        above.plot(*validations, color=COLOURS[0], linewidth=1.6, marker="o", markersize=3.5, label="validation")
        if best_step in validations[0]:
            lowest = validations[1][list(validations[0]).index(best_step)]
            above.plot(
                [best_step], [lowest], color=COLOURS[3], marker="o", markersize=7, linestyle="", label="kept model"
            )
        numbers, losses = steps
        below.plot(
            numbers, losses, color=COLOURS[4], linewidth=0.8, alpha=0.6, label="training, other cells in each step"
        )
        below.plot(numbers, _running_mean(losses), color=COLOURS[0], linewidth=1.6, label="running mean")
        below.set_xlabel("step")
        for axes in (above, below):
            axes.set_ylabel("loss")
            axes.grid(visible=True)
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=canvas.NOTE_PT, borderaxespad=0.1)
        figure.suptitle(title, x=0.02, ha="left", fontsize=canvas.TITLE_PT)

    return canvas.render(draw, 6.5, 4.6, image_format)


def _running_mean(losses: Sequence[float]) -> list[float]:
    """Mean of each loss with those around it, a tenth of all; fewer at the ends."""
    half = max(1, len(losses) // 20)
    windows = [losses[max(0, i - half) : i + half + 1] for i in range(len(losses))]
    return [sum(window) / len(window) for window in windows]
