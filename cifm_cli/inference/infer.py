"""Infer a whole slide cell by cell, each while it is hidden, or places where no cell was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli import provenance
from cifm_cli.errors import CifmError
from cifm_cli.inference.predict import add_places, predict_cells
from cifm_cli.report.terminal import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.engine import Engine
    from cifm_cli.inference.predict import Prediction

_ROUNDS = 20  # 5 % of the cells are hidden at a time, as in training (paper, 2)


def infer_cells(engine: Engine, slide: Slide, seed: int, advance: Callable[[float], None] | None = None) -> Prediction:
    """Infer every cell from the cells around it: in each round a random twentieth is hidden and inferred.

    Args:
        engine: The model.
        slide: The slide, at the model's radius.
        seed: Of the order in which cells are hidden.
        advance: Called with the number of cells done.

    Returns:
        The prediction, all cells in the order of the slide.

    Raises:
        CifmError: Slide and model share no gene.
    """
    order = provenance.numpy_generator(seed, "infer cells").permutation(slide.num_cells)
    rounds = [np.sort(part) for part in np.array_split(order, _ROUNDS)]
    return _infer_in_rounds(engine, slide, np.arange(slide.num_cells), rounds, advance)


def infer_places(
    engine: Engine, slide: Slide, places_um: NDArray[np.float64], advance: Callable[[float], None] | None = None
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
    engine: Engine, slide: Slide, visible: Rows, rounds: Sequence[Rows], advance: Callable[[float], None] | None
) -> Prediction:
    """Infer the rows of each round while they alone are hidden; the prediction is in ascending order of rows."""
    found = [predict_cells(engine, slide, visible, rows, advance) for rows in rounds]
    back = np.argsort(np.concatenate(rounds))
    return replace(
        found[0],
        mean=np.concatenate([one.mean for one in found])[back],
        expressed=np.concatenate([one.expressed for one in found])[back],
    )
