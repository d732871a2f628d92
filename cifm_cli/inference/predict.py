"""Infer the expression of cells, or of free places, from the visible cells around them.

Letters: Q queries, P genes that slide and model share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli.data.prefetch import prefetch
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.errors import CifmError
from cifm_cli.inference.prediction import Prediction
from cifm_cli.model.masking import mask_tile, reach_um
from cifm_cli.model.precision import computing_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.model.masking import MaskedTile
    from cifm_cli.model.output import Output


def estimator(engine: LoadedModel, form: str, threshold: float) -> Callable[[Prediction], NDArray[np.float32]]:
    """Choose a point estimate.

    Args:
        engine: The model.
        form: `mean`, `median` or `gated`.
        threshold: P(expressed) up to which `gated` says zero.

    Returns:
        From a prediction to its (Q, P) values.

    Raises:
        CifmError: The median is asked of a model that infers no mean.
    """
    recipe = engine.checkpoint.recipe
    if form == "median":
        if recipe.objective.name == "balanced_mse":  # Eq. 15 weighs each zero less, the more there are
            raise CifmError(
                "--form median: the model was trained with the objective balanced_mse, under which its magnitude is no "
                "mean, and a median does not follow from it",
                "ask for --form gated, or use a model with the objective residual",
            )
        return lambda found: found.median(recipe.data.target_sum)
    return (lambda found: found.gated(threshold).mean) if form == "gated" else (lambda found: found.mean)


def predict_cells(
    engine: LoadedModel, slide: Slide, visible: Rows, queries: Rows, advance: Callable[[float], None] | None = None
) -> Prediction:
    """Infer cells of a slide whose own counts are hidden.

    Args:
        engine: The model.
        slide: The slide, at the model's radius (`LoadedModel.fit_slide`).
        visible: Ascending rows the model may look at; queries among them are hidden nevertheless.
        queries: (Q,) rows to infer.
        advance: Called with the number of queries done.

    Returns:
        The prediction, in the order of `queries`; its genes are those of `engine.panel(slide)`.

    Raises:
        CifmError: Slide and model share no gene.
    """
    panel = engine.panel(slide)
    recipe = engine.checkpoint.recipe
    part, hidden = np.union1d(visible, queries), np.unique(queries)
    tiler = Tiler(slide.xy_um, part, reach_um(recipe, slide.radius_um))
    is_hidden = np.zeros(slide.num_cells, dtype=bool)
    is_hidden[hidden] = True

    def hide(core: Rows) -> tuple[Rows, MaskedTile]:
        tile = tiler.tile(core)
        return core, mask_tile(slide, tile, np.flatnonzero(is_hidden[tile.rows]), panel, recipe)

    cores = (stretch[is_hidden[stretch]] for stretch in chunks(part, recipe.data.tile_cells))
    parts = []
    for core, ready in prefetch(hide, filter(len, cores)):
        parts.append(Prediction.from_logits(run_network(engine, ready)))
        if advance:
            advance(len(core))
    if not parts:
        nothing = np.zeros((0, panel.num_genes), dtype=np.float32)
        return Prediction(nothing, nothing)
    return Prediction.concatenate(parts, np.searchsorted(hidden, queries))  # tiles come in ascending order of rows


@torch.inference_mode()
def run_network(engine: LoadedModel, tile: MaskedTile) -> Output:
    """Infer the masked cells of the core of a tile.

    Args:
        engine: The model.
        tile: What it may look at.

    Returns:
        What the head says of M cells.
    """
    with computing_in(engine.precision, engine.device):
        output: Output = engine.checkpoint.network(engine.backend, tile.to(engine.device))
    return output


def add_places(slide: Slide, places_um: NDArray[np.float64]) -> tuple[Slide, Rows]:
    """Append free places to a slide, to be inferred as if a masked cell stood there.

    Args:
        slide: Any slide.
        places_um: (Q, 2) micrometres.

    Returns:
        The larger slide, and the rows of the places. They have no counts: only ask for them as queries.
    """
    rows = np.arange(slide.num_cells, slide.num_cells + len(places_um))
    larger = replace(
        slide,
        xy_um=np.concatenate([slide.xy_um, places_um]),
        total_counts=np.concatenate([slide.total_counts, np.zeros(len(places_um))]),
        split=np.concatenate([slide.split, np.zeros(len(places_um), dtype=np.int8)]),
    )
    return larger, rows
