"""Fitted baselines on tissues whose best weights are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.errors import CifmError
from cifm_cli.evaluation.examples import Example, TrainingFolds
from cifm_cli.evaluation.predictors import registry
from cifm_cli.evaluation.predictors.base import Baseline
from cifm_cli.evaluation.predictors.registry import all_baselines
from cifm_cli.evaluation.predictors.regression import Blend, Ridge
from cifm_cli.inference.neighbourhood.blend import RADII, neighbour_means
from cifm_cli.inference.neighbourhood.circle_means import average, nearest, radius_means
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats, VisibleCells
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator

RADIUS_UM = 20.0
USUAL = GeneStats(mean=np.array([1.0, 2.0]), fraction=np.array([0.5, 0.5]), counts=np.array([3.0, 1.0]))


def tissue(seed: int, num_cells: int = 400) -> VisibleCells:
    """Cells at random positions; their expression varies slowly in space."""
    generator = numpy_generator(seed, "tissue")
    xy_um = generator.uniform(0, 400, (num_cells, 2))
    slow = np.stack([1 + np.sin(xy_um[:, 0] / 60), 2 + np.cos(xy_um[:, 1] / 60)], axis=1)
    expression = np.maximum(slow + generator.normal(0, 0.5, slow.shape), 0).astype(np.float32)
    counts = generator.poisson(slow).astype(np.float32)
    return VisibleCells(xy_um, csr_matrix(expression), csr_matrix(counts), USUAL, RADIUS_UM, 3 * RADIUS_UM)


def example(seed: int, weights: np.ndarray) -> Example:
    """Hidden cells that are a blend of their neighbour means with the given weights, gene by gene."""
    visible = tissue(seed)
    xy_um = numpy_generator(seed, "queries").uniform(50, 350, (300, 2))
    means = np.stack([part.mean for part in neighbour_means(visible, xy_um)]) - USUAL.mean
    targets = USUAL.mean + np.einsum("sp,sqp->qp", weights, means)
    return Example(visible, xy_um, csr_matrix(targets), csr_matrix(np.full(targets.shape, 2.0)))


def training(examples: Iterable[Example]) -> TrainingFolds:
    return TrainingFolds(lambda: examples, USUAL)


def test_circles_are_means_of_the_cells_inside() -> None:
    visible, query_um = tissue(0), np.array([[200.0, 200.0]])
    for radius_um, found in zip((20.0, 80.0), radius_means(visible, query_um, (20.0, 80.0)), strict=True):
        inside = np.linalg.norm(visible.xy_um - query_um, axis=1) <= radius_um
        assert found.mean[0] == pytest.approx(visible.expression[inside].toarray().mean(axis=0), rel=1e-5)
        counts = visible.counts[inside].toarray().sum(axis=0)
        assert found.composition is not None
        assert found.composition[0] == pytest.approx(counts / counts.sum(), rel=1e-5)


def test_wide_circles_of_squares_are_almost_round() -> None:
    visible, query_um = tissue(0, num_cells=4_000), np.array([[200.0, 200.0]])
    (found,) = radius_means(visible, query_um, (160.0,))
    inside = np.linalg.norm(visible.xy_um - query_um, axis=1) <= 160.0
    assert found.mean[0] == pytest.approx(visible.expression[inside].toarray().mean(axis=0), rel=0.1)


def test_an_empty_circle_takes_the_value_of_the_next_wider_one() -> None:
    visible = replace(tissue(0), xy_um=np.full((400, 2), 1000.0))
    near, far = radius_means(visible, np.array([[1000.0, 1050.0]]), (20.0, 80.0))
    assert np.array_equal(near.mean, far.mean)
    (alone,) = radius_means(visible, np.array([[0.0, 0.0]]), (20.0,))
    assert alone.mean[0].tolist() == USUAL.mean.tolist()


def test_the_blend_recovers_the_weights_of_each_gene() -> None:
    weights = np.zeros((len(RADII), 2))
    weights[0, 0], weights[2, 1] = 0.5, 0.9
    blend = Blend().fit(training([example(seed, weights) for seed in range(3)]))
    assert blend.fitted_.mean.weights(10.0, 1e-6) == pytest.approx(weights, abs=0.05)


def test_a_narrow_spread_gives_all_genes_the_same_weights() -> None:
    weights = np.zeros((len(RADII), 2))
    weights[0, 0], weights[2, 1] = 0.5, 0.9
    found = Blend().fit(training([example(0, weights)])).fitted_.mean.weights(1e-6, 1e-6)
    assert found[:, 0] == pytest.approx(found[:, 1], abs=1e-3)


def test_the_composition_is_the_likeliest_mixture() -> None:
    visible = tissue(1)
    xy_um = numpy_generator(1, "queries").uniform(50, 350, (500, 2))
    composition = neighbour_means(visible, xy_um)[1].composition
    assert composition is not None
    counts = numpy_generator(2).poisson(200 * composition)
    examples = [Example(visible, xy_um, csr_matrix(counts * 1.0), csr_matrix(counts * 1.0))]
    mixture = Blend().fit(training(examples)).fitted_.mixture
    assert mixture.sum() == pytest.approx(1)
    assert np.argmax(mixture) == 1


def test_the_ridge_uses_other_genes_and_the_blend_does_not() -> None:
    """The first gene follows the neighbour means of the second."""

    def crossed(seed: int) -> Example:
        visible = tissue(seed)
        xy_um = numpy_generator(seed, "queries").uniform(50, 350, (300, 2))
        other = neighbour_means(visible, xy_um)[2].mean[:, 1]
        targets = np.stack([other, np.full(300, 2.0)], axis=1)
        return Example(visible, xy_um, csr_matrix(targets), csr_matrix(np.ones_like(targets)))

    test, examples = crossed(7), training([crossed(seed) for seed in range(3)])
    errors = [
        np.square(baseline.fit(examples).predict(test.visible, test.xy_um).mean - test.expression.toarray()).mean()
        for baseline in (Blend(spread=0.1, shrink=0.01), Ridge(penalty=0.001))
    ]
    assert errors[1] < 0.2 * errors[0]


def test_a_high_penalty_gives_the_predictions_of_the_blend() -> None:
    examples = training([example(0, np.full((len(RADII), 2), 0.2))])
    visible, queries_um = tissue(9), np.array([[200.0, 200.0], [90.0, 300.0]])
    blend, ridge = Blend(spread=0.1, shrink=0.01).fit(examples), Ridge(penalty=1e9).fit(examples)
    assert ridge.predict(visible, queries_um).mean == pytest.approx(blend.predict(visible, queries_um).mean, abs=0.05)


def test_estimators_are_fitted_once_as_copies() -> None:
    drawn = []

    def draw() -> list[Example]:
        drawn.append(1)
        return [example(0, np.full((len(RADII), 2), 0.2))]

    examples, blend = TrainingFolds(draw, USUAL), Blend()
    for parameters in blend.parameter_grid():
        examples.fitted(blend).set_params(**parameters).predict(tissue(0), np.array([[200.0, 200.0]]))
    assert len(drawn) == 1
    assert not hasattr(blend, "fitted_")
    assert examples.fitted(Ridge()).blend_ is examples.fitted(blend).fitted_


class _Entry:
    """An entry point of another package."""

    name = "mine"

    def __init__(self, loaded: object) -> None:
        self.loaded = loaded

    def load(self) -> object:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


class FewNearest(Baseline):
    """The example of docs/evaluation.md."""

    name = "mine"

    def __init__(self, k: int = 1) -> None:
        self.k = k

    def parameter_grid(self) -> list[dict[str, float]]:
        return [{"k": k} for k in (1, 2, 3)]

    def predict(self, visible: VisibleCells, xy_um: np.ndarray) -> Prediction:
        return average(nearest(visible, xy_um, self.k, width_um=float("inf")), visible)


def test_baselines_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.metadata, "entry_points", lambda **_: [_Entry(FewNearest)])
    found = all_baselines()[-1]
    assert found.name == "mine"
    prediction = found.fit(training([])).set_params(k=2).predict(tissue(0), np.array([[200.0, 200.0]]))
    nearest_two = np.argsort(np.linalg.norm(tissue(0).xy_um - 200.0, axis=1))[:2]
    assert prediction.mean[0] == pytest.approx(tissue(0).expression[nearest_two].toarray().mean(axis=0), rel=1e-5)


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (ImportError("no torch"), "mine does not load: no torch"),
        (Blend, "two baselines are called blend"),
        (dict, "mine is not a cifm_cli.evaluation.predictors.base.Baseline"),
    ],
)
def test_broken_baselines_are_errors(monkeypatch: pytest.MonkeyPatch, loaded: object, message: str) -> None:
    monkeypatch.setattr(registry.metadata, "entry_points", lambda **_: [_Entry(loaded)])
    with pytest.raises(CifmError, match=message):
        all_baselines()
