"""Infer every cell of a slide while it is hidden, or locations where no cell was measured."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli import provenance
from cifm_cli.data.prefetch import prefetch
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.errors import CifmError
from cifm_cli.inference.hidden_tile import halo_um, hide, predict_tile
from cifm_cli.inference.predict import add_locations, predict_cells
from cifm_cli.inference.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.data.tiles import Tile
    from cifm_cli.inference.hidden_tile import HiddenTile
    from cifm_cli.inference.loaded_model import LoadedModel

logger = logging.getLogger(__name__)

_ROUNDS = 20  # 5 % of the cells are hidden at a time, as in training (paper, 2)


def predict_blocks(model: LoadedModel, slide: Slide, seed: int) -> Iterator[tuple[Rows, Prediction]]:
    """Infer every cell from the cells around it. In each of 20 rounds, a random 5 % of the cells is hidden.

    Args:
        model: The model.
        slide: The slide, at the radius of the model (`LoadedModel.fit_slide`).
        seed: Seed of the order in which cells are hidden.

    Yields:
        Rows of the core of a tile and their prediction. All rounds of a tile are done before the next tile, so that
        only the counts of one tile are in memory.

    Raises:
        CifmError: Slide and model share no gene.
    """
    rows = np.arange(slide.num_cells)
    order = provenance.numpy_generator(seed, "infer cells").permutation(slide.num_cells)
    # Rounds are drawn over the whole slide, not tile by tile, so a cell in two tiles is hidden in the same round.
    round_of = np.empty(slide.num_cells, dtype=np.int8)
    for number, hidden in enumerate(np.array_split(order, _ROUNDS)):
        round_of[hidden] = number
    tiler = Tiler(slide.xy_um, rows, halo_um(model, slide))
    for core in chunks(rows, model.checkpoint.recipe.data.tile_cells):
        tile = tiler.tile(core)
        yield core, _predict_tile(model, slide.subset(tile.rows), tile, round_of[tile.rows])


def _predict_tile(model: LoadedModel, cut: Slide, tile: Tile, round_of: NDArray[np.int8]) -> Prediction:
    """Infer the core of a tile, each cell in its round, in which all other cells of that round are hidden too.

    Args:
        model: The model.
        cut: The cells of the tile as a slide.
        tile: The tile in the whole slide.
        round_of: (n,) round of each cell of the tile.

    Returns:
        The prediction, in the order of the core.
    """
    # The counts of a tile are read once and used in all its rounds.
    tile_of_cut = replace(tile, rows=np.arange(len(tile.rows)))
    core_rounds = round_of[tile.core]

    def prepare(number: int) -> HiddenTile:
        """Hide the cells of one round."""
        return hide(model, cut, tile_of_cut, np.flatnonzero(round_of == number))

    rounds = np.unique(core_rounds).tolist()
    predictions = [predict_tile(model, hidden) for hidden in prefetch(prepare, rounds)]
    by_round = np.concatenate([np.flatnonzero(core_rounds == number) for number in rounds])
    return Prediction.concatenate(predictions, np.argsort(by_round))


def predict_locations(
    model: LoadedModel, slide: Slide, locations_um: NDArray[np.float64], advance: Callable[[float], None] | None = None
) -> Prediction:
    """Infer the expression of a cell at each of some locations. No location has an effect on another.

    Args:
        model: The model.
        slide: The slide, at the radius of the model (`LoadedModel.fit_slide`).
        locations_um: (Q, 2) locations in micrometres.
        advance: Called with the number of locations done.

    Returns:
        The prediction, in the order of `locations_um`. A warning is logged if locations have no cell within the radius.

    Raises:
        CifmError: No location is near the tissue, or slide and model share no gene.
    """
    far = find_far(slide, locations_um)
    if len(far):
        message = "%d of %d locations have no cell within %g um, such as %g,%g: little to infer from"
        logger.warning(message, len(far), len(locations_um), slide.radius_um, *locations_um[far[0]])
    larger, queries = add_locations(slide, locations_um)
    visible = np.arange(slide.num_cells)
    # A masked cell sends messages in the decoder only, so queries that are farther apart than its layers reach have no
    # effect on each other and can share a round.
    apart_um = model.checkpoint.recipe.model.decoder_layers * slide.radius_um
    rounds = [queries[indices] for indices in split_far_apart(locations_um, apart_um)]
    predictions = [predict_cells(model, larger, visible, rows, advance) for rows in rounds]
    return Prediction.concatenate(predictions, np.argsort(np.concatenate(rounds)))


def find_far(slide: Slide, locations_um: NDArray[np.float64]) -> Rows:
    """Find locations that have no cell of a slide within its radius.

    Args:
        slide: The slide.
        locations_um: (Q, 2) locations in micrometres.

    Returns:
        Their ascending indices.

    Raises:
        CifmError: No location is near the tissue.
    """
    # Coordinates in pixels or of another slide would otherwise give plausible predictions from no neighbour.
    distance_um, _ = cKDTree(slide.xy_um).query(locations_um)
    far: Rows = np.flatnonzero(distance_um > slide.radius_um)
    if len(far) == len(locations_um):
        raise CifmError(
            f"no cell of {slide.name} is within {slide.radius_um:g} um of any location",
            "locations are micrometres in the slide's own coordinates, not pixels",
        )
    return far


def split_far_apart(locations_um: NDArray[np.float64], apart_um: float) -> list[Rows]:
    """Split locations into rounds such that any two of a round are farther apart than a given distance.

    The split is greedy: each location goes into the first round without a location near it.

    Args:
        locations_um: (Q, 2) locations in micrometres.
        apart_um: The distance in micrometres.

    Returns:
        For each round, the ascending indices of its locations.
    """
    neighbours = cKDTree(locations_um).query_ball_point(locations_um, apart_um)
    rounds = np.full(len(locations_um), -1)
    for location, near in enumerate(neighbours):
        taken = set(rounds[near].tolist())
        # There is one candidate more than there are taken rounds, so at least one is free.
        rounds[location] = next(number for number in range(len(taken) + 1) if number not in taken)
    return [np.flatnonzero(rounds == number) for number in range(rounds.max() + 1)]
