"""Adaptation of models to a slide under evaluation, from the cells that baselines learn from as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.inference.adaptation.fit import AdaptationData, adapt_profiles, fit_adaptation
from cifm_cli.inference.adaptation.practice import PracticeFold
from cifm_cli.model.recognition import is_new

if TYPE_CHECKING:
    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.dataset import EvaluationDataset
    from cifm_cli.evaluation.folds import Fold
    from cifm_cli.inference.loaded_model import LoadedModel


def adapted_model(name: str, model: LoadedModel, dataset: EvaluationDataset, fold: Fold) -> LoadedModel:
    """The model adapted to a slide, for a fold; nothing in it depends on the hidden or withheld cells of the fold.

    Args:
        name: Name of the model in the evaluation.
        model: The model, with the objective `residual`.
        dataset: The slide.
        fold: The fold. Where no scored cell is a training or tuning cell, all folds share one adaptation per geometry.

    Returns:
        The adapted model.
    """
    shared = dataset.shares_adaptation(fold)
    key = (name, fold.geometry if shared else fold)
    if key not in dataset.adapted_models:
        if not shared:  # it serves a single fold
            for old in [old for old in dataset.adapted_models if not isinstance(old[1], str)]:
                del dataset.adapted_models[old]
        slide = dataset.slide_at(model.checkpoint.recipe.data.radius_um)
        rows, practice = dataset.practice_folds(fold)
        if practice:
            hidden = _hidden_cells(fold, shared=shared)
            tuning, new = _tuning_folds(dataset, fold.geometry, hidden), is_new(slide, rows, model.checkpoint)
            data = AdaptationData(rows, practice, tuning, dataset.seed, new)
            adapted = fit_adaptation(model, slide, data)
        else:  # the whole training region is hidden; baselines then have the statistics of the visible cells, too
            adapted = adapt_profiles(model, slide, rows if len(rows) else fold.visible, dataset.seed)
        dataset.adapted_models[key] = adapted
    return dataset.adapted_models[key]


def _hidden_cells(fold: Fold, *, shared: bool) -> Rows:
    """The cells that an adaptation may not read for a fold.

    A shared one reads no scored cell anyway. Of the folds that are tuned on, all cells serve it, whichever fold is the first.
    """
    if shared:
        return fold.hidden[:0]
    return fold.hidden if fold.withheld is None else np.union1d(fold.hidden, fold.withheld)


def _tuning_folds(dataset: EvaluationDataset, geometry: str, hidden: Rows) -> list[PracticeFold]:
    """The folds that weights and penalties are chosen on, without some cells."""
    found = []
    for each in dataset.plans[geometry].adaptation if geometry in dataset.plans else ():
        visible = np.setdiff1d(each.visible, hidden, assume_unique=True)
        own = np.setdiff1d(each.hidden, hidden, assume_unique=True)
        if len(own) and (dataset.slide.total_counts[visible] > 0).any():
            found.append(PracticeFold(visible, own, own))
    return found
