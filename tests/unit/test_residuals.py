"""Errors of a prediction, and their return to a prediction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.inference.neighbourhood.blend import RADII
from cifm_cli.inference.neighbourhood.residuals import (
    MAX_COEFFICIENTS,
    MAX_FEATURES,
    add_errors,
    errors,
    mean_features,
    parts_of,
    ridge_genes,
)
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
from cifm_cli.inference.prediction import Prediction

COUNTS = csr_matrix(np.array([[2.0, 0.0], [1.0, 3.0]], np.float32))
VALUES = csr_matrix(np.array([[1.5, 0.0], [0.5, 1.0]], np.float32))


def constant(mean: float, expressed: float, composition: tuple[float, float]) -> Prediction:
    """The same prediction for two cells and two genes."""
    parts = (np.full(2, mean), np.full(2, expressed), np.array(composition))
    return Prediction(*(np.tile(part, (2, 1)).astype(np.float32) for part in parts))


def stats(mean: np.ndarray) -> GeneStats:
    return GeneStats(mean, mean, mean)


def test_errors_worked_out_by_hand() -> None:
    found = errors(VALUES, COUNTS, constant(1.0, 0.5, (0.75, 0.25)))
    # The mean depth is 3: a cell of 2 counts, all of the first gene, and one of 4 counts, of which one.
    expected = [
        [0.5, -1.0, 0.5, -0.5, (2 - 1.5) / 3, (0 - 0.5) / 3],
        [-0.5, 0.0, 0.5, 0.5, (1 - 3) / 3, (3 - 1) / 3],
    ]
    assert found == pytest.approx(np.array(expected), abs=1e-6)
    assert found.dtype == np.float32


def test_cells_without_counts_have_finite_errors() -> None:
    void = csr_matrix((2, 2), dtype=np.float32)
    assert errors(void, void, constant(1.0, 0.5, (0.75, 0.25)))[:, 4:].tolist() == [[0, 0], [0, 0]]


def test_adding_the_errors_of_cells_of_equal_depth_gives_their_values() -> None:
    """Nothing is clipped here, and the composition is that of the counts."""
    counts = csr_matrix(np.array([[2.0, 2.0], [1.0, 3.0]], np.float32))
    base = constant(1.0, 0.5, (0.75, 0.25))
    mean, expressed, composition = parts_of(add_errors(base, errors(VALUES, counts, base)))
    assert mean == pytest.approx(VALUES.toarray(), abs=1e-6)
    assert expressed == pytest.approx((VALUES.toarray() > 0).astype(float), abs=1e-6)
    assert composition == pytest.approx(counts.toarray() / 4, abs=1e-6)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_corrected_predictions_stay_in_their_range(floor: float) -> None:
    base = constant(1.0, 0.5, (0.75, 0.25))
    for size in (-10.0, 10.0):
        changed = np.tile(np.array([size, -size, size, -size, size, -size], np.float32), (2, 1))
        mean, expressed, composition = parts_of(add_errors(base, changed, floor))
        assert mean.min() == pytest.approx(floor)
        assert (expressed.min(), expressed.max()) == pytest.approx((0.5 * floor, 1))
        assert composition.sum(axis=1) == pytest.approx([1, 1])
        assert (composition.min() > 0) == (floor > 0)


def test_features_are_differences_from_the_mean_of_the_slide() -> None:
    means = [constant(value, 0, (0, 1)) for value in (1.0, 3.0)]
    found = mean_features(means, stats(np.array([0.5, 2.0])), np.array([1]))
    assert found.tolist() == [[-1.0, 1.0]] * 2


def test_the_most_expressed_genes_are_features() -> None:
    assert ridge_genes(stats(np.array([0.1, 3.0, 2.0])), 3).tolist() == [0, 1, 2]
    many = ridge_genes(stats(np.arange(600.0)), 3)
    assert many.tolist() == list(range(600 - MAX_FEATURES // len(RADII), 600))
    wide = ridge_genes(stats(np.arange(20_000.0)), 9)
    assert 0 < len(wide) * len(RADII) <= MAX_COEFFICIENTS // (9 * 20_000)
    assert len(ridge_genes(stats(np.ones(30_000)), 1_000)) == 1


def test_a_prediction_without_composition_has_no_parts() -> None:
    with pytest.raises(ValueError, match="no composition"):
        parts_of(Prediction(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)))
