"""What a training would do, found out before it starts: for `cifm train --dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

import cifm_backends
from cifm_cli import keys
from cifm_cli.inference.loaded_model import choose_device
from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.training.corpus import Corpus
from cifm_cli.training.memory import require_memory
from cifm_cli.training.session import check_folder

if TYPE_CHECKING:
    from cifm_cli.training.config import TrainConfig


def describe_plan(config: TrainConfig) -> dict[str, Any]:
    """Make all checks of a new training, and describe it; nothing is written.

    Args:
        config: Settings of the run.

    Returns:
        Numbers of cells of each slide that are trained and validated on, the numbers of genes and of parameters, when the
        training ends, and where it would run and be written.

    Raises:
        CifmError: As for `train`.
        BackendUnavailableError: The backend is not available here.
    """
    recipe, device = config.load_recipe(), choose_device(config.device)
    check_folder(config, recipe)
    backend = cifm_backends.select(config.backend, device.type)
    known = load_checkpoint(config.init).vocabulary if config.init else ()
    corpus = Corpus(config.slides, recipe, None, config.seed or 0, known)
    require_memory(len(corpus.vocabulary), recipe, device)
    with torch.device("meta"):  # tensors with a shape and no memory
        network = Ensemble(len(corpus.vocabulary), recipe)
    num_trained = {each.slide.name: len(each.tilers[keys.TRAIN].rows) for each in corpus.slides}
    num_validated = {each.slide.name: len(each.tilers[keys.VALIDATION].rows) for each in corpus.validation_slides}
    return {
        "train_cells": num_trained,
        "validation_cells": num_validated,
        "genes": len(corpus.vocabulary),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "ends_after": {
            "steps": recipe.train.steps,
            "minutes": recipe.train.max_minutes,
            "validations_without_progress": recipe.train.patience,
        },
        "tiles_per_step": recipe.train.tiles_per_step,
        "cells_per_tile": recipe.data.tile_cells,
        "validate_every": recipe.train.validate_every,
        "backend": f"{backend.name} ({backend.version()})",
        "device": str(device),
        "folder": str(config.folder),
    }
