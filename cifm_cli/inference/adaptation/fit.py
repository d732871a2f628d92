"""Fit of a slide adaptation, in closed form.

1. Profiles, cell states and the blends of the smoother are those of the slide (`SlideParameters`). A slide that the model was
   trained on keeps the states of its training, and the blends too if it was the only one.
2. The base prediction mixes the slide's profile, wide means, a blend of neighbour means, the smoother and the network, see
   `weights`.
3. A ridge regression predicts its errors from the neighbour means and the features of the network. With the blend alone, this
   is the baseline `ridge` fitted to the slide; with a high penalty it is the base prediction.
4. P(expressed) and composition of rare genes are shrunk towards their usual values, see `rare_genes`.
5. The probabilities of the cell states are recalibrated.

Where most tuning cells are cells of the training, steps 2 to 5 are left out.

Weights and penalties are chosen on tuning cells, which are in none of the fits. On a slide that is new to the network, they are
also chosen by cross-fitting: each half of the practice cells is predicted by what was fitted to the other (only one half, where
there are many). On a slide of its training this would favour the network, which has learned the practice cells; if there are few
tuning cells, penalties are also compared by cross-fitting without the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cifm_cli.inference.adaptation.choice import MAX_CROSS_VALIDATED, HeldOut, choose
from cifm_cli.inference.adaptation.fit_rare_genes import fit_rare
from cifm_cli.inference.adaptation.practice import practice_tiles, stats_of
from cifm_cli.inference.adaptation.rare_genes import RareWeights
from cifm_cli.inference.adaptation.regression import Predicted, choose_blend, fit_regression
from cifm_cli.inference.adaptation.slide_adaptation import OUTPUTS, Refinement, SlideAdaptation
from cifm_cli.inference.adaptation.state_pool import fit_state_pool, is_pool_better, pool_inputs
from cifm_cli.inference.hidden_tile import run_network_on_blends
from cifm_cli.inference.neighbourhood.blend import BlendSums
from cifm_cli.inference.network_features import NetworkFeatures
from cifm_cli.inference.poisson_average import average_poisson
from cifm_cli.inference.prediction import Prediction
from cifm_cli.model.gene_profiles import sum_genes
from cifm_cli.model.recognition import trained_fraction, trained_states, trained_weights
from cifm_cli.model.slide_fit import NUM_POOL_TILES, fit_slide_parameters
from cifm_cli.model.slide_parameters import start_parameters
from cifm_cli.model.states import count_states, fit_states, nearest_state
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.adaptation.practice import PracticeFold, PracticeTile
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.neighbourhood.blend import FittedBlend
    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
    from cifm_cli.model.gene_profiles import GeneTotals
    from cifm_cli.model.slide_parameters import SlideParameters

MAX_STATE_CELLS = 20_000  # cells that are clustered into cell states
MAX_TRAINED = 0.5  # part of the tuning cells that may have been trained on; with more, the network is used as it is
MANY_CELLS = 4_000  # practice cells; with so many, one half is enough to choose on


@dataclass(frozen=True)
class AdaptationData:
    """The cells that a slide is adapted by."""

    rows: Rows  # ascending rows that profiles, states and practice use
    practice: Sequence[PracticeFold]  # folds of them that the regressions are fitted to
    tuning: Sequence[PracticeFold]  # folds of other cells, on which weights and penalties are chosen
    seed: int  # of the cell states
    is_new: bool = False  # whether the network has not been trained on any of the cells

    @property
    def tuning_rows(self) -> Rows:
        """Ascending rows of the cells that are tuned on."""
        return np.unique(np.concatenate([fold.queries for fold in self.tuning] or [self.rows[:0]]))


class _Part(NamedTuple):
    """What is fitted to some practice cells, with other cells to choose on."""

    fitted: Sequence[PracticeTile]
    held_out: Sequence[PracticeTile]
    with_network: bool = True  # False where the network was trained on the held-out cells


def fit_adaptation(model: LoadedModel, slide: Slide, data: AdaptationData) -> LoadedModel:
    """Adapt a model to a slide.

    Args:
        model: A model with the objective `residual`.
        slide: The slide, at the radius of the model.
        data: The cells to learn from. Nothing else of the slide is read.

    Returns:
        The model with a `SlideAdaptation`.
    """
    model = model.with_genes(slide, data.rows)
    recipe = model.checkpoint.recipe
    totals = sum_genes(slide, data.rows, model.panel(slide), recipe.data.target_sum)
    stats, start = stats_of(totals), _start(model, slide, data.rows, data.seed, totals)
    of_slide = model.without_other_genes(slide)
    practice, tuning = (
        [list(practice_tiles(of_slide, slide, [fold], start, totals, data.rows)) for fold in folds]
        for folds in (data.practice, data.tuning)
    )
    parts = _parts(practice, _joined(tuning), is_new=data.is_new)
    trained = trained_weights(slide, data.rows, model.checkpoint)
    parameters = (
        [start.with_weights(trained)] * len(parts)
        if trained
        else _fit_smoothers(start, parts, recipe.objective.pool_decay)
    )
    facts: dict[str, Any] = {"cells": len(data.rows)}
    facts |= {"practice_cells": _num_cells(_joined(practice)), "tuning_cells": _num_cells(_joined(tuning))}
    # The network knows the cells that it was trained on: weights that are chosen on them would trust it too much.
    if trained_fraction(slide, data.tuning_rows, model.checkpoint) > MAX_TRAINED:
        return replace(model, adaptation=SlideAdaptation(parameters[0], stats, None, facts | {"chosen_on_cells": 0}))
    blends = _fit_blends(parts)
    held_out = _fit_regressions(_NetworkRuns(of_slide, parts, parameters), parts, parameters, blends, stats)
    with_network, without_network = (
        [cells for cells, part in zip(held_out, parts, strict=True) if part.with_network == wanted]
        for wanted in (True, False)
    )
    choices = choose(with_network, without_network)
    # The fits of the first part are used; those of the others were only compared.
    refinement = Refinement(
        blends[0],
        tuple(choice.weights for choice in choices),
        held_out[0].regression.solve(choices, stats),
        _fit_states(
            [predicted for cells in with_network for predicted in cells.predicted],
            start,
            prefers_network=not data.is_new,
        ),
        RareWeights(),
    )
    refinement = _with_rare_weights(refinement, held_out[0].predicted)
    facts |= {
        "chosen_on_cells": sum(_num_cells(part.held_out) for part in parts),
        "tuned": {output: choice.to_json() for output, choice in zip(OUTPUTS, choices, strict=True)},
        "rare_genes": refinement.rare_weights.to_json(),
    }
    return replace(model, adaptation=SlideAdaptation(parameters[0], stats, refinement, facts))


def adapt_profiles(model: LoadedModel, slide: Slide, rows: Rows, seed: int) -> LoadedModel:
    """Give a model the genes and the profiles of a slide, on which its embeddings depend.

    Args:
        model: A model with the objective `residual`.
        slide: The slide, at the radius of the model.
        rows: Ascending rows to learn from.
        seed: Seed of the cell states.

    Returns:
        The model. Its predictions are those of the smoother and the network; the smoother has the weights of the training on
        the only slide of a model, and equal weights of all terms on others.
    """
    model = model.with_genes(slide, rows)
    totals = sum_genes(slide, rows, model.panel(slide), model.checkpoint.recipe.data.target_sum)
    parameters = _start(model, slide, rows, seed, totals)
    if trained := trained_weights(slide, rows, model.checkpoint):
        parameters = parameters.with_weights(trained)
    facts = {"cells": len(rows), "practice_cells": 0}
    return replace(model, adaptation=SlideAdaptation(parameters, stats_of(totals), None, facts))


def _start(model: LoadedModel, slide: Slide, rows: Rows, seed: int, totals: GeneTotals) -> SlideParameters:
    """Profiles and states of the slide, with equal weights of the terms of the smoother.

    A slide that the model was trained on keeps the states of its training, as the network predicts those best.
    """
    recipe = model.checkpoint.recipe
    with_counts = rows[slide.total_counts[rows] > 0]
    # Every stride-th cell along the Hilbert curve covers all areas of the slide.
    sample = with_counts[:: max(1, -(-len(with_counts) // MAX_STATE_CELLS))]
    cells = slide.expression(sample, recipe.data.target_sum)[:, model.panel(slide).columns]
    known = trained_states(slide, rows, model.checkpoint)
    if known is None:
        state_seed = int(numpy_generator(seed, "adaptation states").integers(2**31))
        states = fit_states(cells, recipe.objective.states, state_seed)
    else:
        profiles = torch.from_numpy(known)
        states = profiles, count_states(cells, profiles)
    return start_parameters(totals.profiles(), *states, len(recipe.objective.scales) + 1)


def _spread(tiles: Sequence[PracticeTile]) -> list[PracticeTile]:
    """The tiles, evenly spaced ones first: pools are fitted to the first `NUM_POOL_TILES`, which are not to be one corner."""
    step = max(1, len(tiles) // NUM_POOL_TILES)
    return [tile for first in range(step) for tile in tiles[first::step]]


def _parts(practice: Sequence[Sequence[PracticeTile]], tuning: Sequence[PracticeTile], *, is_new: bool) -> list[_Part]:
    """The fit that is used, and fits to half of the practice folds, which are only compared on the others."""
    whole = _joined(practice)
    parts = [_Part(whole, tuning)]
    if len(practice) > 1 and (is_new or _num_cells(tuning) <= MAX_CROSS_VALIDATED):
        # By folds, as these do not depend on the size of the tiles.
        first, second = (_joined(practice[start::2]) for start in range(2))
        halves = [_Part(first, second, is_new), _Part(second, first, is_new)]
        parts += halves if _num_cells(whole) < MANY_CELLS else halves[:1]
    return parts


def _joined(folds: Sequence[Sequence[PracticeTile]]) -> list[PracticeTile]:
    """The tiles of all folds."""
    return [tile for fold in folds for tile in fold]


def _num_cells(tiles: Sequence[PracticeTile]) -> int:
    return sum(tile.num_cells for tile in tiles)


def _fit_smoothers(start: SlideParameters, parts: Sequence[_Part], pool_decay: float) -> list[SlideParameters]:
    """Fit the weights of the smoother for each part."""

    def fit(part: _Part) -> SlideParameters:
        """Fit them for one part."""
        fitted, held_out = ((tile.example() for tile in tiles) for tiles in (_spread(part.fitted), part.held_out))
        return fit_slide_parameters(start, fitted, held_out, pool_decay)

    first, *others = parts
    parameters = fit(first)
    # Of many cells, no single one matters to a few weights per gene, and the network is run once.
    return [parameters, *(fit(part) if _num_cells(first.fitted) < MANY_CELLS else parameters for part in others)]


def _fit_blends(parts: Sequence[_Part]) -> list[FittedBlend]:
    """Fit the blend of neighbour means to each part, with hyper-parameters that suit the held-out cells of all parts."""
    whole, *halves = parts
    sums = [_blend_sums(part.fitted) for part in halves]
    # Where both halves are fitted, the sums of the whole are those of the halves.
    of_whole = sums[0].join(sums[1]) if len(sums) > 1 else _blend_sums(whole.fitted)
    blends = [each.fitted() for each in (of_whole, *sums)]
    of_mean, of_expressed = choose_blend([(blend, part.held_out) for blend, part in zip(blends, parts, strict=True)])
    return [replace(blend, of_mean=of_mean, of_expressed=of_expressed) for blend in blends]


def _blend_sums(tiles: Sequence[PracticeTile]) -> BlendSums:
    """Sums over the cells of some tiles."""
    sums = BlendSums(tiles[0].expression.shape[1])
    for tile in tiles:
        sums.add(tile.circles, tile.expression, tile.counts, tile.stats)
    return sums


def _fit_regressions(
    runs: _NetworkRuns,
    parts: Sequence[_Part],
    parameters: Sequence[SlideParameters],
    blends: Sequence[FittedBlend],
    stats: GeneStats,
) -> list[HeldOut]:
    """Fit the regression to each part, and predict the cells to choose on."""
    held_out = []
    for part, own, blend in zip(parts, parameters, blends, strict=True):
        predict = partial(runs.predict, parameters=own, blend=blend, with_network=part.with_network)
        regression = fit_regression([predict(tile) for tile in part.fitted], stats)
        held_out.append(HeldOut(regression, [predict(tile) for tile in part.held_out]))
    return held_out


class _NetworkRuns:
    """Predictions of practised cells. The network is run once for each tile: parameters differ in weights of the smoother only.

    Args:
        model: The model.
        parts: Parts that cells of the tiles are fitted or held out in.
        parameters: Parameters of the slide, for each part.
    """

    def __init__(self, model: LoadedModel, parts: Sequence[_Part], parameters: Sequence[SlideParameters]) -> None:
        self._model = model
        self._parameters: dict[int, list[SlideParameters]] = {}  # those that a tile is predicted with, by tile
        for part, own in zip(parts, parameters, strict=True):
            for tile in (*part.fitted, *part.held_out):
                of_tile = self._parameters.setdefault(id(tile), [])
                if all(own is not known for known in of_tile):
                    of_tile.append(own)
        # By tile and parameters, which live as long as this object, so that their ids are not used again.
        self._known: dict[tuple[int, int], tuple[Prediction, NetworkFeatures]] = {}

    def predict(
        self, tile: PracticeTile, parameters: SlideParameters, blend: FittedBlend, *, with_network: bool
    ) -> Predicted:
        """Predict practised cells by blend and by network, or by blend and smoother alone."""
        key = id(tile), id(parameters)
        if key not in self._known:
            wanted = self._parameters[id(tile)]
            outputs = run_network_on_blends(self._model, [tile.with_parameters(own).hidden.masked for own in wanted])
            for own, output in zip(wanted, outputs, strict=True):
                self._known[id(tile), id(own)] = Prediction.from_logits(output), NetworkFeatures.of(output)
        predicted = Predicted(tile, blend.combine(tile.circles, tile.stats), *self._known[key])
        return predicted if with_network else predicted.without_network()


def _with_rare_weights(refinement: Refinement, tuned: Sequence[Predicted]) -> Refinement:
    """Fit the weights by which rare genes are shrunk to the tuning cells."""
    predictions = (
        average_poisson(
            refinement.predict(each.network, each.features, each.tile.circles, each.tile.stats),
            each.tile.stats.fraction,
        )
        for each in tuned
    )
    return replace(refinement, rare_weights=fit_rare([each.tile for each in tuned], predictions))


def _fit_states(
    tuned: Sequence[Predicted], parameters: SlideParameters, *, prefers_network: bool
) -> NDArray[np.float64]:
    """Weights of network and frequencies in the probabilities of the states."""
    inputs, states = [], []
    for predicted in tuned:
        if predicted.network.states is not None:
            inputs.append(pool_inputs(predicted.network.states, predicted.features.frequencies))
            values = torch.from_numpy(predicted.tile.expression.toarray())
            states.append(nearest_state(values, parameters.state_profiles).numpy())
    network = np.asarray(np.eye(len(parameters.mean_weights) + 1)[0])
    if not inputs:
        return network
    x, y = np.concatenate(inputs), np.concatenate(states)
    return network if prefers_network and not is_pool_better(x, y) else fit_state_pool(x, y)
