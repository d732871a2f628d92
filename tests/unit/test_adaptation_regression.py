"""Base prediction and regression of a slide adaptation, on cells for which the best choice is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.evaluation.examples import Example, TrainingFolds
from cifm_cli.evaluation.predictors.regression import Ridge
from cifm_cli.inference.adaptation import choice as choice_module
from cifm_cli.inference.adaptation import weights as weights_module
from cifm_cli.inference.adaptation.choice import PENALTIES, HeldOut, choose
from cifm_cli.inference.adaptation.practice import PracticeTile
from cifm_cli.inference.adaptation.rare_genes import RareWeights
from cifm_cli.inference.adaptation.regression import Choice, FittedRegression, Predicted, choose_blend, fit_regression
from cifm_cli.inference.adaptation.slide_adaptation import (
    FLOOR,
    OUTPUTS,
    Refinement,
    SlideAdaptation,
    correct,
    mix,
)
from cifm_cli.inference.adaptation.state_pool import is_pool_better, pool_inputs, pool_states
from cifm_cli.inference.adaptation.weights import NETWORK_WEIGHTS, RIDGE_WEIGHTS, Weights, squared_error
from cifm_cli.inference.hidden_tile import HiddenTile
from cifm_cli.inference.neighbourhood.blend import GRID, FittedBlend, neighbour_means
from cifm_cli.inference.neighbourhood.residuals import mean_features, parts_of
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats, VisibleCells
from cifm_cli.inference.network_features import NetworkFeatures
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator

NUM_GENES, NUM_QUERIES, RADIUS_UM = 4, 120, 20.0
STATS = GeneStats(*(np.full(NUM_GENES, value) for value in (1.0, 0.6, 50.0)))
NO_REGRESSION = Choice(0.0, RIDGE_WEIGHTS, np.inf)
MakeNetwork = Callable[[Prediction, np.ndarray, np.ndarray], Prediction]


class Practised(NamedTuple):
    """The same hidden cells for the baseline `ridge` and for adaptation."""

    example: Example
    predicted: Predicted


def draw_example(seed: int) -> Example:
    """Cells whose expression varies in space; the last gene follows the neighbourhood of the first."""
    generator = numpy_generator(seed, "tissue")
    xy_um = generator.uniform(0, 400, (500, 2))
    waves = [np.sin(xy_um[:, i % 2] / (40 + 10 * i)) for i in range(NUM_GENES - 1)]
    counts = generator.poisson(np.exp(np.stack([*waves, waves[0] - 1], axis=1)))
    expression = np.log1p(counts).astype(np.float32)
    hidden = np.arange(len(xy_um)) < NUM_QUERIES
    shown, own = ~hidden, hidden
    visible = VisibleCells(
        xy_um[shown], csr_matrix(expression[shown]), csr_matrix(counts[shown].astype(np.float32)), STATS, RADIUS_UM, 400
    )
    return Example(visible, xy_um[own], csr_matrix(expression[own]), csr_matrix(counts[own].astype(np.float32)))


def fitted_ridge(examples: list[Example], penalty: float) -> Ridge:
    """The baseline `ridge`."""
    return Ridge(penalty).fit(TrainingFolds(lambda: examples, STATS))


def practise(example: Example, blend: FittedBlend, network: MakeNetwork, num_features: int = 0) -> Practised:
    """Predict hidden cells: the smoother agrees with the blend, and `network` turns it into the network's prediction."""
    circles = neighbour_means(example.visible, example.xy_um)
    of_blend = blend.combine(circles, STATS)
    masked: Any = None  # the input of the network, which is not run here
    tile = PracticeTile(HiddenTile(masked, circles), STATS, example.expression, example.counts)
    features = (
        numpy_generator(int(example.counts.sum()), "features")
        .normal(size=(NUM_QUERIES, num_features))
        .astype(np.float32)
    )
    frequencies = np.ones((NUM_QUERIES, 1, 2), np.float32) / 2
    predicted = network(of_blend, example.expression.toarray(), example.counts.toarray())
    return Practised(example, Predicted(tile, of_blend, predicted, NetworkFeatures(features, frequencies, of_blend)))


def noise(blend: Prediction, _values: np.ndarray, counts: np.ndarray) -> Prediction:
    """A network whose corrections have nothing to do with the cells."""
    generator = numpy_generator(int(counts.sum()), "noise")
    mean, expressed, composition = (part * np.exp(generator.normal(0, 1.0, part.shape)) for part in parts_of(blend))
    composition = composition / composition.sum(axis=1, keepdims=True)
    return Prediction(*(each.astype(np.float32) for each in (mean, np.clip(expressed, 0.01, 0.99), composition)))


def truth(_blend: Prediction, values: np.ndarray, counts: np.ndarray) -> Prediction:
    """A network that knows the cells."""
    composition = (counts + 0.01) / (counts + 0.01).sum(axis=1, keepdims=True)
    return Prediction(values, np.where(values > 0, 0.99, 0.01).astype(np.float32), composition.astype(np.float32))


def fit(network: MakeNetwork, num_features: int = 0) -> tuple[FittedRegression, list[Predicted], list[Example]]:
    """A regression of three tiles, and two tiles to tune on."""
    examples = [draw_example(seed) for seed in range(5)]
    blend = fitted_ridge(examples[:3], 1.0).blend_
    predicted = [practise(example, blend, network, num_features).predicted for example in examples]
    return fit_regression(predicted[:3], STATS), predicted[3:], examples


@pytest.mark.parametrize("penalty", [1.0, 10.0])
def test_without_smoother_and_network_the_adapted_model_is_the_baseline_ridge(penalty: float) -> None:
    """Fitted to the same cells, except for the floor; the network's prediction has no effect."""
    regression, tuning, examples = fit(noise)
    ridge = fitted_ridge(examples[:3], penalty)
    choices = [Choice(0.0, RIDGE_WEIGHTS, penalty)] * len(OUTPUTS)
    refinement = Refinement(
        ridge.blend_, (RIDGE_WEIGHTS,) * 3, regression.solve(choices, STATS), np.array([1.0, 0.0]), RareWeights()
    )
    for each, example in zip(tuning, examples[3:], strict=True):
        found = refinement.predict(each.network, each.features, each.tile.circles, STATS)
        x = mean_features(each.tile.circles, STATS, ridge.genes_)
        expected = correct(each.blend, ridge.ridge_.predict(x, penalty), STATS)
        for own, other in zip(parts_of(found), parts_of(expected), strict=True):
            assert own == pytest.approx(other, rel=1e-3, abs=1e-5)
        baseline = ridge.predict(example.visible, example.xy_um)
        assert found.mean == pytest.approx(np.maximum(baseline.mean, FLOOR * each.blend.mean), rel=1e-3, abs=1e-5)
        assert np.abs(found.mean - each.blend.mean).max() > 0.02, "the regression changes nothing"


@pytest.fixture
def _no_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are those of the cells alone."""
    monkeypatch.setattr(weights_module, "PRIOR_CELLS", 0.0)


def test_a_network_of_noise_has_no_weight() -> None:
    regression, tuning, _ = fit(noise, num_features=3)
    choices = choose([HeldOut(regression, tuning)])
    assert [choice.weights.correction for choice in choices] == pytest.approx([0, 0, 0], abs=0.05)


@pytest.mark.usefixtures("_no_prior")
def test_a_network_that_knows_the_cells_has_all_the_weight() -> None:
    regression, tuning, _ = fit(truth)
    choices = choose([HeldOut(regression, tuning)])
    assert choices[0].weights.correction == pytest.approx(1, abs=0.05)
    # Of probabilities that it leaves away from 0 and 1, more is better.
    assert all(choice.weights.correction >= 1 for choice in choices[1:])


@pytest.mark.usefixtures("_no_prior")
def test_choices_have_the_lowest_squared_error_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss follows from sums; here it is computed from the predictions, for the choice and for others."""
    monkeypatch.setattr(choice_module, "MAX_CROSS_VALIDATED", 0)
    regression, tuning, _ = fit(
        lambda *parts: mix(
            parts[0], parts[0], truth(*parts), noise(*parts), STATS, [Weights(0.1, 0.9, 0.6, 0.4, 0.9, 0.6, 0.4)] * 3
        )
    )
    choice = choose([HeldOut(regression, tuning)])[0]

    def loss(weights: Weights, penalty: float) -> float:
        solved = regression.solve([Choice(0.0, weights, penalty), NO_REGRESSION, NO_REGRESSION], STATS)
        total = 0.0
        for each in tuning:
            base = mix(each.tile.circles[-1], each.blend, each.features.smoothed, each.network, STATS, [weights] * 3)
            errors = solved.predict(each.tile.circles, each.features.last, STATS)[:, :NUM_GENES]
            total += float(np.square(each.tile.expression.toarray() - base.mean - errors).sum())
        return total

    assert choice.loss == pytest.approx(loss(choice.weights, choice.penalty), rel=1e-4)
    others = [
        (Weights(0.0, b, 0.0, w, b, 0.0, w), penalty)
        for b in (0.8, 1.0)
        for w in (0.0, 0.5, 1.0)
        for penalty in PENALTIES
    ]
    assert all(choice.loss <= loss(*other) * (1 + 1e-6) for other in others)


def test_few_cells_are_compared_by_cross_validation() -> None:
    """The loss of a fit to noise is larger on cells that are left out, and the loss of a single group stays as it is."""
    generator = numpy_generator(0, "noise of groups")
    losses = [
        squared_error(*(generator.normal(size=shape).astype(np.float32) for shape in ((7, 20), (20,))))
        for _ in range(4)
    ]
    few, weights = choice_module._fit(losses, 7, 80)
    many, of_many = choice_module._fit(losses, 7, choice_module.MAX_CROSS_VALIDATED + 1)
    assert weights == of_many
    assert few > many
    assert choice_module._fit(losses[:1], 7, 20)[0] < losses[0](np.asarray(RIDGE_WEIGHTS))[0]


def test_without_tuning_cells_the_network_stays_as_it_is() -> None:
    regression, tuning, examples = fit(noise)
    choices = choose([HeldOut(regression, [])])
    assert [(choice.weights, choice.penalty) for choice in choices] == [(NETWORK_WEIGHTS, np.inf)] * 3
    assert not regression.solve(choices, STATS).coefficients.any()
    blend = fitted_ridge(examples[:3], 1.0).blend_
    assert choose_blend([(blend, [])]) == (blend.of_mean, blend.of_expressed)
    first = tuning[0]
    mixed = mix(
        first.tile.circles[-1], first.blend, first.features.smoothed, first.network, STATS, [NETWORK_WEIGHTS] * 3
    )
    assert mixed.mean == pytest.approx(first.network.mean, abs=1e-5)


def test_the_blend_with_the_lowest_losses_is_chosen() -> None:
    _, tuning, examples = fit(noise)
    blend = fitted_ridge(examples[:3], 1.0).blend_
    tiles = [each.tile for each in tuning]
    of_mean, of_expressed = choose_blend([(blend, tiles)])

    def squared_error(pair: tuple[float, float]) -> float:
        found = [replace(blend, of_mean=pair).combine(tile.circles, STATS).mean for tile in tiles]
        return sum(float(np.square(m - t.expression.toarray()).sum()) for m, t in zip(found, tiles, strict=True))

    losses = {pair: squared_error(pair) for pair in GRID}
    assert of_expressed in GRID
    assert losses[of_mean] == pytest.approx(min(losses.values()))


def test_the_provenance_names_weights_and_penalty() -> None:
    found = Choice(1.0, Weights(0.125, 1.0, 0.25, 1.0, 0.5, 0.0, 2.0), 30.0).to_json()
    assert found == {
        "profile": 0.125,
        "blend": 1.0,
        "smoother": 0.25,
        "correction": 1.0,
        "blend_depth": 0.5,
        "smoother_depth": 0.0,
        "correction_depth": 2.0,
        "penalty": 30.0,
    }
    assert NO_REGRESSION.to_json()["penalty"] is None


def test_states_are_pooled_and_kept_from_the_regression() -> None:
    regression, tuning, examples = fit(noise)
    state_weights = np.array([0.5, 1.0])
    blend = fitted_ridge(examples[:3], 1.0).blend_
    refinement = Refinement(
        blend, (RIDGE_WEIGHTS,) * 3, regression.solve([NO_REGRESSION] * 3, STATS), state_weights, RareWeights()
    )
    parameters: Any = None  # of the network, which is not run here
    each = tuning[0]
    states = np.tile(np.array([0.2, 0.8], np.float32), (NUM_QUERIES, 1))
    found = SlideAdaptation(parameters, STATS, refinement, {}).refine(
        replace(each.network, states=states), each.features, each.tile.circles
    )
    assert found.states == pytest.approx(pool_states(pool_inputs(states, each.features.frequencies), state_weights))
    assert found.mean == pytest.approx(each.blend.mean)


def test_a_pool_of_states_is_used_if_it_is_surely_better() -> None:
    """Frequencies that tell the state are; for states that follow the network's probabilities, a fit has nothing to add."""
    generator = numpy_generator(0, "states")
    states = generator.dirichlet(np.ones(4), size=500).astype(np.float32)
    state = np.array([generator.choice(4, p=each / each.sum()) for each in states.astype(np.float64)])
    uniform = np.full((500, 1, 4), 0.25, np.float32)
    assert not is_pool_better(pool_inputs(states, uniform), state)
    assert is_pool_better(pool_inputs(states, 0.1 + np.eye(4, dtype=np.float32)[state][:, None]), state)
    assert not is_pool_better(pool_inputs(states[:3], uniform[:3]), state[:3]), "three cells are fewer than the groups"
