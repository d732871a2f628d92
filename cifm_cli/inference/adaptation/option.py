"""The option `--adapt`: adapt a model to a slide or not, and what the provenance says about it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, get_args

from cifm_cli.errors import CifmError
from cifm_cli.inference.adaptation.adapt import Adapt, adapt_to_slide
from cifm_cli.report.terminal import progress

if TYPE_CHECKING:
    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.loaded_model import LoadedModel

logger = logging.getLogger(__name__)

NONE: Adapt = "none"
SLIDE: Adapt = "slide"


def check_adapt(adapt: str) -> None:
    """Refuse a word that is no kind of adaptation."""
    if adapt not in get_args(Adapt):
        raise CifmError(f"adapt: {adapt}", f"known are {', '.join(get_args(Adapt))}")


def can_adapt(model: LoadedModel) -> bool:
    """Whether anything in a model depends on the slide; nothing does with the objective `balanced_mse` of the paper."""
    return model.checkpoint.network.pooled is not None


def open_adapted(
    model: LoadedModel, slide: Slide, adapt: Adapt, seed: int, *, profiles_only: bool = False
) -> tuple[LoadedModel, Slide]:
    """Set the radius of a slide to that of a model, adapt the model to it where this is asked for, and log notes.

    Args:
        model: The model as trained.
        slide: The slide, with the radius that it was prepared for. All of its cells are used.
        adapt: `slide`, or `none` to use the model as trained. A model in which nothing depends on the slide is used as trained
            in both cases.
        seed: Seed of the cells that are hidden for practice.
        profiles_only: Fit only what embeddings depend on, see `adapt_to_slide`.

    Returns:
        The model for this slide, and the slide at the radius of the model.

    Raises:
        CifmError: Slide and model share no gene.
    """
    known = model.panel(slide).num_genes
    model.log_overlap(slide)
    fitted = slide.with_radius(model.checkpoint.recipe.data.radius_um)
    chosen = model
    if adapt == SLIDE and not can_adapt(model):
        logger.info("nothing to adapt in a model with the objective balanced_mse: it is used as trained")
    elif adapt == SLIDE:
        logger.info(f"adapting the model to {slide.name} ({slide.num_cells:,} cells)")
        with progress("adapting", None):
            chosen = adapt_to_slide(model, fitted, seed, profiles_only=profiles_only)
        new = chosen.panel(slide).num_genes - known
        if new:
            logger.info(
                f"{new} of the {slide.num_genes} genes are new to the model: they are inferred from this slide alone"
            )
    # Notes of the model that is used: after adaptation, it knows all genes of the slide.
    model.log_notes(chosen.slide_notes(slide))
    return chosen, fitted


def adaptation_facts(model: LoadedModel, adapt: Adapt, seed: int) -> dict[str, Any]:
    """Facts about the adaptation for the provenance of a result.

    Args:
        model: The model that made the result.
        adapt: What was asked for.
        seed: Seed of the cells that were hidden for practice.

    Returns:
        `adapt`, and `adaptation`: the seed and what the adaptation saw; None where the model was used as trained.
    """
    adaptation = model.adaptation
    return {"adapt": adapt, "adaptation": {"seed": seed, **adaptation.facts} if adaptation else None}
