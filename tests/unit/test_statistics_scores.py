"""Log loss, calibration error and reliability curves, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cifm_cli.statistics.scores import (
    ReliabilityCurve,
    balanced_weights,
    calibration_error,
    log_loss,
    log_loss_from_logs,
)

PROBABILITIES = np.array([[0.25, 0.75], [1.0, 0.0]])


def test_log_loss_is_minus_the_logarithm_of_the_actual_class() -> None:
    assert log_loss(PROBABILITIES, np.array([1, 0]), smallest=1e-9).tolist() == pytest.approx([-np.log(0.75), 0])


def test_log_loss_of_an_impossible_class_is_limited() -> None:
    losses = log_loss(PROBABILITIES, np.array([0, 1]), smallest=1e-6)
    assert losses.tolist() == pytest.approx([-np.log(0.25), -np.log(1e-6)])


@pytest.mark.parametrize("smallest", [0.5, 1e-6])
def test_log_loss_of_logarithms_is_the_same(smallest: float) -> None:
    codes = np.array([0, 0])
    from_logs = log_loss_from_logs(np.log(np.maximum(PROBABILITIES, 1e-300)), codes, smallest=smallest)
    assert from_logs.tolist() == pytest.approx(log_loss(PROBABILITIES, codes, smallest=smallest).tolist())


def test_log_loss_of_logarithms_without_a_limit() -> None:
    assert log_loss_from_logs(np.array([[-700.0, 0.0]]), np.array([0])).tolist() == [700.0]


def test_balanced_weights_give_every_class_that_occurs_the_same_total() -> None:
    assert balanced_weights(np.array([0, 0, 0, 2])).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_calibration_error_of_two_bins() -> None:
    """The error is 0.05 for two predictions at 0.55, one of them correct, and 0.05 for one at 0.95."""
    confidence, correct = np.array([0.95, 0.55, 0.55]), np.array([True, True, False])
    assert calibration_error(confidence, correct) == pytest.approx((0.05 + 2 * 0.05) / 3)


def test_calibration_error_with_weights() -> None:
    confidence, correct = np.array([1.0, 0.5, 0.5]), np.array([True, True, False])
    assert calibration_error(confidence, correct) == 0.0
    assert calibration_error(confidence, correct, np.array([0.5, 0.5, 0.0])) == pytest.approx(0.25)


def test_a_reliability_curve_accumulates_batches() -> None:
    curve = ReliabilityCurve((0.0, 0.5, 0.75, 1.0))
    curve.add(np.array([[0.25, 1.0]]), np.array([[False, True]]))
    curve.add(np.array([0.25]), np.array([True]))
    count, predicted, observed = curve.points()
    assert (count, predicted, observed) == ([2, 1], [0.25, 1.0], [0.5, 1.0]), "the empty bin is left out"
    assert curve.mean_predicted == pytest.approx(0.5)
    assert curve.mean_observed == pytest.approx(2 / 3)
    assert curve.calibration_error == pytest.approx(2 / 3 * 0.25)
