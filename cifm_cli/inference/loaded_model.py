"""A trained model placed on a device, with the backend that runs its edges."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

import cifm_backends
from cifm_cli.data.slide import radius_notes
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.model.vocabulary import Panel, match_panel, warn_of_few_shared

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_backends.base import Backend
    from cifm_cli.data.slide import Slide
    from cifm_cli.model.checkpoint import Checkpoint
    from cifm_cli.model.states import CellStates
    from cifm_cli.recipe_sections import Precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """Everything inference needs.

    Args:
        checkpoint: The model.
        backend: Runs the edge part.
        device: Where the network is.
        precision: Of matrix products.
    """

    checkpoint: Checkpoint
    backend: Backend
    device: torch.device
    precision: Precision = "float32"

    def fit_slide(self, slide: Slide) -> Slide:
        """The slide with the radius the model was trained at, where its recipe names one; warns of a poor fit.

        Raises:
            CifmError: Slide and model share no gene.
        """
        warn_of_few_shared(slide, self.panel(slide))
        radius_um = self.checkpoint.recipe.data.radius_um
        for note in radius_notes(slide, radius_um):
            logger.warning(note)
        return slide.with_radius(radius_um)

    @property
    def cell_states(self) -> CellStates | None:
        """Cell states that the model knows; None if it infers none."""
        return self.checkpoint.network.cell_states

    def panel(self, slide: Slide) -> Panel:
        """Genes that slide and model share.

        Raises:
            CifmError: They share none.
        """
        return match_panel(slide, self.checkpoint.vocabulary)


def choose_device(name: str) -> torch.device:
    """Resolve `--device`.

    Args:
        name: `auto`, or a torch device such as `cpu`, `cuda` or `cuda:1`.

    Returns:
        The device.

    Raises:
        CifmError: It is not a device, or this machine has none of it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        reason = str(error).strip().splitlines()[0]
        raise CifmError(f"--device {name}: {reason}", "use --device auto, or see `cifm doctor`") from error
    return device


def load_model(run: Path, backend: str = "auto", device: str = "auto", precision: Precision = "float32") -> LoadedModel:
    """Load a run's model.

    Args:
        run: Folder with `model.safetensors`.
        backend: `auto` or a registered name.
        device: `auto` or a torch device.
        precision: Of matrix products.

    Returns:
        The engine.

    Raises:
        CifmError: The checkpoint can't be used, or there is no such device.
        BackendUnavailableError: There is no such backend here.
    """
    place = choose_device(device)
    checkpoint = load_checkpoint(run)
    checkpoint.network.to(place)
    return LoadedModel(checkpoint, cifm_backends.select(backend, place.type), place, precision)
