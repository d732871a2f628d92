"""Laws of a model that is adapted to a whole slide: void cells, tiles, order of the cells, and genes it was not trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import load_random_model, take_genes
from scipy.sparse import csr_matrix, vstack

from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.data.slide import Slide
from cifm_cli.inference.adaptation.adapt import adapt_to_slide
from cifm_cli.inference.encode import encode_cells
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.inference.predict import predict_cells
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator

SEED = 5
NUM_VOID = 40
# Sums are taken in another order; regressions depend on all of them, and some weights are found by iteration.
TOLERANCE = 1e-3
OUTPUTS = ("mean", "expressed", "composition", "states")


def make_model(slide: Slide, tile_cells: int = 100_000) -> LoadedModel:
    return load_random_model(slide, {"model": {"width": 16}, "data": {"tile_cells": tile_cells}})


@pytest.fixture(scope="module")
def slide(slide: Slide) -> Slide:
    """Some genes of the slide of other tests."""
    return take_genes(slide, 64)


@pytest.fixture(scope="module")
def hidden(slide: Slide) -> np.ndarray:
    """Rows of some cells that are predicted."""
    return np.sort(numpy_generator(0, "hidden").choice(slide.num_cells, 60, replace=False))


@pytest.fixture(scope="module")
def adapted(slide: Slide) -> LoadedModel:
    return adapt_to_slide(make_model(slide), slide, SEED)


@pytest.fixture(scope="module")
def predicted(slide: Slide, hidden: np.ndarray, adapted: LoadedModel) -> Prediction:
    return predict_cells(adapted, slide, np.arange(slide.num_cells), hidden)


def require_equal(found: Prediction, expected: Prediction, tolerance: dict[str, float] | None = None) -> None:
    for name in OUTPUTS:
        first, second = getattr(found, name), getattr(expected, name)
        apart = np.abs(first - second).max() / np.abs(second).max()
        assert apart < (tolerance or {}).get(name, TOLERANCE), f"{name}: relative difference {apart:.1e}"


def with_void_cells(slide: Slide) -> tuple[Slide, np.ndarray]:
    """The slide with cells without counts between the others, and the (N,) rows of the others."""
    generator = numpy_generator(SEED, "void")
    low, high = slide.xy_um.min(axis=0), slide.xy_um.max(axis=0)
    places = generator.uniform(low - 20, high + 20, (NUM_VOID, 2))
    places[0] = slide.xy_um[0]
    where = np.sort(generator.integers(0, slide.num_cells + 1, NUM_VOID))
    is_void = np.insert(np.zeros(slide.num_cells, dtype=bool), where, values=True)
    order = np.empty(len(is_void), dtype=np.int64)
    order[~is_void], order[is_void] = np.arange(slide.num_cells), slide.num_cells + np.arange(NUM_VOID)
    counts = vstack([slide.source.matrix, csr_matrix((NUM_VOID, slide.num_genes), dtype=np.float32)], format="csr")
    larger = replace(
        slide,
        xy_um=np.concatenate([slide.xy_um, places])[order],
        total_counts=np.concatenate([slide.total_counts, np.zeros(NUM_VOID)])[order],
        split=np.concatenate([slide.split, generator.integers(0, 3, NUM_VOID).astype(np.int8)])[order],
        source=MemoryCounts(counts[order]),
    )
    return larger, np.flatnonzero(~is_void)


def test_an_adaptation_changes_the_predictions(slide: Slide, hidden: np.ndarray, predicted: Prediction) -> None:
    as_trained = predict_cells(make_model(slide), slide, np.arange(slide.num_cells), hidden)
    assert np.abs(predicted.mean - as_trained.mean).max() > 0.1


def test_the_same_seed_gives_the_same_adaptation_bit_for_bit(
    slide: Slide, hidden: np.ndarray, predicted: Prediction
) -> None:
    again, other = (adapt_to_slide(make_model(slide), slide, seed) for seed in (SEED, SEED + 1))
    everything = np.arange(slide.num_cells)
    repeated = predict_cells(again, slide, everything, hidden)
    for name in OUTPUTS:
        assert np.array_equal(getattr(repeated, name), getattr(predicted, name)), name
    assert not np.array_equal(predict_cells(other, slide, everything, hidden).mean, predicted.mean)


def test_void_cells_change_no_prediction(slide: Slide, hidden: np.ndarray, predicted: Prediction) -> None:
    larger, rows = with_void_cells(slide)
    assert np.array_equal(larger.xy_um[rows], slide.xy_um)
    model = adapt_to_slide(make_model(slide), larger, SEED)
    require_equal(predict_cells(model, larger, np.arange(larger.num_cells), rows[hidden]), predicted)


@pytest.mark.parametrize("level", ["microenvironment", "cell"])
def test_void_cells_change_no_embedding(slide: Slide, level: str) -> None:
    larger, rows = with_void_cells(slide)
    found, expected = (
        encode_cells(adapt_to_slide(make_model(slide), tissue, SEED, profiles_only=True), tissue, level)
        for tissue in (larger, slide)
    )
    assert np.abs(found[rows] - expected).max() / np.abs(expected).max() < TOLERANCE


def test_tiles_of_any_size_give_the_same_adaptation(slide: Slide, hidden: np.ndarray, predicted: Prediction) -> None:
    model = adapt_to_slide(make_model(slide, 50), slide, SEED)
    found = predict_cells(model, slide, np.arange(slide.num_cells), hidden)
    # The pools of compositions and states are fitted to the cells of some tiles only.
    require_equal(found, predicted, {"composition": 0.1, "states": 0.1})


def test_tiles_of_any_size_give_the_same_embeddings(slide: Slide) -> None:
    whole, tiled = (
        encode_cells(
            adapt_to_slide(make_model(slide, size), slide, SEED, profiles_only=True), slide, "microenvironment"
        )
        for size in (100_000, 50)
    )
    assert np.abs(tiled - whole).max() / np.abs(whole).max() < TOLERANCE


def test_an_adapted_model_knows_all_genes_of_the_slide(slide: Slide, hidden: np.ndarray) -> None:
    some = replace(slide, gene_ids=slide.gene_ids[: slide.num_genes // 3])
    model = load_random_model(some, {"model": {"width": 16}})
    adapted = adapt_to_slide(model, slide, SEED)
    assert adapted.panel(slide).columns.tolist() == list(range(slide.num_genes))
    assert len(model.checkpoint.vocabulary) == slide.num_genes // 3, "the model itself was changed"
    everything = np.arange(slide.num_cells)
    prediction = predict_cells(adapted, slide, everything, hidden)
    assert prediction.mean.shape == (len(hidden), slide.num_genes)
    # The smoother alone explains a part of the variance between cells.
    actual = slide.expression(hidden, 1e4).toarray()
    new = slice(slide.num_genes // 3, None)
    error = ((prediction.mean - actual)[:, new] ** 2).mean()
    assert error < ((actual.mean(axis=0) - actual)[:, new] ** 2).mean()


def test_one_model_is_adapted_to_two_slides_independently(
    slide: Slide, hidden: np.ndarray, predicted: Prediction
) -> None:
    """What was fitted to one slide has no effect on the next."""
    model = make_model(slide)
    left = slide.subset(np.flatnonzero(slide.xy_um[:, 0] < np.median(slide.xy_um[:, 0])))
    adapt_to_slide(model, left, SEED)
    found = predict_cells(adapt_to_slide(model, slide, SEED), slide, np.arange(slide.num_cells), hidden)
    assert np.array_equal(found.mean, predicted.mean)
