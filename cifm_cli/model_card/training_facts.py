"""What a model card says about the training of a model, from the files of its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifm_cli import recipe as recipes
from cifm_cli.model.checkpoint import MODEL_FILE, describe
from cifm_cli.path_text import file_name, path_from_text, printable
from cifm_cli.training.learning_curve import describe_progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class TrainingSlideFacts:
    """A slide that a model was trained on; None for what earlier versions did not store."""

    name: str
    platform: str | None = None
    tissue: str | None = None
    num_cells: int | None = None  # cells that were trained on
    num_genes: int | None = None


@dataclass(frozen=True)
class TrainingFacts:
    """The training of a model."""

    name: str  # name of the run
    version: str  # of cifm
    description: str  # of the recipe
    recipe: str  # the whole recipe as TOML
    slides: tuple[TrainingSlideFacts, ...]
    platforms: tuple[str, ...]
    num_genes: int  # of the vocabulary
    num_parameters: int
    seed: int | None
    init: str | None  # the run that the weights come from
    imported: bool = False  # whether it is the paper's public release, which cifm did not train
    steps: int | None = None
    best_loss: float | None = None  # lowest validation loss
    best_step: int | None = None


def read_training_facts(run: Path) -> TrainingFacts:
    """Read what a card says about a training.

    Args:
        run: Folder of the run.

    Returns:
        The facts.

    Raises:
        CifmError: The model is missing or damaged.
    """
    about = describe(run / MODEL_FILE)
    origin = about["provenance"]
    resolved = recipes.parse(about["recipe"], str(run / MODEL_FILE))
    progress = describe_progress(run).get("training", {})
    init = origin.get("init") or {}
    return TrainingFacts(
        name=printable(run.resolve().name),
        version=str(origin.get("cifm", "unknown")),
        description=resolved.description,
        recipe=recipes.to_toml(resolved),
        slides=_slides(origin),
        platforms=tuple(sorted({str(name) for name in origin.get("platforms", []) if name})),
        num_genes=about["genes"],
        num_parameters=about["parameters"]["total"],
        seed=origin.get("seed"),
        init=init.get("run"),
        imported=origin.get("command") == "import-release",
        steps=progress.get("steps"),
        best_loss=progress.get("best_loss"),
        best_step=progress.get("best_step"),
    )


def _slides(origin: Mapping[str, Any]) -> tuple[TrainingSlideFacts, ...]:
    """The slides in the provenance of a model; names alone in models of earlier versions."""
    stored = origin.get("training_slides")
    if not isinstance(stored, dict):
        return tuple(TrainingSlideFacts(file_name(path_from_text(path))) for path in origin.get("inputs", {}))
    return tuple(
        TrainingSlideFacts(
            name, facts.get("platform"), facts.get("tissue"), facts.get("training_cells"), facts.get("genes")
        )
        for name, facts in stored.items()
    )
