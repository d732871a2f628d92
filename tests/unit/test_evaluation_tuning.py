"""Compiled loops against SciPy and NumPy, and the choice of thresholds and hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix
from scipy.stats import rankdata

from cifm_cli.evaluation import evaluator
from cifm_cli.evaluation.examples import Targets
from cifm_cli.evaluation.metrics.ranking import average_ranks, correlations, order_gated, rank_in_order
from cifm_cli.inference.neighbourhood.circle_means import weighted_sums
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator

FEW_VALUES = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])


@given(arrays(np.float32, (4, 5), elements=FEW_VALUES), arrays(np.float32, (5, 3), elements=FEW_VALUES))
def test_weighted_sums_are_a_matrix_product(weights: np.ndarray, values: np.ndarray) -> None:
    assert np.array_equal(weighted_sums(csr_matrix(weights), csr_matrix(values)), weights @ values)


def test_sums_without_weights_are_zero() -> None:
    assert weighted_sums(csr_matrix((2, 3)), csr_matrix((3, 4))).tolist() == [[0.0] * 4] * 2


@given(arrays(np.float32, (3, 8), elements=FEW_VALUES), arrays(np.bool_, (3, 8)))
def test_gated_rows_are_ordered_without_sorting_again(values: np.ndarray, passed: np.ndarray) -> None:
    order, gated = np.argsort(values, axis=1), values * passed
    found, ranks = np.full_like(order, -1), np.empty_like(values)
    order_gated(gated, order, found)
    assert np.array_equal(np.sort(found, axis=1), np.sort(order, axis=1))
    rank_in_order(gated, found, ranks)
    assert np.array_equal(ranks, rankdata(gated, axis=1))


def targets_and_prediction() -> tuple[Targets, Prediction]:
    generator = numpy_generator(3, "tuning")
    probability = generator.random((40, 12), dtype=np.float32)
    values = np.where(generator.random((40, 12)) < probability, 1 + probability, 0).astype(np.float32)
    stats = GeneStats(np.ones(12), np.ones(12), np.ones(12))
    targets = Targets(csr_matrix(np.rint(values * 3)), values, stats, 100.0)
    return targets, Prediction(probability + generator.random((40, 12), dtype=np.float32) / 4, probability)


def test_the_threshold_has_the_highest_spearman_correlation() -> None:
    targets, prediction = targets_and_prediction()
    gains = [
        correlations(average_ranks(prediction.gated(threshold).mean), targets.cell_ranks).mean()
        for threshold in evaluator.THRESHOLDS
    ]
    best = evaluator.THRESHOLDS[int(np.argmax(gains))]
    assert min(gains) < max(gains)
    assert evaluator.choose_threshold(prediction, targets) == best


@dataclass(frozen=True)
class Constant:
    """A predictor with a constant error, whose composition is the actual one at an error of 3 or at every error."""

    targets: Targets
    always: bool
    name: str = "constant"

    def parameter_grid(self) -> list[dict[str, float]]:
        return [{"error": error} for error in (2.0, 1.0, 3.0)]

    def prediction(self, parameters: dict[str, float]) -> Prediction:
        counts = self.targets.counts.toarray().astype(np.float32) + 1
        known = self.always or parameters["error"] == 3.0
        mean = self.targets.values + parameters["error"]
        return Prediction(mean, counts, counts if known else np.ones_like(counts))


@pytest.mark.parametrize(("always", "for_counts"), [(True, 1.0), (False, 3.0)])
def test_parameters_for_counts_differ_only_where_others_are_better(
    monkeypatch: pytest.MonkeyPatch, always: bool, for_counts: float
) -> None:
    targets, _ = targets_and_prediction()
    predictor = Constant(targets, always)
    monkeypatch.setattr(
        evaluator, "predict_folds", lambda one, _dataset, _folds, parameters, _advance: one.prediction(parameters)
    )
    tuned = evaluator.tune(predictor, None, [], targets)
    assert (tuned.parameters, tuned.count_parameters) == ({"error": 1.0}, {"error": for_counts})
