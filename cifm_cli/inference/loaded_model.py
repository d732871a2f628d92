"""A trained model on a device, with the backend that runs the edge part of its layers."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, get_args

import torch

import cifm_backends
from cifm_cli.data.slide import radius_notes
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.model.coexpression import measure_coexpression
from cifm_cli.model.growth import grow, restrict
from cifm_cli.model.vocabulary import (
    Panel,
    match_panel,
    overlap_facts,
    overlap_notes,
    panel_notes,
    union_vocabulary,
)
from cifm_cli.recipe_sections import Precision
from cifm_cli.storage.lock import SUFFIX, is_held

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_backends.base import Backend
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.adaptation.slide_adaptation import SlideAdaptation
    from cifm_cli.model.checkpoint import Checkpoint
    from cifm_cli.model.slide_parameters import SlideParameters

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for inference."""

    checkpoint: Checkpoint  # the model, its networks on `device`
    backend: Backend  # runs the edge part of the layers
    device: torch.device  # device of the networks
    precision: Precision = "float32"  # precision of matrix products
    adaptation: SlideAdaptation | None = None  # to one slide, the only one that the model is used on then
    _logged: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def fit_slide(self, slide: Slide) -> Slide:
        """Set the radius of a slide to that of the model, and log the notes of `slide_notes`, each once.

        Args:
            slide: The slide, with the radius that it was prepared for.

        Returns:
            The slide with the radius of the recipe, or unchanged if the recipe has none.

        Raises:
            CifmError: Slide and model share no gene.
        """
        self.log_notes(self.slide_notes(slide))
        return slide.with_radius(self.checkpoint.recipe.data.radius_um)

    def log_notes(self, notes: Sequence[str]) -> None:
        """Log warnings about a slide, each once, as a slide may be opened more than once in a command."""
        for note in notes:
            if note not in self._logged:
                self._logged.add(note)
                logger.warning(note)

    def copied_to(self, device: torch.device) -> LoadedModel:
        """A copy of the model on another device, with its adaptation."""
        network = copy.deepcopy(self.checkpoint.network).to(device)
        adaptation = self.adaptation
        if adaptation:
            adaptation = replace(adaptation, parameters=adaptation.parameters.to(device))
        return replace(self, checkpoint=replace(self.checkpoint, network=network), device=device, adaptation=adaptation)

    def slide_notes(self, slide: Slide) -> list[str]:
        """Warnings about a slide that differs from those the model was trained on.

        Args:
            slide: The slide, with the radius that it was prepared for.

        Returns:
            A warning if the model knows few of its genes, and those of `radius_notes`; may be empty.

        Raises:
            CifmError: Slide and model share no gene.
        """
        radius_um = self.checkpoint.recipe.data.radius_um
        return [*panel_notes(slide, self.panel(slide)), *radius_notes(slide, radius_um)]

    def panel(self, slide: Slide) -> Panel:
        """Find the genes that slide and model share.

        Raises:
            CifmError: They share none.
        """
        return match_panel(slide, self.checkpoint.vocabulary)

    def overlap_facts(self, slide: Slide) -> dict[str, int]:
        """Numbers of genes of a slide, of the model, and of both, for provenance."""
        return overlap_facts(slide, self.checkpoint.vocabulary)

    def log_overlap(self, slide: Slide) -> None:
        """Log the note of `overlap_notes`, once."""
        for note in overlap_notes(slide, self.checkpoint.vocabulary):
            if note not in self._logged:
                self._logged.add(note)
                logger.info(note)

    def with_genes(self, slide: Slide, rows: Rows | None = None) -> LoadedModel:
        """Add the genes of a slide that the model does not know, with weights derived from their co-expression.

        Args:
            slide: The slide; it may share no gene with the model, whose new genes are then predicted by the smoother alone.
            rows: (n,) ascending rows of the cells that may be read, without those that are to be predicted; None for all.

        Returns:
            A model that knows all genes of the slide and is unchanged for those that it knew; this one if it knew all.
        """
        checkpoint = self.checkpoint
        vocabulary = union_vocabulary([slide], checkpoint.vocabulary)
        if len(vocabulary) == len(checkpoint.vocabulary):
            return self
        coexpression = measure_coexpression(slide, checkpoint.vocabulary, checkpoint.recipe.data.target_sum, rows)
        grown = grow(checkpoint.network, checkpoint.recipe, checkpoint.vocabulary, vocabulary, [coexpression])
        sketches = tuple(sketch.with_vocabulary(len(vocabulary)) for sketch in checkpoint.sketches)
        readout = checkpoint.readout and checkpoint.readout.with_genes(vocabulary, coexpression)
        larger = replace(checkpoint, network=grown, vocabulary=vocabulary, sketches=sketches, readout=readout)
        return replace(self, checkpoint=larger)

    def without_other_genes(self, slide: Slide) -> LoadedModel:
        """Restrict the networks to the genes of `panel`, which are otherwise selected anew for every tile.

        Args:
            slide: The slide.

        Returns:
            A model for tiles of this slide alone; only its networks and its vocabulary are restricted.
        """
        checkpoint, genes = self.checkpoint, torch.from_numpy(self.panel(slide).vocabulary_rows)
        network = restrict(checkpoint.network, checkpoint.recipe, genes)
        vocabulary = tuple(checkpoint.vocabulary[row] for row in genes.tolist())
        return replace(self, checkpoint=replace(checkpoint, network=network, vocabulary=vocabulary))

    def slide_parameters(self, slide: Slide) -> SlideParameters | None:
        """What the head knows of a slide as a whole, for the genes of `panel`.

        Without adaptation it is that of the training slides together.

        Args:
            slide: The slide.

        Returns:
            Parameters on the device of the model, with the cell states whose probabilities it infers; None for the
            objective `balanced_mse`, which needs none.

        Raises:
            CifmError: Slide and model share no gene.
        """
        if self.adaptation:
            return self.adaptation.parameters
        pooled = self.checkpoint.network.pooled
        return pooled.parameters_of(torch.from_numpy(self.panel(slide).vocabulary_rows)) if pooled else None


def choose_device(name: str) -> torch.device:
    """Resolve `--device`.

    Args:
        name: `auto`, or a torch device such as `cpu`, `cuda` or `cuda:1`.

    Returns:
        The device; for `auto` the GPU if there is one.

    Raises:
        CifmError: The name is not a device, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        # A valid name may belong to a device that is absent, which torch notices at the first use.
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build of torch without CUDA raises AssertionError
        reason = str(error).strip().splitlines()[0]
        raise CifmError(f"--device {name}: {reason}", "use --device auto, or see `cifm doctor`") from error
    return device


def load_model(run: Path, backend: str = "auto", device: str = "auto", precision: Precision = "float32") -> LoadedModel:
    """Load the model of a run.

    Args:
        run: Folder that contains `model.safetensors`.
        backend: `auto` or the name of a registered backend.
        device: `auto` or a torch device.
        precision: Precision of matrix products.

    Returns:
        The model on its device.

    Raises:
        CifmError: The checkpoint cannot be used, or there is no such device or precision.
        BackendUnavailableError: The backend is unknown, or does not run on the device.
    """
    if precision not in get_args(Precision):
        raise CifmError(f"precision {precision!r}: unknown", f"known are {', '.join(get_args(Precision))}")
    # The device first: a mistyped name is reported before a large file is read.
    chosen = choose_device(device)
    checkpoint = load_checkpoint(run)
    if is_held(run / SUFFIX):
        logger.warning("%s: still training; this is its best model so far, which a better one may replace", run)
    # In place: the checkpoint holds the network on the device.
    checkpoint.network.to(chosen)
    return LoadedModel(checkpoint, cifm_backends.select(backend, chosen.type), chosen, precision)
