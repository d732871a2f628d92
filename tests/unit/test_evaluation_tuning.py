"""Compiled loops against SciPy and NumPy, and what evaluator makes of them."""

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
from cifm_cli.evaluation.examples import GeneStats, Targets
from cifm_cli.evaluation.metrics.ranking import average_ranks, correlations, order_gated, rank_in_order
from cifm_cli.evaluation.predictors.local_averages import weighted_sums
from cifm_cli.inference.prediction import Prediction, gate
from cifm_cli.provenance import numpy_generator

FEW_VALUES = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])


@given(arrays(np.float32, (4, 5), elements=FEW_VALUES), arrays(np.float32, (5, 3), elements=FEW_VALUES))
def test_weighted_sums_are_a_matrix_product(weights: np.ndarray, values: np.ndarray) -> None:
    assert np.array_equal(weighted_sums(csr_matrix(weights), csr_matrix(values)), weights @ values)


def test_sums_of_nobody_are_zero() -> None:
    assert weighted_sums(csr_matrix((2, 3)), csr_matrix((3, 4))).tolist() == [[0.0] * 4] * 2


@given(arrays(np.float32, (3, 8), elements=FEW_VALUES), arrays(np.bool_, (3, 8)))
def test_gated_rows_are_ordered_without_sorting_again(values: np.ndarray, passed: np.ndarray) -> None:
    order, gated = np.argsort(values, axis=1), values * passed
    found, ranks = np.full_like(order, -1), np.empty_like(values)
    order_gated(gated, order, found)
    assert np.array_equal(np.sort(found, axis=1), np.sort(order, axis=1))
    rank_in_order(gated, found, ranks)
    assert np.array_equal(ranks, rankdata(gated, axis=1))


def truth_and_estimate() -> tuple[Targets, Prediction]:
    generator = numpy_generator(3, "tuning")
    expressed = generator.random((40, 12), dtype=np.float32)
    values = np.where(generator.random((40, 12)) < expressed, 1 + expressed, 0).astype(np.float32)
    targets = Targets(csr_matrix(np.rint(values * 3)), values, GeneStats(np.ones(12), np.ones(12), np.ones(12)), 100.0)
    return targets, Prediction(expressed + generator.random((40, 12), dtype=np.float32) / 4, expressed)


def test_the_threshold_is_the_one_whose_gate_ranks_best() -> None:
    targets, estimate = truth_and_estimate()
    gains = [
        correlations(average_ranks(gate(estimate, threshold).mean), targets.cell_ranks).mean()
        for threshold in evaluator.THRESHOLDS
    ]
    best = evaluator.THRESHOLDS[int(np.argmax(gains))]
    assert min(gains) < max(gains)
    assert evaluator.choose_threshold(estimate, targets) == best


@dataclass(frozen=True)
class Constant:
    """Errs by a number; its composition is that of the targets at even errors alone, or always."""

    targets: Targets
    always: bool
    name: str = "constant"

    def parameter_grid(self) -> list[dict[str, float]]:
        return [{"error": error} for error in (2.0, 1.0, 3.0)]

    def estimate(self, parameters: dict[str, float]) -> Prediction:
        counts = self.targets.counts.toarray().astype(np.float32) + 1
        known = self.always or parameters["error"] == 3.0
        return Prediction(self.targets.values + parameters["error"], counts, counts if known else np.ones_like(counts))


@pytest.mark.parametrize(("always", "counted"), [(True, 1.0), (False, 3.0)])
def test_settings_for_counts_are_others_only_where_they_do_better(
    monkeypatch: pytest.MonkeyPatch, always: bool, counted: float
) -> None:
    targets, _ = truth_and_estimate()
    predictor = Constant(targets, always)
    monkeypatch.setattr(
        evaluator, "infer_rounds", lambda found, _bench, _rounds, parameters: found.estimate(parameters)
    )
    found = evaluator.tune(predictor, None, [], targets)
    assert (found.parameters, found.count_parameters) == ({"error": 1.0}, {"error": counted})
