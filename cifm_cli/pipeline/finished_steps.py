"""Whether the results of a step belong to the present inputs, so that the step need not run again.

A step whose results were made from other slides, by another model or with another seed is not finished. Running it again then
replaces its results, or says why it does not.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from cifm_cli import recipe as recipes
from cifm_cli.embedding.existing_outputs import embedding_problem
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.report.files import METRICS_FILE, REPORT_FILE
from cifm_cli.model.checkpoint import CHECKPOINT, MODEL_FILE
from cifm_cli.model.readout import is_readout
from cifm_cli.provenance import hash_file
from cifm_cli.tensor_files import open_tensors
from cifm_cli.training import schedule
from cifm_cli.training.session import RECIPE_FILE
from cifm_cli.training.state import TrainState, list_states, read_state
from cifm_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.recipe import Recipe

# Sections that decide what is trained; the section `train` may change when a run is continued.
_SECTIONS: Final = ("data", "model", "mask", "objective")


def has_started(run: Path) -> bool:
    """Whether a run has a state from which it can be continued."""
    return bool(list_states(run))


def is_trained(run: Path, recipe: Recipe, slides: Sequence[Path], seed: int) -> bool:
    """Whether a run has come to its end, with a recipe, slides and seed.

    Args:
        run: Folder of the run.
        recipe: The recipe.
        slides: Prepared slides.
        seed: Seed of the run.

    Returns:
        False also for a run whose files are damaged: continuing it says what is wrong.
    """
    try:
        before, state = recipes.load(run / RECIPE_FILE), read_state(run)
        with open_tensors(run / MODEL_FILE, CHECKPOINT) as file:
            origin, has_readout = file.header["provenance"], any(map(is_readout, file.layouts))
    except CifmError:
        return False
    same = all(getattr(before, section) == getattr(recipe, section) for section in _SECTIONS)
    inputs = sorted(hash_file(path) for path in slides) == sorted(origin.get("inputs", {}).values())
    return same and inputs and origin.get("seed") == seed and has_readout and _has_ended(recipe, state)


def _has_ended(recipe: Recipe, state: TrainState) -> bool:
    used_up = schedule.fraction_done(recipe.train, state.step, state.seconds) >= 1
    return used_up or state.validations_since_best >= recipe.train.patience


def is_evaluated(folder: Path, run: Path, slides: Sequence[Path], seed: int, rounds: int | None = None) -> bool:
    """Whether an evaluation is that of a model on slides.

    Args:
        folder: Folder of the evaluation.
        run: Folder of the run.
        slides: Prepared slides.
        seed: Seed of the evaluation.
        rounds: Rounds that it must have at least; None for all.

    Returns:
        Whether the report exists, and its numbers were computed from these files by this version.
    """
    try:
        origin = json.loads((folder / METRICS_FILE).read_text(encoding="utf8"))["provenance"]
        stored = sorted(origin["inputs"].values()), origin["seed"], origin["cifm"]
        most = origin.get("rounds")
        enough = most is None or (rounds is not None and rounds <= most)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    inputs = sorted(hash_file(path) for path in (*slides, run / MODEL_FILE))
    return enough and (folder / REPORT_FILE).is_file() and stored == (inputs, seed, __version__)


def embedding_states(folder: Path, run: Path, slides: Sequence[Path]) -> dict[str, bool]:
    """Compare the embedded slides of a folder with a model and prepared slides.

    Args:
        folder: Folder of the embedded slides.
        run: Folder of the run.
        slides: Prepared slides.

    Returns:
        `current`: whether every slide is embedded by the model. `replaceable`: whether there are other embeddings, and all of
        them can be replaced without losing anything that another program has added.
    """
    digest = hash_file(run / MODEL_FILE)
    targets = {slide: folder / f"{slide.stem}.h5ad" for slide in slides}
    existing = {slide: target for slide, target in targets.items() if target.exists()}
    found = [embedding_problem(slide, target, digest) for slide, target in existing.items()]
    problems = [problem for problem in found if problem is not None]
    return {
        "current": len(existing) == len(targets) and not problems,
        "replaceable": bool(problems) and all(problem.replaceable for problem in problems),
    }
