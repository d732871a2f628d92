"""A tile with hidden cells, prepared for the network and for slide adaptation, and its prediction.

Letters: n cells of a tile, M hidden cells of its core, P genes that slide and model share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli.data.slide import log_normalise
from cifm_cli.inference.neighbourhood.blend import REACH_RADII, neighbour_means
from cifm_cli.inference.neighbourhood.visible_cells import VisibleCells
from cifm_cli.inference.network_features import NetworkFeatures
from cifm_cli.inference.poisson_average import average_poisson
from cifm_cli.inference.prediction import Prediction
from cifm_cli.model.masking import Mask, mask_tile, reach_um
from cifm_cli.model.precision import computing_in
from cifm_cli.model.surroundings import slide_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.data.tiles import Tile
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
    from cifm_cli.model.masking import MaskedTile
    from cifm_cli.model.output import Output


@dataclass(frozen=True)
class HiddenTile:
    """What the prediction of the hidden cells in the core of a tile reads; nothing of it depends on their counts."""

    masked: MaskedTile  # input of the network
    # neighbour means of the M cells, one for each radius of `neighbourhood.blend.RADII`; None without adaptation
    circles: Sequence[Prediction] | None = None


def halo_um(model: LoadedModel, slide: Slide) -> float:
    """Width of the halo of a tile: the reach of the network, and of the circles that adaptation reads."""
    network_um = reach_um(model.checkpoint.recipe, slide.radius_um)
    return max(network_um, REACH_RADII * slide.radius_um) if model.adaptation else network_um


def hide(model: LoadedModel, slide: Slide, tile: Tile, hidden: Rows) -> HiddenTile:
    """Hide cells of a tile.

    Args:
        model: The model.
        slide: The slide of the tile.
        tile: Core and halo.
        hidden: (n',) positions of the hidden cells in the tile; those in its core are inferred.

    Returns:
        The input of `predict_tile`.
    """
    parameters = model.slide_parameters(slide)
    masked = mask_tile(slide, tile, Mask(hidden), model.panel(slide), model.checkpoint.recipe, parameters)
    circles = circle_means(model, slide, tile, hidden, model.adaptation.stats) if model.adaptation else None
    return HiddenTile(masked, circles)


def circle_means(model: LoadedModel, slide: Slide, tile: Tile, hidden: Rows, stats: GeneStats) -> Sequence[Prediction]:
    """Average the visible cells of a tile around the hidden cells of its core.

    Args:
        model: Gives the genes.
        slide: The slide of the tile.
        tile: Core, and a halo of `REACH_RADII`.
        hidden: Positions of the hidden cells in the tile.
        stats: Statistics of the slide, for cells without visible neighbours.

    Returns:
        Means of M cells, one for each radius.
    """
    return neighbour_means(
        visible_cells(model, slide, tile, hidden, stats), tile.xy_um[np.intersect1d(hidden, tile.core)]
    )


def visible_cells(model: LoadedModel, slide: Slide, tile: Tile, hidden: Rows, stats: GeneStats) -> VisibleCells:
    """The visible cells of a tile, for neighbour means; see `circle_means`."""
    is_visible = np.ones(len(tile.rows), dtype=bool)
    is_visible[hidden] = False
    is_visible &= slide.total_counts[tile.rows] > 0  # void cells would count as neighbours that express nothing
    rows = tile.rows[is_visible]
    counts = model.panel(slide).select(slide.counts(rows))
    expression = log_normalise(counts, slide.total_counts[rows], model.checkpoint.recipe.data.target_sum)
    return VisibleCells(
        tile.xy_um[is_visible], expression, counts, stats, slide.radius_um, REACH_RADII * slide.radius_um
    )


def predict_tile(model: LoadedModel, tile: HiddenTile) -> Prediction:
    """Infer the hidden cells in the core of a tile.

    Args:
        model: The model.
        tile: From `hide`.

    Returns:
        Prediction of M cells.
    """
    output = run_network(model, tile.masked)
    prediction = Prediction.from_logits(output)
    if prediction.composition is None:
        return prediction
    if model.adaptation is not None and tile.circles is not None:
        return model.adaptation.refine(prediction, NetworkFeatures.of(output), tile.circles)
    return average_poisson(prediction, slide_of(tile.masked).expressed.numpy(force=True))


@torch.inference_mode()
def run_network(model: LoadedModel, tile: MaskedTile) -> Output:
    """Infer the masked cells in the core of a tile, without adaptation.

    Args:
        model: The model.
        tile: A masked tile, on any device.

    Returns:
        Output for M cells, on the device of the model.
    """
    with computing_in(model.precision, model.device):
        output: Output = model.checkpoint.network(model.backend, tile.to(model.device))
    return output


@torch.inference_mode()
def run_network_on_blends(model: LoadedModel, tiles: Sequence[MaskedTile]) -> list[Output]:
    """Infer tiles that differ only in the weights of the smoother in their parameters of the slide, see `run_network`."""
    with computing_in(model.precision, model.device):
        return model.checkpoint.network.infer_blends(model.backend, [tile.to(model.device) for tile in tiles])
