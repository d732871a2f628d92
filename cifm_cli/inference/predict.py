"""Infer the expression of masked cells, or at free locations, from the visible cells around them.

Letters: Q queries, P genes that slide and model share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.data.prefetch import prefetch
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.errors import CifmError
from cifm_cli.inference.hidden_tile import halo_um, hide, predict_tile
from cifm_cli.inference.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.hidden_tile import HiddenTile
    from cifm_cli.inference.loaded_model import LoadedModel

FORMS = ("mean", "median", "gated")
"""Point estimates of a prediction; `point_estimate` defines them."""


def point_estimate(model: LoadedModel, form: str, threshold: float) -> Callable[[Prediction], NDArray[np.float32]]:
    """Choose the point estimate that is reported of a prediction.

    Args:
        model: The model.
        form: `mean`, `median` or `gated`.
        threshold: P(expressed) up to which the form `gated` is zero.

    Returns:
        A function from a prediction to its (Q, P) values.

    Raises:
        CifmError: There is no such form; the threshold is no probability; or the form is `median`, and the objective of the model does not predict a mean.
    """
    if form not in FORMS:
        raise CifmError(f"form: {form}", f"known are {', '.join(FORMS)}")
    if not 0 <= threshold <= 1:
        raise CifmError(f"threshold: {threshold:g}", "give a probability, from 0 to 1")
    recipe = model.checkpoint.recipe
    if form == "median":
        # Eq. 15 divides the error of zeros by their number, so its minimum is not the conditional mean.
        if recipe.objective.name == "balanced_mse":
            raise CifmError(
                "--form median: the model was trained with the objective balanced_mse, under which its magnitude is no "
                "mean, and a median does not follow from it",
                "ask for --form gated, or use a model with the objective residual",
            )
        return lambda prediction: prediction.median(recipe.data.target_sum)
    if form == "gated":
        return lambda prediction: prediction.gated(threshold).mean
    return lambda prediction: prediction.mean


def predict_cells(
    model: LoadedModel, slide: Slide, visible: Rows, queries: Rows, advance: Callable[[float], None] | None = None
) -> Prediction:
    """Infer cells of a slide whose own counts are hidden.

    Args:
        model: The model.
        slide: The slide, at the radius of the model (`LoadedModel.fit_slide`).
        visible: Ascending rows of the visible cells. Queries among them are hidden all the same.
        queries: (Q,) rows to infer.
        advance: Called after each tile with the number of queries in it.

    Returns:
        The prediction, in the order of `queries`. Its genes are those of `model.panel(slide)`.

    Raises:
        CifmError: Slide and model share no gene.
    """
    num_genes, recipe = model.panel(slide).num_genes, model.checkpoint.recipe
    # Queries such as free locations may be absent from `visible`, so tiles cover both.
    rows, hidden = np.union1d(visible, queries), np.unique(queries)
    tiler = Tiler(slide.xy_um, rows, halo_um(model, slide))
    is_hidden = np.zeros(slide.num_cells, dtype=bool)
    is_hidden[hidden] = True

    def prepare(core: Rows) -> tuple[Rows, HiddenTile]:
        """Read the tile around one core, and hide its cells."""
        tile = tiler.tile(core)
        return core, hide(model, slide, tile, np.flatnonzero(is_hidden[tile.rows]))

    # A core holds hidden cells only; chunks without hidden cells are skipped.
    cores = (chunk[is_hidden[chunk]] for chunk in chunks(rows, recipe.data.tile_cells))
    predictions = []
    for core, tile in prefetch(prepare, filter(len, cores)):
        predictions.append(predict_tile(model, tile))
        if advance:
            advance(len(core))
    if not predictions:
        empty = np.zeros((0, num_genes), dtype=np.float32)
        return Prediction(empty, empty)
    # The cores, and so the predictions, are in ascending order of rows.
    return Prediction.concatenate(predictions, np.searchsorted(hidden, queries))


def add_locations(slide: Slide, locations_um: NDArray[np.float64]) -> tuple[Slide, Rows]:
    """Append free locations to a slide, so that they can be inferred like masked cells.

    Args:
        slide: The slide.
        locations_um: (Q, 2) locations in micrometres.

    Returns:
        The larger slide, and the (Q,) rows of the locations. They have no counts and must not be visible.
    """
    rows = np.arange(slide.num_cells, slide.num_cells + len(locations_um))
    larger = replace(
        slide,
        xy_um=np.concatenate([slide.xy_um, locations_um]),
        total_counts=np.concatenate([slide.total_counts, np.zeros(len(locations_um))]),
        # The region of a location is never read; the array must only have the length of the slide.
        split=np.concatenate([slide.split, np.zeros(len(locations_um), dtype=np.int8)]),
    )
    return larger, rows
