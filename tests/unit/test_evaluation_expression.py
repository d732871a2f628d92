"""Metrics against hand-computed answers, and against SciPy and scikit-learn on rows with ties and constants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from cifm_cli.evaluation.examples import Targets
from cifm_cli.evaluation.metrics import expression, ranking
from cifm_cli.evaluation.metrics.counts import (
    composition_from_mean,
    deviance,
    expected_composition,
    mean_deviance,
)
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import spatial_bootstrap

TIED_ROWS = arrays(np.float32, (3, 9), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0]))


def f32(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def make_targets(counts: np.ndarray, training_counts: list[float] | None = None) -> Targets:
    """Targets at a target sum of 100, with training statistics of cells that all have the same counts."""
    depth = counts.sum(axis=1, keepdims=True)
    values = np.log1p(100 * counts / depth).astype(np.float32)
    total = np.array(training_counts or [10.0] * counts.shape[1])
    mean = np.log1p(100 * total / total.sum())
    profile = GeneStats(mean=mean, fraction=(total > 0).astype(float), counts=total)
    return Targets(csr_matrix(counts.astype(np.float32)), values, profile, 100.0)


def test_ties_share_the_mean_rank() -> None:
    found = ranking.average_ranks(f32([0, 0, 3, 1, 0], [5, 4, 3, 2, 1], [7, 7, 7, 7, 7]))
    assert found.tolist() == [[2, 2, 5, 4, 2], [5, 4, 3, 2, 1], [3, 3, 3, 3, 3]]


@given(TIED_ROWS)
def test_ranks_agree_with_scipy(values: np.ndarray) -> None:
    assert np.array_equal(ranking.average_ranks(values), rankdata(values, axis=1))


def test_a_row_longer_than_a_slice_is_ranked_as_a_whole() -> None:
    values = numpy_generator(0).integers(0, 1000, (2, 250_001)).astype(np.float32)
    assert np.array_equal(ranking.average_ranks(values), rankdata(values, axis=1))


def test_correlation_by_hand() -> None:
    #  x - 2: -1 0 1, y: 1 -2 1 (sum 0) -> 0;   x - 2 and y - 4: -1 0 1, -1 -1 2 -> 3 / sqrt(2 * 6)
    found = ranking.correlations(f32([1, 2, 3], [1, 2, 3]), f32([1, -2, 1], [3, 3, 6]))
    assert found == pytest.approx([0.0, 3 / np.sqrt(12)])


def test_a_constant_scores_zero_and_is_not_dropped() -> None:
    row = [1.0, 2.0, 3.0]
    assert ranking.correlations(f32([0.1] * 3, row, row), f32(row, [0.3] * 3, row)).tolist() == [0, 0, 1]


@given(TIED_ROWS, TIED_ROWS)
def test_correlations_agree_with_scipy(x: np.ndarray, y: np.ndarray) -> None:
    ranked = ranking.correlations(ranking.average_ranks(x), ranking.average_ranks(y))
    for row, (a, b) in enumerate(zip(x, y, strict=True)):
        constant = np.ptp(a) == 0 or np.ptp(b) == 0
        assert ranking.correlations(x, y)[row] == pytest.approx(0 if constant else pearsonr(a, b).statistic, abs=1e-6)
        assert ranked[row] == pytest.approx(0 if constant else spearmanr(a, b).statistic, abs=1e-6)


def test_detection_by_hand() -> None:
    probability = f32([0.9, 0.1, 0.5, 0.5], [0.2, 0.4, 0.6, 0.8])
    expressed = np.array([[True, False, True, False], [False, False, False, False]])
    # pairs (0.9, 0.1) (0.9, 0.5) (0.5, 0.1) won, (0.5, 0.5) tied: 3.5 of 4; nothing expressed: 0.5
    # falling: 0.9 (1 of 1), then 0.5 0.5 (2 of 3): (1 + 2 / 3) / 2
    area, precision = ranking.detection(probability, expressed)
    assert area.tolist() == [3.5 / 4, 0.5]
    assert precision.tolist() == pytest.approx([(1 + 2 / 3) / 2, 0])


@given(TIED_ROWS, arrays(np.bool_, (3, 9)))
def test_detection_agrees_with_scikit_learn(probability: np.ndarray, expressed: np.ndarray) -> None:
    for area, precision, labels, scores in zip(
        *ranking.detection(probability, expressed), expressed, probability, strict=True
    ):
        mixed = labels.any() and not labels.all()
        assert area == pytest.approx(roc_auc_score(labels, scores) if mixed else 0.5)
        assert precision == pytest.approx(average_precision_score(labels, scores) if labels.any() else 0)


def test_deviance_by_hand() -> None:
    counts = csr_matrix(f32([3, 1, 0], [0, 0, 2]))
    composition = np.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    # lambda = 2 1 1 and 0.5 0.5 1: 2 (3 log 1.5 + 1 log 1) and 2 (2 log 2)
    assert deviance(counts, composition) == pytest.approx([6 * np.log(1.5), 4 * np.log(2)])


def test_the_training_mean_and_zeros_both_imply_the_training_composition() -> None:
    targets = make_targets(np.array([[4, 0, 1]]), training_counts=[30, 9, 1])
    stats = targets.gene_stats
    floor = np.array([31, 10, 2]) / 43
    everywhere = f32(stats.mean), f32(stats.fraction)
    nothing = f32([0, 0, 0]), f32([0, 0, 0])
    for mean, expressed in (everywhere, nothing):
        assert composition_from_mean(mean, expressed, targets)[0] == pytest.approx(floor, rel=1e-5)


def test_a_composition_sums_to_one_and_is_never_zero() -> None:
    targets = make_targets(np.array([[4, 0, 1]]), training_counts=[30, 0, 1])
    found = composition_from_mean(f32([0, 0, 2.0], [9, 0.1, 0]), f32([0, 0, 1], [0, 1, 0]), targets)
    assert found.sum(axis=1) == pytest.approx(1)
    assert (found > 0).all()
    assert np.isfinite(deviance(csr_matrix(f32([1, 1, 1], [1, 1, 1])), found)).all()


def test_a_score_by_hand() -> None:
    """Two cells of two genes; log1p(100 c / depth): 4.615 where a cell has all its counts in one gene."""
    targets = make_targets(np.array([[2, 0], [0, 3]]))
    full = float(np.log1p(100))
    estimate = Prediction(mean=f32([full, 1], [0, full - 2]), expressed=f32([0.9, 0.2], [0.3, 0.3]))
    bootstrap = spatial_bootstrap(np.array([[0.0, 0.0], [900.0, 900.0]]), 20.0, seed=0)
    found = expression.score(targets, estimate, bootstrap)
    assert list(found.metrics) == list(expression.METRICS)
    assert found.per_cell["mse"] == pytest.approx([1 / 2, 4 / 2])
    assert found.per_gene["mse"] == pytest.approx([0, 5 / 2])
    assert found.metrics["mse"] == pytest.approx(1.25)
    assert found.metrics["balanced_mse"] == pytest.approx((4 / 2 + 1 / 2) / 2)  # Eq. 15, over both cells
    assert found.per_cell["balanced_mse"] == pytest.approx([1 / 2, 4 / 2])
    assert found.metrics["pearson_cell"] == found.metrics["spearman_cell"] == 1
    assert found.metrics["pearson_gene"] == found.metrics["spearman_gene"] == 1
    assert found.metrics["auroc"] == (1 + 0.5) / 2
    assert set(found.draws) == set(expression.METRICS)
    # Each draw contains both cells, or one of them twice.
    assert set(np.round(found.draws["mse"], 6)) == {0.5, 1.25, 2.0}


def test_a_predicted_composition_takes_precedence() -> None:
    targets = make_targets(np.array([[3, 1, 0]]), training_counts=[9, 9, 9])  # a floor of a third each
    mean = expressed = f32([0, 0, 0])
    given = expected_composition(Prediction(mean, expressed, f32([0.8, 0.2, 0])), slice(None), targets)
    assert given[0] == pytest.approx([0.95 * 0.8 + 0.05 / 3, 0.95 * 0.2 + 0.05 / 3, 0.05 / 3])
    nothing = expected_composition(Prediction(mean, expressed, f32([0, 0, 0])), slice(None), targets)
    assert nothing[0] == pytest.approx([1 / 3] * 3)
    assert mean_deviance(Prediction(mean, expressed, f32([3, 1, 0])), targets) < mean_deviance(
        Prediction(mean, expressed, f32([1, 3, 0])), targets
    )


def test_centred_correlations_are_of_differences_from_the_training_mean() -> None:
    targets = make_targets(np.array([[4, 2, 1], [5, 1, 2]]), training_counts=[30, 9, 1])
    bootstrap = spatial_bootstrap(np.array([[0.0, 0.0], [900.0, 900.0]]), 20.0, seed=0)
    usual = np.tile(targets.gene_stats.mean, (2, 1)).astype(np.float32)
    expressed = np.ones_like(usual)
    constant = expression.score(targets, Prediction(usual, expressed), bootstrap).metrics
    assert constant["pearson_cell"] > 0.5
    assert constant["pearson_cell_centred"] == constant["spearman_cell_centred"] == 0
    halfway = expression.score(targets, Prediction((usual + targets.values) / 2, expressed), bootstrap).metrics
    assert halfway["pearson_cell_centred"] == pytest.approx(1)
    assert halfway["spearman_cell_centred"] == pytest.approx(1)
