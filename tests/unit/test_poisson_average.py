"""`average_poisson`: what P(expressed) and composition imply of each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli.inference.poisson_average import COMPOSITION_WEIGHT, EXPRESSED_WEIGHT, MAX_PROBABILITY, average_poisson
from cifm_cli.inference.prediction import Prediction


def predict(expressed: list[list[float]], composition: list[list[float]]) -> Prediction:
    shared = np.asarray(expressed, np.float32)
    return Prediction(np.zeros_like(shared), shared, np.asarray(composition, np.float32))


@given(num_genes=st.integers(2, 400), log_depth=st.floats(-2, 2), seed=st.integers(0, 2**32 - 1))
def test_outputs_that_agree_stay_as_they_are(num_genes: int, log_depth: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    composition = generator.dirichlet(np.ones(num_genes), size=3)
    depth = min(10**log_depth, -np.log1p(-MAX_PROBABILITY) / composition.max())
    expressed = -np.expm1(-depth * composition)
    prediction = Prediction(expressed, expressed, composition)
    found = average_poisson(prediction, generator.random(num_genes))
    error = max(np.abs(found.expressed - expressed).max(), np.abs(found.composition - composition).max())
    # The depth is found to a ten-thousandth, the weight is at most a fifth.
    assert error < 1e-4


@given(num_genes=st.integers(2, 60), seed=st.integers(0, 2**32 - 1))
def test_the_expected_number_of_genes_and_the_sum_of_the_composition_stay(num_genes: int, seed: int) -> None:
    """If all genes have one weight; as many genes are expected at the implied depth, by its definition."""
    generator = np.random.default_rng(seed)
    expressed = generator.uniform(0, 0.9, (4, num_genes))
    composition = generator.dirichlet(np.ones(num_genes) * 10, size=4)
    found = average_poisson(Prediction(expressed, expressed, composition), np.full(num_genes, 0.3))
    assert found.expressed.sum(axis=1) == pytest.approx(expressed.sum(axis=1), rel=1e-3)
    assert found.composition.sum(axis=1) == pytest.approx(np.ones(4))
    assert (found.composition >= 0).all()
    assert ((found.expressed >= 0) & (found.expressed <= 1)).all()


def test_the_average_by_hand() -> None:
    """Two genes of equal fractions at a depth of 2 log 2 are each expressed in half of the cells."""
    found = average_poisson(predict([[0.25, 0.75]], [[0.5, 0.5]]), np.array([0.0, 0.5]))
    assert found.expressed[0] == pytest.approx(
        [0.25 + EXPRESSED_WEIGHT * 0.25, 0.75 - EXPRESSED_WEIGHT / 2 * 0.25], abs=1e-4
    )
    # Rates log(4/3) and log 4 give the fractions .1718 and .8282.
    mixed = np.array([0.5 + COMPOSITION_WEIGHT * (0.1718 - 0.5), 0.5 + COMPOSITION_WEIGHT / 2 * (0.8282 - 0.5)])
    assert found.composition[0] == pytest.approx(mixed / mixed.sum(), abs=1e-4)


def test_a_gene_that_every_cell_expresses_keeps_its_probability() -> None:
    found = average_poisson(predict([[0.9, 0.2]], [[0.1, 0.9]]), np.array([1.0, 0.0]))
    assert found.expressed[0, 0] == np.float32(0.9)
    assert found.expressed[0, 1] != np.float32(0.2)


def test_what_tells_nothing_is_left() -> None:
    """A cell without expected counts, one without expected genes; and a prediction without a composition."""
    prediction = predict([[0.5, 0.2], [0, 0]], [[0, 0], [0.5, 0.5]])
    found = average_poisson(prediction, np.zeros(2))
    assert np.array_equal(found.expressed, prediction.expressed)
    assert np.array_equal(found.composition, prediction.composition)
    alone = Prediction(prediction.mean, prediction.expressed)
    assert average_poisson(alone, np.zeros(2)) is alone


def test_more_genes_than_the_composition_allows() -> None:
    """Of a single gene with counts no depth gives two expressed ones: all are then as probable as can be."""
    found = average_poisson(predict([[0.9, 0.9, 0.9]], [[1, 0, 0]]), np.zeros(3))
    assert found.expressed[0] == pytest.approx([0.9 + EXPRESSED_WEIGHT * 0.1, *[0.9 * (1 - EXPRESSED_WEIGHT)] * 2])
    assert np.isfinite(found.composition).all()


def test_a_row_keeps_its_sum() -> None:
    """Rows of a gated composition sum to less than one."""
    found = average_poisson(predict([[0.5, 0.5]], [[0.3, 0.2]]), np.zeros(2))
    assert found.composition.sum() == pytest.approx(0.5)
    assert found.expressed.dtype == found.composition.dtype == np.float32
