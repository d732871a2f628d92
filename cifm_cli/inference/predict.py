"""Infer the expression of cells, or of free places, from the visible cells around them.

Letters: Q queries, P genes that slide and model share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.model.masking import mask_tile, reach_um

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.engine import Engine
    from cifm_cli.model.vocabulary import Panel


@dataclass(frozen=True)
class Prediction:
    """What the model infers.

    Args:
        panel: Which genes; `panel.columns` are columns of the slide.
        mean: (Q, P) float32 log-normalised expression, not negative.
        expressed: (Q, P) float32 P(expressed).
    """

    panel: Panel
    mean: NDArray[np.float32]
    expressed: NDArray[np.float32]

    def gated(self, threshold: float) -> NDArray[np.float32]:
        """The mean, zero where P(expressed) is at most `threshold`."""
        return np.where(self.expressed > threshold, self.mean, np.float32(0))


def predict_cells(
    engine: Engine, slide: Slide, visible: Rows, queries: Rows, advance: Callable[[float], None] | None = None
) -> Prediction:
    """Infer cells of a slide whose own counts are hidden.

    Args:
        engine: The model.
        slide: The slide, at the model's radius (`Engine.fit_slide`).
        visible: Ascending rows the model may look at; queries among them are hidden nevertheless.
        queries: (Q,) rows to infer.
        advance: Called with the number of queries done.

    Returns:
        The prediction, in the order of `queries`.

    Raises:
        CifmError: Slide and model share no gene.
    """
    panel = engine.panel(slide)
    recipe = engine.checkpoint.recipe
    part, hidden = np.union1d(visible, queries), np.unique(queries)
    tiler = Tiler(slide.xy_um, part, reach_um(recipe, slide.radius_um))
    mean = np.zeros((len(hidden), panel.num_genes), dtype=np.float32)
    expressed = np.zeros_like(mean)
    for stretch in chunks(part, recipe.data.tile_cells):
        core = np.intersect1d(stretch, hidden, assume_unique=True)
        if not len(core):
            continue
        tile = tiler.tile(core)
        masked = np.flatnonzero(np.isin(tile.rows, hidden, assume_unique=True))
        ready = mask_tile(slide, tile, masked, panel, recipe).to(engine.device)
        with torch.inference_mode():
            output = engine.checkpoint.network(engine.backend, ready)
        position = np.searchsorted(hidden, core)
        mean[position] = output.magnitude.clamp(min=0).cpu().numpy()
        expressed[position] = output.logit.sigmoid().cpu().numpy()
        if advance:
            advance(len(core))
    asked = np.searchsorted(hidden, queries)
    return Prediction(panel, mean[asked], expressed[asked])


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
