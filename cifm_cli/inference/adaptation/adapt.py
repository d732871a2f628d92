"""Adapt a model to a whole slide, in closed form and without gradient steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cifm_cli import keys
from cifm_cli.data.tiles import chunks
from cifm_cli.inference.adaptation.fit import AdaptationData, adapt_profiles, fit_adaptation
from cifm_cli.inference.adaptation.practice import PracticeFold
from cifm_cli.model.recognition import is_new
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel

Adapt = Literal["none", "slide"]
NUM_FOLDS = 10  # 10 % of the cells are hidden at a time
MAX_PRACTICE_CELLS = 10_000  # hidden cells that are predicted, tuning cells included
MAX_PRACTICE_VALUES = 15_000_000  # such cells times genes, which are in memory together
PIECE_CELLS = 2_048  # consecutive cells, of which some pieces are practised on, on a large slide
TUNING_PART = 0.2  # part of the cells that is tuned on where the slide has no validation region
MIN_TUNING_CELLS = 50  # in a validation region; a smaller one is not used
MIN_CELLS = 50  # with counts; a smaller slide has too few to practise on


def adapt_to_slide(model: LoadedModel, slide: Slide, seed: int, *, profiles_only: bool = False) -> LoadedModel:
    """Adapt a model to a slide, from all of its cells that have counts.

    Args:
        model: A model with the objective `residual`.
        slide: The slide, at the radius of the model (`LoadedModel.fit_slide`).
        seed: Seed of the cells that are hidden for practice.
        profiles_only: Fit what an embedding depends on, the mean expression of the slide, and nothing to predict with.

    Returns:
        The model with what is specific to the slide; it knows all genes of the slide.
    """
    rows = np.flatnonzero(slide.total_counts > 0)
    if profiles_only or len(rows) < MIN_CELLS:
        return adapt_profiles(model, slide, rows, seed)
    return fit_adaptation(model, slide, _practise(slide, rows, seed, new=is_new(slide, rows, model.checkpoint)))


def _practise(slide: Slide, rows: Rows, seed: int, *, new: bool) -> AdaptationData:
    """Choose the cells that are hidden for practice; void cells play no part, and so change nothing."""
    generator = numpy_generator(seed, "practice cells")
    tuning_rows = _tuning_rows(slide, rows, generator)
    groups = [np.sort(group) for group in np.array_split(generator.permutation(rows), NUM_FOLDS)]
    max_cells = min(MAX_PRACTICE_CELLS, max(1, MAX_PRACTICE_VALUES // slide.num_genes))
    # On a large slide, evenly spaced pieces of the tissue with enough hidden cells of one fold
    step = max(1, len(groups[0]) // max_cells)
    predicted = np.concatenate(list(chunks(rows, PIECE_CELLS))[::step])
    practice: list[PracticeFold] = []
    tuning: list[PracticeFold] = []
    left = max_cells
    for hidden in groups:
        queries = np.intersect1d(hidden, predicted, assume_unique=True)
        if len(queries) > left:
            queries = np.sort(generator.choice(queries, size=left, replace=False))
        left -= len(queries)
        visible = np.setdiff1d(rows, hidden, assume_unique=True)
        is_tuned_on = np.isin(queries, tuning_rows, assume_unique=True)
        for folds, chosen in ((practice, ~is_tuned_on), (tuning, is_tuned_on)):
            if chosen.any():
                folds.append(PracticeFold(visible, hidden, queries[chosen]))
        if not left:
            break
    return AdaptationData(rows, practice, tuning, seed, new)


def _tuning_rows(slide: Slide, rows: Rows, generator: np.random.Generator) -> Rows:
    """Ascending rows that are tuned on: the validation region, or random ones where it is too small or nearly all."""
    validation = np.intersect1d(rows, slide.region(keys.VALIDATION))
    if min(len(validation), len(rows) - len(validation)) >= MIN_TUNING_CELLS:
        return validation
    return np.sort(generator.choice(rows, size=max(1, round(TUNING_PART * len(rows))), replace=False))
