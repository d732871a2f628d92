"""How a training went: why it ended, and its learning curve as a figure in the folder of the run."""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, Any, Final

from cifm_cli.errors import CifmError
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.recipe_sections import TrainRecipe
    from cifm_cli.report.canvas import ImageFormat
    from cifm_cli.training.state import TrainState

logger = logging.getLogger(__name__)

CURVE_FILES: Final = ("learning_curve.png", "learning_curve.svg")
_NUM_POINTS: Final = 200  # of the running mean of the loss of steps
_RECIPE, _METRICS = "recipe.toml", "metrics.jsonl"


def describe_end(recipe: TrainRecipe, state: TrainState, run: Path) -> str:
    """Say how many steps were taken, why the training ended, and what that means.

    Args:
        recipe: The train section.
        state: The last state.
        run: Folder of the run, for the command that continues it.

    Returns:
        One to three sentences.
    """
    reason = _why_it_ended(recipe, state, run)
    if state.best_step or not state.step:
        return reason
    # The start of a recipe with a fitted smoother beats most baselines already, so that no other number shows it.
    return f"training improved nothing: the kept model is its start, and an evaluation tells how good that is. {reason}"


def _why_it_ended(recipe: TrainRecipe, state: TrainState, run: Path) -> str:
    """How many steps were taken, why the training ended, and whether a longer one may do better."""
    done = f"{state.step:,} of {recipe.steps:,} steps in {state.seconds / 60:.1f} minutes"
    if state.step >= recipe.steps:
        return f"{done}: all steps are done."
    if state.validations_since_best >= recipe.patience:
        return f"{done}: stopped as the last {recipe.patience} validations brought no better model (train.patience)."
    text = f"{done}: stopped by train.max_minutes = {recipe.max_minutes:g}, within which the learning rate went down."
    if 0 < state.best_step < state.step:
        return f"{text} The kept model is that of step {state.best_step:,}: later validations were no better."
    longer = 10 * (recipe.max_minutes or 1)
    best = "The last validation was the best one, so a" if state.best_step else "A"
    return (
        f"{text} {best} longer training may do better: cifm train {run / _RECIPE} --resume "
        f"--out {run} --set train.max_minutes={longer:g}"
    )


def write_learning_curve(run: Path) -> None:
    """Draw the learning curve of a run into its folder; a run without any validation has none.

    Args:
        run: Folder of the run.

    Raises:
        CifmError: The folder may not be written.
    """
    from cifm_cli.report.learning_curve import draw_learning_curve

    curve = read_curve(run / _METRICS)
    if not curve["validations"]:
        return
    best_step, best = min(curve["validations"], key=lambda point: point[1])
    title = (
        f"Learning curve: validation loss {curve['validations'][0][1]:.4g} to {best:.4g}, kept at step {best_step:,}"
    )
    steps, validations = (
        list(zip(*points, strict=True)) or [(), ()] for points in (_smooth(curve), curve["validations"])
    )
    for name in CURVE_FILES:
        image_format: ImageFormat = "svg" if name.endswith("svg") else "png"
        content = draw_learning_curve(
            (steps[0], steps[1]), (validations[0], validations[1]), best_step, title, image_format
        )
        with atomic_path(run / name) as temporary:
            temporary.write_bytes(content)


def read_curve(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the losses of a run.

    Args:
        path: Its `metrics.jsonl`; damaged lines are left out.

    Returns:
        `steps` and `validations`: pairs of a step and a finite loss.

    Raises:
        CifmError: The file cannot be read.
    """
    curve: dict[str, list[tuple[int, float]]] = {"steps": [], "validations": []}
    try:
        lines = path.read_bytes().splitlines() if path.is_file() else []
    except OSError as error:
        raise CifmError(f"{path}: {error.strerror}", "check the permissions of the file") from error
    for line in lines:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        for part, key in (("steps", "loss"), ("validations", "validation_loss")):
            if isinstance(content, dict) and _is_point(content.get("step"), content.get(key)):
                curve[part].append((content["step"], float(content[key])))
    return curve


def describe_progress(run: Path) -> dict[str, Any]:
    """What `cifm inspect` says about the training of a run: steps and losses; nothing for a folder without metrics.

    Args:
        run: Folder of the run.

    Returns:
        The entry `training`, or nothing.

    Raises:
        CifmError: A file cannot be read.
    """
    from cifm_cli import recipe

    curve = read_curve(run / _METRICS)
    if not curve["validations"]:
        return {}
    best_step, best_loss = min(curve["validations"], key=lambda point: point[1])
    facts: dict[str, Any] = {
        "steps": max((step for step, _ in curve["steps"]), default=0),
        "of": recipe.load(run / _RECIPE).train.steps if (run / _RECIPE).is_file() else None,
        "first_loss": curve["validations"][0][1],
        "best_loss": best_loss,
        "best_step": best_step,
        "last_loss": curve["validations"][-1][1],
        "curve": [name for name in CURVE_FILES if (run / name).is_file()],
    }
    return {"training": facts}


def _is_point(step: object, loss: object) -> bool:
    return type(step) is int and isinstance(loss, int | float) and math.isfinite(loss)


def _smooth(curve: dict[str, list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Means of the loss over stretches of steps: single steps are of other tiles each, and noisy."""
    points = curve["steps"]
    size = max(1, math.ceil(len(points) / _NUM_POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[len(group) // 2][0], sum(loss for _, loss in group) / len(group)) for group in groups]
