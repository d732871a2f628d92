"""Clustering, shrunk regression and logistic regression on data with known results."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.classifier import (
    choose_strength,
    class_probabilities,
    fit_logistic,
    mean_and_scale,
    softmax_weights,
    standardise,
)
from cifm_cli.statistics.clustering import cluster_cells
from cifm_cli.statistics.regression import ShrunkSolver, residual_variance, shared_weights, shrunk_weights

# One predictor and two genes: the sums of x * x, x * y and y * y over three cells with x = 1.
GRAM = np.full((2, 1, 1), 3.0)
MOMENT = np.array([[3.0], [9.0]])  # y is 1 for the first gene, 3 for the second
SQUARED = np.array([3.0, 27.0])


def test_shared_weights_are_the_pooled_fit() -> None:
    assert shared_weights(GRAM, MOMENT, 0.0).tolist() == [2.0]
    assert shared_weights(GRAM, MOMENT, 6.0).tolist() == [1.0], "12 / (6 + 6)"


def test_shrunk_weights_lie_between_the_own_and_the_shared_ones() -> None:
    shared = np.array([2.0])
    assert shrunk_weights(GRAM, MOMENT, shared, np.zeros((2, 1))).ravel().tolist() == [1.0, 3.0]
    assert shrunk_weights(GRAM, MOMENT, shared, np.array([[3.0], [0.0]])).ravel().tolist() == [1.5, 3.0]
    assert shrunk_weights(GRAM, MOMENT, shared, np.full((2, 1), 1e12)).ravel() == pytest.approx([2.0, 2.0])


def test_one_decomposition_gives_the_shrunk_weights_of_every_strength() -> None:
    """Also where predictors are collinear, and the own weights of a gene are not determined."""
    generator = numpy_generator(0, "shrunk")
    x = generator.normal(size=(4, 20, 3))
    x[3, :, 2] = x[3, :, 1]
    gram, moment, shared = x.swapaxes(1, 2) @ x, generator.normal(size=(4, 3)), np.array([1.0, -2.0, 0.5])
    solver = ShrunkSolver(gram, moment)
    for strength in (1e-3, 1.0, 1e3):
        precision = strength * np.arange(1.0, 5.0)
        expected = shrunk_weights(gram, moment, shared, precision[:, None])
        assert solver.weights(shared, precision) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_residual_variance_is_the_mean_squared_residual() -> None:
    assert residual_variance(GRAM, MOMENT, SQUARED, np.array([2.0]), 3).tolist() == [1.0, 1.0]
    assert residual_variance(GRAM, MOMENT, SQUARED, np.array([3.0]), 3)[1] > 0, "rounding never makes it zero"


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("is_sparse", [True, False])
def test_cells_of_separate_groups_are_separate_clusters(*, is_sparse: bool, batch_size: int | None) -> None:
    expression = np.repeat(np.eye(3, 5, dtype=np.float32), 10, axis=0)
    given = csr_matrix(expression) if is_sparse else expression
    clusters = cluster_cells(given, 3, num_components=4, seed=0, restarts=3, batch_size=batch_size)
    assert clusters.reshape(3, 10).std(axis=1).tolist() == [0, 0, 0]
    assert sorted(clusters[::10].tolist()) == [0, 1, 2]


def test_one_cluster_holds_every_cell_and_needs_no_components() -> None:
    assert cluster_cells(csr_matrix(np.ones((2, 1))), 1, num_components=30, seed=0).tolist() == [0, 0]


def test_fewer_distinct_cells_than_clusters_leave_clusters_empty() -> None:
    expression = np.repeat(np.eye(2, 4, dtype=np.float32), 6, axis=0)
    assert len(np.unique(cluster_cells(csr_matrix(expression), 5, num_components=3, seed=0))) == 2


def test_standardised_features_have_mean_zero_and_deviation_one() -> None:
    values = np.array([[1.0, 5.0], [3.0, 5.0]], dtype=np.float32)
    mean, scale = mean_and_scale(values)
    assert (mean.tolist(), scale.tolist()) == ([2.0, 5.0], [1.0, 1.0]), "a constant feature is divided by 1"
    assert standardise(values, mean, scale).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert standardise(10 * values, mean, scale, limit=10.0).tolist() == [[8.0, 10.0], [10.0, 10.0]]
    assert standardise(values, mean, scale).dtype == np.float32


@pytest.mark.parametrize("num_classes", [2, 3])
def test_softmax_weights_give_the_probabilities_of_the_classifier(num_classes: int) -> None:
    generator = np.random.default_rng(0)
    codes = np.repeat(np.arange(num_classes), 20)
    features = (generator.normal(size=(len(codes), 4)) + np.eye(num_classes, 4)[codes]).astype(np.float32)
    model = fit_logistic(features, codes, 0.1)
    weights, intercepts = softmax_weights(model)
    odds = np.exp(features @ weights + intercepts)
    expected = class_probabilities(model, features, num_classes)
    assert odds / odds.sum(axis=1, keepdims=True) == pytest.approx(expected, abs=1e-5)


def test_classes_that_were_not_fitted_have_probability_zero() -> None:
    features = np.array([[-1.0], [1.0]], dtype=np.float32)
    probabilities = class_probabilities(fit_logistic(features, np.array([0, 2]), 1.0), features, 4)
    assert probabilities[:, [1, 3]].tolist() == [[0, 0], [0, 0]]
    assert probabilities.sum(axis=1) == pytest.approx([1, 1])


def test_balanced_classes_have_the_same_weight() -> None:
    features = np.zeros((4, 1), dtype=np.float32)
    codes = np.array([0, 0, 0, 1])
    assert class_probabilities(fit_logistic(features, codes, 1.0), features, 2)[0] == pytest.approx(
        [0.75, 0.25], abs=1e-3
    )
    balanced = fit_logistic(features, codes, 1.0, balanced=True)
    assert class_probabilities(balanced, features, 2)[0] == pytest.approx([0.5, 0.5], abs=1e-3)


def chosen_strength(losses: dict[float, float], *, accept_equal: bool = False) -> tuple[float, list[float]]:
    """Strength chosen for given losses, and the strengths that were fitted."""
    fitted: list[float] = []

    def fit(strength: float, start: LogisticRegression | None) -> LogisticRegression:
        assert (start is None) == (not fitted), "a fit does not start from the previous one"
        fitted.append(strength)
        return LogisticRegression(C=strength)

    model, strength = choose_strength(tuple(losses), fit, lambda model: losses[model.C], accept_equal=accept_equal)
    assert strength == model.C
    return strength, fitted


def test_the_search_for_a_strength_ends_where_the_loss_rises() -> None:
    assert chosen_strength({0.1: 3.0, 1.0: 2.0, 10.0: 4.0, 100.0: 1.0}) == (1.0, [0.1, 1.0, 10.0])
    assert chosen_strength({0.1: 3.0, 1.0: 2.0}) == (1.0, [0.1, 1.0]), "the last one may be the best"


@pytest.mark.parametrize(("accept_equal", "expected"), [(False, 0.1), (True, 10.0)])
def test_an_equal_loss_ends_the_search_unless_it_is_accepted(*, accept_equal: bool, expected: float) -> None:
    assert chosen_strength({0.1: 2.0, 1.0: 2.0, 10.0: 1.0}, accept_equal=accept_equal)[0] == expected
