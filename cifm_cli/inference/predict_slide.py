"""Infer a whole slide cell by cell, each while it is hidden, or places where no cell was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli import provenance
from cifm_cli.data.prefetch import prefetch
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.errors import CifmError
from cifm_cli.inference.predict import add_places, predict_cells, run_network
from cifm_cli.inference.prediction import Prediction
from cifm_cli.model.masking import mask_tile, reach_um
from cifm_cli.report.terminal import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.data.tiles import Tile
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.model.masking import MaskedTile

_ROUNDS = 20  # 5 % of the cells are hidden at a time, as in training (paper, 2)


def infer_blocks(engine: LoadedModel, slide: Slide, seed: int) -> Iterator[tuple[Rows, Prediction]]:
    """Infer every cell from the cells around it: in each round a random twentieth is hidden and inferred.

    Args:
        engine: The model.
        slide: The slide, at the model's radius.
        seed: Of the order in which cells are hidden.

    Yields:
        Rows of the slide and their prediction, tile by tile: all rounds of a tile, then the next tile.

    Raises:
        CifmError: Slide and model share no gene.
    """
    recipe, everyone = engine.checkpoint.recipe, np.arange(slide.num_cells)
    order = provenance.numpy_generator(seed, "infer cells").permutation(slide.num_cells)
    turns = np.empty(slide.num_cells, dtype=np.int8)
    for number, part in enumerate(np.array_split(order, _ROUNDS)):
        turns[part] = number
    tiler = Tiler(slide.xy_um, everyone, reach_um(recipe, slide.radius_um))
    for core in chunks(everyone, recipe.data.tile_cells):
        tile = tiler.tile(core)
        yield core, _infer_tile(engine, slide.subset(tile.rows), tile, turns[tile.rows])


def _infer_tile(engine: LoadedModel, piece: Slide, tile: Tile, turns: NDArray[np.int8]) -> Prediction:
    """Infer the core of a tile, each cell in its turn, while all cells of that turn are hidden."""
    panel, recipe = engine.panel(piece), engine.checkpoint.recipe
    alone = replace(tile, rows=np.arange(len(tile.rows)))
    core_turns = turns[tile.core]

    def hide(number: int) -> MaskedTile:
        return mask_tile(piece, alone, np.flatnonzero(turns == number), panel, recipe)

    rounds = np.unique(core_turns).tolist()
    found = [Prediction.from_logits(run_network(engine, ready)) for ready in prefetch(hide, rounds)]
    in_turn = np.concatenate([np.flatnonzero(core_turns == number) for number in rounds])
    return Prediction.concatenate(found, np.argsort(in_turn))


def infer_places(
    engine: LoadedModel, slide: Slide, places_um: NDArray[np.float64], advance: Callable[[float], None] | None = None
) -> Prediction:
    """Infer what a cell would express at each of some places, one place not knowing of the other.

    Args:
        engine: The model.
        slide: The slide, at the model's radius.
        places_um: (Q, 2) micrometres.
        advance: Called with the number of places done.

    Returns:
        The prediction, in the order of `places_um`.

    Raises:
        CifmError: No place is near the tissue, or slide and model share no gene.
    """
    distance, _ = cKDTree(slide.xy_um).query(places_um)
    lonely = int((distance > slide.radius_um).sum())
    if lonely == len(places_um):
        raise CifmError(
            f"no cell of {slide.name} is within {slide.radius_um:g} um of any place",
            "places are micrometres in the slide's own coordinates, not pixels",
        )
    if lonely:
        warn(f"{lonely} of {len(places_um)} places have no cell within {slide.radius_um:g} um: little to infer from")
    larger, queries = add_places(slide, places_um)
    apart_um = engine.checkpoint.recipe.model.decoder_layers * slide.radius_um  # how far a masked cell is felt
    rounds = [queries[part] for part in far_apart(places_um, apart_um)]
    return _infer_in_rounds(engine, larger, np.arange(slide.num_cells), rounds, advance)


def far_apart(places_um: NDArray[np.float64], apart_um: float) -> list[Rows]:
    """Part places into rounds in which any two are farther apart than some distance, first come, first served.

    Args:
        places_um: (Q, 2) micrometres.
        apart_um: The distance in micrometres.

    Returns:
        Ascending positions of the places of each round.
    """
    near = cKDTree(places_um).query_ball_point(places_um, apart_um)
    rounds = np.full(len(places_um), -1)
    for place, others in enumerate(near):
        taken = set(rounds[others].tolist())
        rounds[place] = next(number for number in range(len(taken) + 1) if number not in taken)
    return [np.flatnonzero(rounds == number) for number in range(rounds.max() + 1)]


def _infer_in_rounds(
    engine: LoadedModel, slide: Slide, visible: Rows, rounds: Sequence[Rows], advance: Callable[[float], None] | None
) -> Prediction:
    """Infer the rows of each round while they alone are hidden; the prediction is in ascending order of rows."""
    found = [predict_cells(engine, slide, visible, rows, advance) for rows in rounds]
    return Prediction.concatenate(found, np.argsort(np.concatenate(rounds)))
