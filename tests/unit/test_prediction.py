"""`Prediction` by hand: from logits, gated, its median, and parts of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cifm_cli.inference.prediction import Prediction
from cifm_cli.model.output import Output


def make_prediction(num_cells: int, seed: int = 0) -> Prediction:
    generator = np.random.default_rng(seed)
    arrays = (generator.random((num_cells, width), dtype=np.float32) for width in (4, 4, 4, 2))
    return Prediction(*arrays)


def test_logits_become_probabilities() -> None:
    logits = torch.tensor([[0.0, np.log(3)]], dtype=torch.float64)
    output = Output(torch.tensor([[-1.0, 2.0]]), logits, composition=logits, state=logits)
    prediction = Prediction.from_logits(output)
    assert prediction.mean.tolist() == [[0, 2]]
    assert prediction.expressed[0] == pytest.approx([0.5, 0.75])
    for probabilities in (prediction.composition, prediction.states):
        assert probabilities[0] == pytest.approx([0.25, 0.75])
        assert probabilities.dtype == np.float32


def test_a_head_without_composition_has_none() -> None:
    prediction = Prediction.from_logits(Output(torch.ones(1, 2), torch.zeros(1, 2)))
    assert prediction.composition is None
    assert prediction.states is None
    assert prediction.gated(0.4).composition is None
    assert Prediction.concatenate([prediction, prediction], np.array([1, 0])).states is None


def test_gating_is_zero_up_to_the_threshold() -> None:
    values = np.array([[1, 2, 3]], dtype=np.float32)
    expressed = np.array([[0.2, 0.5, 0.75]], dtype=np.float32)
    gated = Prediction(values, expressed, values, values).gated(0.5)
    assert gated.mean.tolist() == [[0, 0, 3]]
    assert gated.expressed.tolist() == [[0, 0, 0.75]]
    assert gated.composition.tolist() == [[0, 0, 3]]
    assert gated.states is values
    assert {array.dtype for array in (gated.mean, gated.expressed, gated.composition)} == {np.dtype(np.float32)}


def test_the_median_by_hand() -> None:
    """Zero up to 1/2; above, mean / P(expressed); never above log1p(10,000) = 9.21."""
    mean = np.array([[3, 2, 2, 4.5, 7, 0]], dtype=np.float32)
    expressed = np.array([[0.3, 0.5, 0.625, 0.75, 0.7, 0.9]], dtype=np.float32)
    median = Prediction(mean, expressed).median(1e4)
    assert median.dtype == np.float32
    assert median[0] == pytest.approx([0, 0, 3.2, 6, np.log1p(1e4), 0])


def test_the_median_of_cells_at_zero_or_one_level_is_exact() -> None:
    """Ten cells, n of them at level 6: their median follows from their mean and the fraction that expresses."""
    for number in (0, 1, 4, 6, 9, 10):
        cells = np.array([6.0] * number + [0.0] * (10 - number))
        mean, expressed = (np.array([[value]], dtype=np.float32) for value in (cells.mean(), (cells > 0).mean()))
        assert Prediction(mean, expressed).median(1e4)[0, 0] == pytest.approx(np.median(cells))


def test_genes_and_cells_are_taken_in_the_given_order() -> None:
    prediction, columns, rows = make_prediction(3), np.array([2, 0]), np.array([1, 2, 0, 1])
    genes, cells = prediction.take_genes(columns), prediction.take_cells(rows)
    for name in ("mean", "expressed", "composition"):
        assert np.array_equal(getattr(genes, name), getattr(prediction, name)[:, columns])
        assert np.array_equal(getattr(cells, name), getattr(prediction, name)[rows])
    assert genes.states is prediction.states
    assert np.array_equal(cells.states, prediction.states[rows])


def test_parts_are_joined_in_a_given_order() -> None:
    first, second = make_prediction(2), make_prediction(1, seed=1)
    joined = Prediction.concatenate([first, second], np.array([2, 0, 1]))
    assert joined.num_cells == 3
    for name in ("mean", "expressed", "composition", "states"):
        assert np.array_equal(getattr(joined, name), np.concatenate([getattr(second, name), getattr(first, name)]))
