"""Laws of distributions: proper scores by hand, draws that follow their probabilities, nothing hidden ever read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import cifm_backends
from cifm_cli.data.slide import MemoryCounts, Slide, open_slide
from cifm_cli.evaluation.bench import Bench, set_up_bench
from cifm_cli.evaluation.cell_states import (
    StateBook,
    draw_of_neighbours,
    draw_of_states,
    log_loss,
    neighbour_frequencies,
    neighbour_settings,
    neighbour_weights,
    open_states,
)
from cifm_cli.evaluation.distribution import (
    Distributions,
    DistributionScore,
    calibration_error,
    energy_score,
    judge_distribution,
)
from cifm_cli.evaluation.distribution_report import distribution_table
from cifm_cli.evaluation.intervals import spatial_blocks
from cifm_cli.evaluation.predictors import ModelPredictor, hidden_rows, infer_rounds
from cifm_cli.evaluation.protocols import Round, hide
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.checkpoint import Checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.states import fit_states
from cifm_cli.provenance import numpy_generator, seeded_torch
from cifm_cli.recipe import parse

SETTINGS = {"k": 32, "width": 1.0, "belief": 2.0}


@pytest.fixture(scope="module")
def slide(prepared_synthetic: Path) -> Slide:
    return open_slide(prepared_synthetic)


@pytest.fixture(scope="module")
def engine(slide: Slide) -> LoadedModel:
    recipe = parse({"model": {"width": 16}, "objective": {"states": 6}, "data": {"tile_cells": 64}}, "test")
    with seeded_torch(0, "network"):
        network = Ensemble(slide.num_genes, recipe)
        for weight in network.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
    network.first.head.states.fill(*fit_states(slide.expression(slide.region("train"), 10_000.0), 6, seed=0))
    checkpoint = Checkpoint(network.eval(), recipe, slide.gene_ids, {}, Path())
    return LoadedModel(checkpoint, cifm_backends.select("torch", "cpu"), torch.device("cpu"))


@pytest.fixture(scope="module")
def bench(slide: Slide, engine: LoadedModel) -> Bench:
    return set_up_bench(slide, [engine], 0)


@pytest.fixture(scope="module")
def book(bench: Bench, engine: LoadedModel) -> StateBook:
    found = open_states(bench, engine)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def rounds(bench: Bench) -> list[Round]:
    return hide("scattered", bench.slide.xy_um, bench.slide.region("test"), bench.radius_um, 0)[:3]


def test_energy_score_by_hand() -> None:
    # |3 - 1| and |7 - 1| average 4; the two draws are 4 apart
    score = energy_score(np.array([[1.0]], dtype=np.float32), np.array([[[3.0], [7.0]]], dtype=np.float32))
    assert score.tolist() == [pytest.approx(4 - 4 / 2)]


def test_energy_score_prefers_the_true_distribution() -> None:
    """Truth is -1 or 1, never 0: draws of both beat the mean, which a squared error would prefer."""
    generator = np.random.default_rng(0)
    truth = generator.choice([-1.0, 1.0], (4_000, 1)).astype(np.float32)
    both = generator.choice([-1.0, 1.0], (4_000, 8, 1)).astype(np.float32)
    assert energy_score(truth, both).mean() < energy_score(truth, np.zeros_like(both)).mean() - 0.3


def test_log_loss_and_calibration_by_hand() -> None:
    probability = np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)
    assert log_loss(probability, np.array([1, 0])).tolist() == pytest.approx([-np.log(0.75), 0])
    assert np.isfinite(log_loss(probability, np.array([0, 1]))).all(), "certain and wrong is dear, not infinite"
    # one cell of 0.95 right, two of 0.55, one right: (0.05 + |1.1 - 1|) / 3
    found = calibration_error(np.array([0.95, 0.55, 0.55]), np.array([True, True, False]))
    assert found == pytest.approx((0.05 + 0.1) / 3)


def test_states_are_drawn_as_often_as_they_are_likely(book: StateBook, rounds: list[Round]) -> None:
    part = rounds[0]
    probability = np.tile(np.array([0.5, 0.3, 0.2, 0, 0, 0], dtype=np.float32), (len(part.hidden), 1))
    drawn = draw_of_states(book, part, probability, 400, numpy_generator(0, "draw"))
    assert not np.isin(drawn, part.hidden).any()
    found = np.bincount(book.state[drawn].ravel(), minlength=6) / drawn.size
    assert found == pytest.approx([0.5, 0.3, 0.2, 0, 0, 0], abs=0.02)


def test_neighbours_are_drawn_as_often_as_they_weigh(book: StateBook, rounds: list[Round]) -> None:
    part = rounds[0]
    weights = neighbour_weights(book, part, SETTINGS)
    frequency = neighbour_frequencies(book, part, weights, 2.0)
    drawn = draw_of_neighbours(book, part, weights, 2.0, 800, numpy_generator(0, "draw"))
    assert not np.isin(drawn, part.hidden).any()
    found = np.stack([np.bincount(book.state[row], minlength=6) for row in drawn]) / drawn.shape[1]
    assert np.abs(found - frequency).max() < 0.1
    assert np.abs(found - frequency).mean() < 0.02


Distribution = Callable[[StateBook, Round], np.ndarray]


def of_the_model(book: StateBook, part: Round) -> np.ndarray:
    found = infer_rounds(ModelPredictor("model", book.engine), book.bench, [part], {}).states
    assert found is not None
    return found


def of_the_neighbours(book: StateBook, part: Round) -> np.ndarray:
    return neighbour_frequencies(book, part, neighbour_weights(book, part, SETTINGS), 2.0)


def drawn_from_the_neighbours(book: StateBook, part: Round) -> np.ndarray:
    weights = neighbour_weights(book, part, SETTINGS)
    return draw_of_neighbours(book, part, weights, 2.0, 8, numpy_generator(0, "canary"))


def drawn_from_the_training_cells(book: StateBook, part: Round) -> np.ndarray:
    probability = np.tile(book.frequency(part).astype(np.float32), (len(part.hidden), 1))
    return draw_of_states(book, part, probability, 8, numpy_generator(0, "canary"))


def of_a_peeping_one(book: StateBook, part: Round) -> np.ndarray:
    """Leaks: it believes a little in the state that the hidden cell is in."""
    found = of_the_neighbours(book, part)
    found[np.arange(len(part.hidden)), book.state[part.hidden]] += 1e-3
    return found


def leaks(distribution: Distribution, book: StateBook, part: Round) -> bool:
    """Whether a distribution changes, in any bit, with the counts of the hidden cells."""
    slide, rows = book.bench.slide, part.hidden
    counts = slide.counts(np.arange(slide.num_cells)).toarray()
    counts[rows] = numpy_generator(0, "canary").permutation(counts[rows].ravel()).reshape(len(rows), -1) * 3
    other_slide = replace(slide, source=MemoryCounts(csr_matrix(counts)), total_counts=counts.sum(axis=1, dtype=float))
    other = open_states(set_up_bench(other_slide, [book.engine], 0), book.engine)
    assert other is not None
    assert (other.state[rows] != book.state[rows]).any(), "the canary is mute"
    return not np.array_equal(distribution(book, part), distribution(other, part))


@pytest.mark.parametrize("region", ["test", "train"])
@pytest.mark.parametrize(
    ("distribution", "peeps"),
    [
        (of_the_model, False),
        (of_the_neighbours, False),
        (drawn_from_the_neighbours, False),
        (drawn_from_the_training_cells, False),
        (of_a_peeping_one, True),
    ],
)
def test_what_is_hidden_is_not_read(book: StateBook, distribution: Distribution, region: str, *, peeps: bool) -> None:
    """Leak canary, and the canary's own test."""
    cells = book.bench.slide.region(region)
    hidden = np.sort(numpy_generator(0, "hidden").permutation(cells)[: len(cells) // 4])
    assert leaks(distribution, book, Round(0, np.setdiff1d(cells, hidden), hidden)) == peeps


def test_without_training_cells_the_visible_ones_speak(book: StateBook) -> None:
    slide = book.bench.slide
    part = Round(0, slide.region("test"), slide.region("train"), "whole")
    assert np.array_equal(book.training_cells(part), book.visible_cells(part))
    assert book.frequency(part).sum() == pytest.approx(1)
    assert np.isin(drawn_from_the_training_cells(book, part), part.visible).all()


def test_the_whole_judgement(bench: Bench, engine: LoadedModel, book: StateBook, rounds: list[Round]) -> None:
    tuning = hide("scattered", bench.slide.xy_um, bench.slide.region("validation"), bench.radius_um, 0)[:2]
    rows = hidden_rows(rounds)
    states = infer_rounds(ModelPredictor("model", engine), bench, rounds, {}).states
    assert states is not None
    found = judge_distribution(book, states, rounds, tuning, spatial_blocks(bench.slide.xy_um[rows], 20.0, 0))
    facts = found.facts()
    assert set(facts["predictors"]) == {"model", "neighbours", "training_frequency"}
    assert found.sampled.shape == (len(rows), len(bench.columns))
    for score in facts["predictors"].values():
        assert score["perplexity"] == pytest.approx(np.exp(score["log_loss"]))
        assert 1 <= score["perplexity"] < 20
    for name, paired in facts["paired"].items():
        rivals = {rival: facts["predictors"][rival][name] for rival in ("neighbours", "training_frequency")}
        assert paired["rival"] == min(rivals, key=rivals.__getitem__)
        difference = facts["predictors"]["model"][name] - rivals[paired["rival"]]
        assert paired["difference"] == pytest.approx(difference)
        assert paired["low"] < paired["difference"] < paired["high"]
    assert set(facts["predictors"]["neighbours"]["tuned"]) == {"k", "width", "belief"}


def by_hand(log_loss: float, energy: float) -> DistributionScore:
    cells = {"log_loss": np.full(16, log_loss), "energy_score": np.full(16, energy)}
    return DistributionScore(cells, np.full(16, 0.5), np.arange(16) % 2 == 0)


def test_the_model_is_held_against_the_stronger_rival_of_each_score() -> None:
    scores = {"model": by_hand(3.2, 5.0), "neighbours": by_hand(3.7, 4.0), "training_frequency": by_hand(3.3, 6.0)}
    grid = 300.0 * np.stack(np.divmod(np.arange(16), 4), axis=1)  # each cell in a block of its own
    found = Distributions(6, scores, np.zeros((16, 1), dtype=np.float32), spatial_blocks(grid, 20.0, 0))
    paired = found.facts()["paired"]
    assert paired["log_loss"] == {
        "rival": "training_frequency",
        **dict.fromkeys(("difference", "low", "high"), pytest.approx(-0.1)),
        "relative": pytest.approx(-0.1 / 3.3),
    }
    assert (paired["energy_score"]["rival"], paired["energy_score"]["difference"]) == ("neighbours", 1.0)
    header, rows, best = distribution_table(found)
    assert {len(row) for row in rows} == {len(header)}
    assert "of training_frequency" in rows[-1][1]
    assert "of neighbours" in rows[-1][3]
    assert {(0, 1), (0, 2), (1, 3)} <= set(best)
    assert not {(1, 1), (2, 1), (0, 3), (2, 3)} & set(best)


def test_the_tuned_neighbours_can_fall_back_on_the_training_frequencies(book: StateBook, rounds: list[Round]) -> None:
    """Where those around a cell tell nothing, tuning must be able not to hear them."""
    part = rounds[0]
    settings = neighbour_settings()[-1]
    found = neighbour_frequencies(book, part, neighbour_weights(book, part, settings), settings["belief"])
    assert np.abs(found - book.frequency(part)).max() < 1e-3
