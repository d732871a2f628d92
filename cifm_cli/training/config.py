"""What a training run is asked to do, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifm_cli import recipe as recipes
from cifm_cli.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on which slides, and where to write the run.

    Args:
        recipe: A recipe, the path of one, or the name of a shipped one.
        slides: Prepared slides. Empty for a resumed run: the slides that it was started with.
        folder: Folder of the run.
        resume: Whether to continue the run in `folder`.
        init: Folder of a run whose weights and vocabulary to start from.
        backend: `auto` or the name of a backend.
        device: `auto` or a torch device.
        seed: Seed of every random draw. None: 0, or the seed of the resumed run.
        latest: Symbolic link that is pointed at the run once it is open.
        devices: Number of processes on each machine. None: one, or those that torchrun or srun have started.
        nodes: Number of machines.
    """

    recipe: Recipe | Path | str
    slides: Sequence[Path]
    folder: Path
    resume: bool = False
    init: Path | None = None
    backend: str = "auto"
    device: str = "auto"
    seed: int | None = None
    latest: Path | None = None
    devices: int | None = None
    nodes: int = 1

    def load_recipe(self) -> Recipe:
        """The recipe, read from its file where a path or a name is given.

        Raises:
            CifmError: There is no such recipe, or it has mistakes.
        """
        return self.recipe if isinstance(self.recipe, Recipe) else recipes.load(recipes.find(str(self.recipe)))


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Args:
        folder: Folder of the run, which holds the best model.
        steps: Optimiser steps that were taken.
        seconds: Training time.
        num_parameters: Number of weights that are trained.
        first_loss: Validation loss before the first step.
        best_loss: Lowest validation loss.
        best_step: Number of steps after which it was measured.
    """

    folder: Path
    steps: int
    seconds: float
    num_parameters: int
    first_loss: float
    best_loss: float
    best_step: int

    def to_json(self) -> dict[str, Any]:
        """The result as `cifm train --json` prints it."""
        return {
            "run": str(self.folder),
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "parameters": self.num_parameters,
            "first_loss": self.first_loss,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
        }
