"""Settings and result of a training run."""

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
    """Settings of a training run."""

    recipe: Recipe | Path | str  # a recipe, the path of one, or the name of a shipped one
    slides: Sequence[Path]  # prepared slides. Empty for a resumed run: the slides that it was started with.
    folder: Path  # folder of the run
    resume: bool = False  # whether to continue the run in `folder`
    init: Path | None = None  # folder of a run whose weights and vocabulary to start from
    backend: str = "auto"  # `auto` or the name of a backend
    device: str = "auto"  # `auto` or a torch device
    seed: int | None = None  # seed of every random draw. None: 0, or the seed of the resumed run.
    latest: Path | None = None  # symbolic link that is pointed at the run once it is open
    # number of processes on each machine. None: one, or those that torchrun or srun have started.
    devices: int | None = None
    nodes: int = 1  # number of machines
    single_process: bool = False  # whether this process trains alone, whatever torchrun or srun have set

    def load_recipe(self) -> Recipe:
        """The recipe, read from its file where a path or a name is given.

        Raises:
            CifmError: There is no such recipe, or it has mistakes.
        """
        return self.recipe if isinstance(self.recipe, Recipe) else recipes.load(recipes.find(str(self.recipe)))


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    folder: Path  # folder of the run, which holds the best model
    steps: int  # optimiser steps that were taken
    seconds: float  # training time
    num_parameters: int  # number of weights that are trained
    first_loss: float  # validation loss before the first step
    best_loss: float  # lowest validation loss
    best_step: int  # number of steps after which it was measured

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
