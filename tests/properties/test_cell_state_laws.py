"""Distributions over cell states: proper scores, samples that follow the probabilities, no dependence on hidden cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import load_random_model, replace_counts

from cifm_cli.data.slide import Slide
from cifm_cli.evaluation.dataset import EvaluationDataset, open_dataset
from cifm_cli.evaluation.folds import Fold, hidden_rows, make_folds
from cifm_cli.evaluation.metrics.cell_states import (
    SlideStates,
    StateResult,
    StateScore,
    energy_score,
    evaluate_states,
    neighbour_frequencies,
    neighbour_parameter_grid,
    neighbour_weights,
    sample_from_states,
    sample_neighbours,
    slide_states,
)
from cifm_cli.evaluation.predictors.base import ModelPredictor, predict_folds
from cifm_cli.evaluation.report.tables import state_table
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.states import fit_states
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import spatial_bootstrap

PARAMETERS = {"k": 32, "width": 1.0, "belief": 2.0}


@pytest.fixture(scope="module")
def model(slide: Slide) -> LoadedModel:
    tables = {"model": {"width": 16}, "objective": {"states": 6}, "data": {"tile_cells": 64}}
    model = load_random_model(slide, tables)
    profiles, frequency = fit_states(slide.expression(slide.region("train"), 10_000.0), 6, seed=0)
    parameters = replace(model.slide_parameters(slide), state_profiles=profiles, state_frequency=frequency)
    model.checkpoint.network.pooled.fill(parameters, torch.arange(slide.num_genes))
    return model


@pytest.fixture(scope="module")
def dataset(slide: Slide, model: LoadedModel) -> EvaluationDataset:
    return open_dataset(slide, [model], 0)


@pytest.fixture(scope="module")
def states(dataset: EvaluationDataset, model: LoadedModel) -> SlideStates:
    found = slide_states(dataset, model)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def folds(dataset: EvaluationDataset) -> list[Fold]:
    return make_folds("scattered", dataset.slide.xy_um, dataset.slide.region("test"), dataset.radius_um, 0)[:3]


def test_energy_score_by_hand() -> None:
    # |3 - 1| and |7 - 1| have the mean 4; the two draws differ by 4
    score = energy_score(np.array([[1.0]], dtype=np.float32), np.array([[[3.0], [7.0]]], dtype=np.float32))
    assert score.tolist() == [pytest.approx(4 - 4 / 2)]


def test_energy_score_prefers_the_true_distribution() -> None:
    """The actual value is -1 or 1, never 0: samples of both beat the mean, which a squared error would prefer."""
    generator = np.random.default_rng(0)
    targets = generator.choice([-1.0, 1.0], (4_000, 1)).astype(np.float32)
    both = generator.choice([-1.0, 1.0], (4_000, 8, 1)).astype(np.float32)
    assert energy_score(targets, both).mean() < energy_score(targets, np.zeros_like(both)).mean() - 0.3


def test_states_are_sampled_with_their_probability(states: SlideStates, folds: list[Fold]) -> None:
    fold = folds[0]
    probability = np.tile(np.array([0.5, 0.3, 0.2, 0, 0, 0], dtype=np.float32), (len(fold.hidden), 1))
    drawn = sample_from_states(states, fold, probability, 400, numpy_generator(0, "draw"))
    assert not np.isin(drawn, fold.hidden).any()
    found = np.bincount(states.state[drawn].ravel(), minlength=6) / drawn.size
    assert found == pytest.approx([0.5, 0.3, 0.2, 0, 0, 0], abs=0.02)


def test_neighbours_are_sampled_with_their_weight(states: SlideStates, folds: list[Fold]) -> None:
    fold = folds[0]
    weights = neighbour_weights(states, fold, PARAMETERS)
    frequency = neighbour_frequencies(states, fold, weights, 2.0)
    drawn = sample_neighbours(states, fold, weights, 2.0, 800, numpy_generator(0, "draw"))
    assert not np.isin(drawn, fold.hidden).any()
    found = np.stack([np.bincount(states.state[row], minlength=6) for row in drawn]) / drawn.shape[1]
    assert np.abs(found - frequency).max() < 0.1
    assert np.abs(found - frequency).mean() < 0.02


Distribution = Callable[[SlideStates, Fold], np.ndarray]


def predict_with_model(states: SlideStates, fold: Fold) -> np.ndarray:
    found = predict_folds(ModelPredictor("model", states.model), states.dataset, [fold], {}).states
    assert found is not None
    return found


def predict_with_neighbours(states: SlideStates, fold: Fold) -> np.ndarray:
    return neighbour_frequencies(states, fold, neighbour_weights(states, fold, PARAMETERS), 2.0)


def draw_from_neighbours(states: SlideStates, fold: Fold) -> np.ndarray:
    weights = neighbour_weights(states, fold, PARAMETERS)
    return sample_neighbours(states, fold, weights, 2.0, 8, numpy_generator(0, "draw"))


def draw_from_training_cells(states: SlideStates, fold: Fold) -> np.ndarray:
    probability = np.tile(states.training_frequency(fold).astype(np.float32), (len(fold.hidden), 1))
    return sample_from_states(states, fold, probability, 8, numpy_generator(0, "draw"))


def predict_with_leak(states: SlideStates, fold: Fold) -> np.ndarray:
    """A predictor that leaks: it raises the probability of the actual state by 0.001."""
    found = predict_with_neighbours(states, fold)
    found[np.arange(len(fold.hidden)), states.state[fold.hidden]] += 1e-3
    return found


def leaks(distribution: Distribution, states: SlideStates, fold: Fold) -> bool:
    """Return whether any bit of a distribution changes with the counts of the hidden cells."""
    slide, rows = states.dataset.slide, fold.hidden
    counts = slide.counts(rows).toarray()
    permuted = numpy_generator(0, "hidden counts").permutation(counts.ravel()).reshape(counts.shape)
    other_slide = replace_counts(slide, rows, permuted * 3)
    other = slide_states(open_dataset(other_slide, [states.model], 0), states.model)
    assert other is not None
    assert (other.state[rows] != states.state[rows]).any(), "no hidden state has changed, so nothing is tested"
    return not np.array_equal(distribution(states, fold), distribution(other, fold))


@pytest.mark.parametrize("region", ["test", "train"])
@pytest.mark.parametrize(
    ("distribution", "is_leaky"),
    [
        (predict_with_model, False),
        (predict_with_neighbours, False),
        (draw_from_neighbours, False),
        (draw_from_training_cells, False),
        (predict_with_leak, True),
    ],
)
def test_no_distribution_depends_on_hidden_cells(
    states: SlideStates, distribution: Distribution, region: str, *, is_leaky: bool
) -> None:
    """Only the predictor that leaks depends on the counts of the hidden cells."""
    cells = states.dataset.slide.region(region)
    hidden = np.sort(numpy_generator(0, "hidden").permutation(cells)[: len(cells) // 4])
    assert leaks(distribution, states, Fold(0, np.setdiff1d(cells, hidden), hidden)) == is_leaky


def test_without_training_cells_the_visible_ones_are_used(states: SlideStates) -> None:
    slide = states.dataset.slide
    fold = Fold(0, slide.region("test"), slide.region("train"), "whole")
    assert np.array_equal(states.training_rows(fold), states.visible_rows(fold))
    assert states.training_frequency(fold).sum() == pytest.approx(1)
    assert np.isin(draw_from_training_cells(states, fold), fold.visible).all()


def test_evaluation_of_states(
    dataset: EvaluationDataset, model: LoadedModel, states: SlideStates, folds: list[Fold]
) -> None:
    tuning = make_folds("scattered", dataset.slide.xy_um, dataset.slide.region("validation"), dataset.radius_um, 0)[:2]
    rows = hidden_rows(folds)
    predicted = predict_folds(ModelPredictor("model", model), dataset, folds, {}).states
    assert predicted is not None
    result = evaluate_states(states, predicted, folds, tuning, spatial_bootstrap(dataset.slide.xy_um[rows], 20.0, 0))
    facts = result.to_json()
    assert set(facts["predictors"]) == {"model", "neighbours", "training_frequency"}
    assert result.sampled.shape == (len(rows), len(dataset.columns))
    for score in facts["predictors"].values():
        assert score["perplexity"] == pytest.approx(np.exp(score["log_loss"]))
        assert 1 <= score["perplexity"] < 20
    for name, paired in facts["paired"].items():
        references = {other: facts["predictors"][other][name] for other in ("neighbours", "training_frequency")}
        assert paired["rival"] == min(references, key=references.__getitem__)
        difference = facts["predictors"]["model"][name] - references[paired["rival"]]
        assert paired["difference"] == pytest.approx(difference)
        assert paired["low"] < paired["difference"] < paired["high"]
    assert set(facts["predictors"]["neighbours"]["tuned"]) == {"k", "width", "belief"}


def constant_score(log_loss: float, energy: float) -> StateScore:
    cells = {"log_loss": np.full(16, log_loss), "energy_score": np.full(16, energy)}
    return StateScore(cells, np.full(16, 0.5), np.arange(16) % 2 == 0)


def test_the_reference_is_the_better_one_for_each_score() -> None:
    scores = {
        "model": constant_score(3.2, 5.0),
        "neighbours": constant_score(3.7, 4.0),
        "training_frequency": constant_score(3.3, 6.0),
    }
    grid = 300.0 * np.stack(np.divmod(np.arange(16), 4), axis=1)  # one block per cell
    result = StateResult(6, scores, np.zeros((16, 1), dtype=np.float32), spatial_bootstrap(grid, 20.0, 0))
    paired = result.to_json()["paired"]
    assert paired["log_loss"] == {
        "rival": "training_frequency",
        **dict.fromkeys(("difference", "low", "high"), pytest.approx(-0.1)),
        "relative": pytest.approx(-0.1 / 3.3),
    }
    assert (paired["energy_score"]["rival"], paired["energy_score"]["difference"]) == ("neighbours", 1.0)
    table = state_table(result)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert [row[1] for row in table.rows[-3:]] == ["-0.100", "[-0.100, -0.100]", "-3.0% of training_frequency"]
    assert "of neighbours" in table.rows[-1][3]
    assert {(0, 1), (0, 2), (1, 3)} <= set(table.best)
    assert not {(1, 1), (2, 1), (0, 3), (2, 3)} & set(table.best)


def test_a_large_prior_count_leaves_the_training_frequencies(states: SlideStates, folds: list[Fold]) -> None:
    """Where neighbours carry no information, tuning must be able to ignore them."""
    fold = folds[0]
    parameters = neighbour_parameter_grid()[-1]
    found = neighbour_frequencies(states, fold, neighbour_weights(states, fold, parameters), parameters["belief"])
    assert np.abs(found - states.training_frequency(fold)).max() < 1e-3
