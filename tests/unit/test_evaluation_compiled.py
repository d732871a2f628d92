"""Compiled loops against SciPy and NumPy, and what tuning makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix
from scipy.stats import rankdata

from cifm_cli.evaluation import tuning
from cifm_cli.evaluation.compiled import order_gated, rank_in_order, weighted_sums
from cifm_cli.evaluation.context import Estimate, Profile
from cifm_cli.evaluation.metrics import gate
from cifm_cli.evaluation.ranking import average_ranks, correlations
from cifm_cli.evaluation.truth import Truth
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


def truth_and_estimate() -> tuple[Truth, Estimate]:
    generator = numpy_generator(3, "tuning")
    share = generator.random((40, 12), dtype=np.float32)
    values = np.where(generator.random((40, 12)) < share, 1 + share, 0).astype(np.float32)
    truth = Truth(csr_matrix(np.rint(values * 3)), values, Profile(np.ones(12), np.ones(12), np.ones(12)), 100.0)
    return truth, Estimate(share + generator.random((40, 12), dtype=np.float32) / 4, share)


def test_the_threshold_is_the_one_whose_gate_ranks_best() -> None:
    truth, estimate = truth_and_estimate()
    gains = [
        correlations(average_ranks(gate(estimate, threshold).mean), truth.cell_ranks).mean()
        for threshold in tuning.THRESHOLDS
    ]
    best = tuning.THRESHOLDS[int(np.argmax(gains))]
    assert min(gains) < max(gains)
    assert tuning.choose_threshold(estimate, truth) == best


@dataclass(frozen=True)
class Constant:
    """Errs by a number; its composition is that of the truth at even errors alone, or always."""

    truth: Truth
    always: bool
    name: str = "constant"

    def candidates(self) -> list[dict[str, float]]:
        return [{"error": error} for error in (2.0, 1.0, 3.0)]

    def estimate(self, settings: dict[str, float]) -> Estimate:
        counts = self.truth.counts.toarray().astype(np.float32) + 1
        known = self.always or settings["error"] == 3.0
        return Estimate(self.truth.values + settings["error"], counts, counts if known else np.ones_like(counts))


@pytest.mark.parametrize(("always", "counted"), [(True, 1.0), (False, 3.0)])
def test_settings_for_counts_are_others_only_where_they_do_better(
    monkeypatch: pytest.MonkeyPatch, always: bool, counted: float
) -> None:
    truth, _ = truth_and_estimate()
    predictor = Constant(truth, always)
    monkeypatch.setattr(tuning, "infer_rounds", lambda found, _bench, _rounds, settings: found.estimate(settings))
    found = tuning.tune(predictor, None, [], truth)
    assert (found.settings, found.count_settings) == ({"error": 1.0}, {"error": counted})
