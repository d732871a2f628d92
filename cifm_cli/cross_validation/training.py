"""The training of one group: on all slides but those of the group, continued where it was interrupted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from cifm_cli.errors import CifmError, StopRequested
from cifm_cli.path_text import file_name
from cifm_cli.stored_json import parse_json
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.launch import launch
from cifm_cli.training.state import list_states
from cifm_cli.workspace import run_folder, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.cross_validation.groups import SlideGroup
    from cifm_cli.evaluation.setup import EvaluateConfig
    from cifm_cli.recipe import Recipe

logger = logging.getLogger(__name__)

FINISHED_FILE = "finished.json"  # in the folder of a run that has ended by itself


def train_without(
    group: SlideGroup, slides: Sequence[Path], folder: Path, recipe: Recipe, evaluation: EvaluateConfig
) -> tuple[Path, dict[str, Any]]:
    """Train on all slides but those of a group, unless that was done before.

    Args:
        group: The slides that are left out.
        slides: All slides.
        folder: Folder of the trainings of all groups, whose plan was compared with these arguments.
        recipe: Recipe for all groups.
        evaluation: Its seed, backend and device are those of the training, too.

    Returns:
        The run, and the result of its training as `TrainResult.to_json` gives it, without its path.

    Raises:
        CifmError: A slide or the recipe can't be used, or the loss has exploded.
        BackendUnavailableError: The backend is not available here.
    """
    run = folder / group.folder
    if is_finished(run):
        logger.info(f"{group.label}: trained before, in {run}")
        return run_folder(run), _read_result(run / FINISHED_FILE)
    others = [path for path in slides if path not in group.slides]
    logger.info(f"{group.label} left out: training on {', '.join(map(file_name, others))}")
    config = TrainConfig(
        recipe=recipe_without(recipe, group),
        slides=others,
        folder=run,
        resume=bool(list_states(run)),
        backend=evaluation.backend,
        device=evaluation.device,
        seed=evaluation.seed,
        # A scheduler's variables are not meant for these trainings, which must not wait for other processes.
        single_process=True,
    )
    try:
        result = launch(config)
    except (KeyboardInterrupt, StopRequested):
        logger.info("the same command continues this training, and does not repeat those before it")
        raise
    facts = {name: value for name, value in result.to_json().items() if name != "run"} if result else {}
    write_json(run / FINISHED_FILE, facts)
    return run, facts


def is_finished(run: Path) -> bool:
    """Whether the training of a run has ended by itself."""
    return (run / FINISHED_FILE).is_file()


def is_started(run: Path) -> bool:
    """Whether the training of a run can be continued."""
    return not is_finished(run) and bool(list_states(run))


def recipe_without(recipe: Recipe, group: SlideGroup) -> Recipe:
    """The recipe without the validation slides that are left out; a model must not be chosen by the slides it is tested on."""
    left_out = set(map(file_name, group.slides))
    named = recipe.data.validation_slides
    kept = tuple(name for name in named if name not in left_out)
    if named and not kept:
        logger.warning(
            f"{group.label}: all of data.validation_slides are left out; the validation regions of the others are used"
        )
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation_slides": kept})})


def _read_result(path: Path) -> dict[str, Any]:
    """The stored result of a training."""
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise CifmError(f"{path}: damaged: {error}", "remove this file, and the training is checked again") from error
    return content if isinstance(content, dict) else {}
