"""Practice cells: which are chosen, what their prediction reads, and that nothing else of the slide is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import load_random_model, random_parameters, replace_counts

from cifm_cli import keys
from cifm_cli.data.cell_sketch import sketch_region
from cifm_cli.data.slide import Slide
from cifm_cli.inference.adaptation import adapt
from cifm_cli.inference.adaptation.adapt import adapt_to_slide
from cifm_cli.inference.adaptation.fit import AdaptationData, adapt_profiles, fit_adaptation
from cifm_cli.inference.adaptation.practice import PracticeFold, PracticeTile, practice_tiles, stats_of
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.inference.neighbourhood.visible_cells import gene_stats
from cifm_cli.inference.predict import predict_cells
from cifm_cli.model.gene_profiles import sum_genes
from cifm_cli.provenance import numpy_generator

TABLES = {"model": {"width": 8, "encoder_layers": 1, "decoder_layers": 1}, "data": {"tile_cells": 256}}
PROFILES = ("mean", "expressed", "composition")


@pytest.fixture(scope="module")
def model(slide: Slide) -> LoadedModel:
    return load_random_model(slide, TABLES)


def draw_folds(rows: np.ndarray, number: int = 3) -> list[PracticeFold]:
    """Folds of some rows; half of the hidden cells are predicted."""
    groups = np.array_split(numpy_generator(0, "folds").permutation(rows), 10)[:number]
    return [PracticeFold(np.setdiff1d(rows, group), np.sort(group), np.sort(group[::2])) for group in groups]


def read_tiles(model: LoadedModel, slide: Slide, rows: np.ndarray, folds: list[PracticeFold]) -> list[PracticeTile]:
    totals = sum_genes(slide, rows, model.panel(slide), 1e4)
    parameters = random_parameters(slide.num_genes, model.checkpoint.recipe)
    assert parameters is not None
    return list(practice_tiles(model, slide, folds, parameters, totals, rows))


def weights_of(model: LoadedModel) -> list[np.ndarray]:
    """Everything that an adaptation has fitted."""
    adaptation = model.adaptation
    assert adaptation is not None
    assert adaptation.refinement is not None
    regression, blend = adaptation.refinement.regression, adaptation.refinement.blend
    return [
        *(tensor.numpy() for tensor in adaptation.parameters.tensors().values()),
        adaptation.stats.mean,
        regression.coefficients,
        regression.intercept,
        regression.scale.mean,
        blend.mean.xx,
        blend.expressed.xy,
        blend.mixture,
        adaptation.refinement.state_weights,
        np.array(adaptation.refinement.weights),
    ]


def test_every_query_is_practised_once_with_its_own_counts(slide: Slide, model: LoadedModel) -> None:
    rows, panel = np.arange(slide.num_cells), model.panel(slide)
    folds = draw_folds(rows)
    tiles = read_tiles(model, slide, rows, folds)
    queries = np.concatenate([fold.queries for fold in folds])
    assert sum(tile.num_cells for tile in tiles) == len(queries)
    counts, values = slide.counts(queries)[:, panel.columns], slide.expression(queries, 1e4)[:, panel.columns]
    assert np.array_equal(np.concatenate([tile.counts.toarray() for tile in tiles]), counts.toarray())
    assert np.array_equal(np.concatenate([tile.expression.toarray() for tile in tiles]), values.toarray())
    assert all(len(tile.circles[0].mean) == tile.num_cells for tile in tiles)


def test_profiles_are_those_of_the_cells_that_are_not_hidden(slide: Slide, model: LoadedModel) -> None:
    rows = np.arange(0, slide.num_cells, 2)
    (fold,) = draw_folds(rows, 1)
    expected = gene_stats(slide, fold.visible, model.panel(slide).columns, 1e4)
    for tile in read_tiles(model, slide, rows, [fold]):
        assert tile.stats.mean == pytest.approx(expected.mean, rel=1e-6, abs=1e-9)
        assert tile.stats.fraction == pytest.approx(expected.fraction, rel=1e-6)
        assert tile.stats.counts == pytest.approx(expected.counts)
        assert tile.hidden.masked.slide is not None
        assert tile.hidden.masked.slide.mean.numpy() == pytest.approx(expected.mean, rel=1e-5, abs=1e-7)


def test_input_does_not_depend_on_the_hidden_cells(slide: Slide, model: LoadedModel) -> None:
    rows = np.arange(slide.num_cells)
    (fold,) = draw_folds(rows, 1)
    changed = replace_counts(slide, fold.hidden, 5 + slide.counts(fold.hidden).toarray()[::-1])
    for first, second in zip(*(read_tiles(model, each, rows, [fold]) for each in (slide, changed)), strict=True):
        assert not np.array_equal(first.counts.toarray(), second.counts.toarray())
        for one, other in zip(first.circles, second.circles, strict=True):
            assert one.mean == pytest.approx(other.mean, rel=1e-5, abs=1e-6)
        ours, theirs = first.hidden.masked, second.hidden.masked
        assert ours.slide is not None
        assert theirs.slide is not None
        for name in PROFILES:  # sums without the hidden cells are differences, which are rounded
            assert torch.allclose(getattr(ours.slide, name), getattr(theirs.slide, name), rtol=1e-5, atol=1e-6)


def test_fitted_weights_leave_the_profiles_of_a_tile(slide: Slide, model: LoadedModel) -> None:
    rows = np.arange(slide.num_cells)
    tile, *_ = read_tiles(model, slide, rows, draw_folds(rows, 1))
    before = tile.hidden.masked.slide
    assert before is not None
    fitted = replace(before, mean=before.mean + 1, mean_weights=before.mean_weights + 1)
    after = tile.with_parameters(fitted).hidden.masked.slide
    assert after is not None
    assert torch.equal(after.mean, before.mean)
    assert torch.equal(after.mean_weights, fitted.mean_weights)
    missing = tile._replace(hidden=replace(tile.hidden, circles=None, masked=replace(tile.hidden.masked, slide=None)))
    with pytest.raises(ValueError, match="with neighbour means"):
        _ = missing.circles
    with pytest.raises(ValueError, match="another objective"):
        missing.with_parameters(fitted)


def test_statistics_of_no_cell_are_zero(slide: Slide, model: LoadedModel) -> None:
    none = stats_of(sum_genes(slide, np.arange(0), model.panel(slide), 1e4))
    assert not none.mean.any()
    assert none.composition == pytest.approx(np.full(slide.num_genes, 1 / slide.num_genes))


@pytest.mark.parametrize("is_new", [False, True])
def test_other_cells_of_the_slide_are_not_read(slide: Slide, model: LoadedModel, *, is_new: bool) -> None:
    """Their counts are not even numbers here; an adaptation fitted twice is the same, bit for bit."""
    rows = np.flatnonzero(np.arange(slide.num_cells) % 3 > 0)
    others = np.setdiff1d(np.arange(slide.num_cells), rows)
    unknown = replace_counts(slide, others, np.full((len(others), slide.num_genes), np.nan))
    folds = draw_folds(rows, 4)
    data = AdaptationData(rows, folds[:3], folds[3:], seed=1, is_new=is_new)
    first, second = (fit_adaptation(model, each, data) for each in (slide, unknown))
    assert all(map(np.array_equal, weights_of(first), weights_of(second)))
    assert first.adaptation is not None
    assert second.adaptation is not None
    assert first.adaptation.facts == second.adaptation.facts
    assert first.adaptation.facts["practice_cells"] == sum(len(fold.queries) for fold in folds[:3])
    tuning_cells = second.adaptation.facts["tuning_cells"]
    practice_cells = second.adaptation.facts["practice_cells"]
    # Without the network where it knows the slide, on which penalties alone are then compared
    assert second.adaptation.facts["chosen_on_cells"] == tuning_cells + practice_cells
    found = predict_cells(second, unknown, rows, folds[0].queries)
    assert all(np.isfinite(values).all() for values in vars(found).values())


def test_profiles_alone_leave_the_prediction_to_the_network(slide: Slide, model: LoadedModel) -> None:
    rows = np.arange(slide.num_cells)
    adapted = adapt_profiles(model, slide, rows, 0)
    assert adapted.adaptation is not None
    assert adapted.adaptation.refinement is None
    assert adapted.adaptation.facts == {"cells": slide.num_cells, "practice_cells": 0}
    expected = gene_stats(slide, rows, model.panel(slide).columns, 1e4)
    assert adapted.adaptation.parameters.mean.numpy() == pytest.approx(expected.mean, rel=1e-5)
    assert np.isfinite(predict_cells(adapted, slide, rows, rows[:9]).mean).all()


@pytest.fixture
def chosen(model: LoadedModel, slide: Slide, monkeypatch: pytest.MonkeyPatch) -> AdaptationData:
    """The cells that a model is adapted by to the whole slide."""
    return choose_practice(model, slide, monkeypatch)


def choose_practice(model: LoadedModel, slide: Slide, monkeypatch: pytest.MonkeyPatch) -> AdaptationData:
    found: list[AdaptationData] = []

    def record(model: LoadedModel, _slide: Slide, data: AdaptationData) -> LoadedModel:
        found.append(data)
        return model

    with monkeypatch.context() as patch:
        patch.setattr(adapt, "fit_adaptation", record)
        adapt_to_slide(model, slide, seed=2)
    return found[0]


def queries_of(folds: object) -> np.ndarray:
    return np.sort(np.concatenate([fold.queries for fold in folds]))  # type: ignore[attr-defined]


def test_every_cell_is_practised_once_or_tuned_on(slide: Slide, chosen: AdaptationData) -> None:
    validation = slide.region(keys.VALIDATION)
    assert len(validation) >= adapt.MIN_TUNING_CELLS
    assert np.array_equal(queries_of(chosen.tuning), validation)
    assert np.array_equal(queries_of(chosen.practice), np.setdiff1d(np.arange(slide.num_cells), validation))
    for fold in [*chosen.practice, *chosen.tuning]:
        assert np.isin(fold.queries, fold.hidden).all()
        assert len(fold.hidden) == pytest.approx(slide.num_cells / adapt.NUM_FOLDS, abs=1)
        assert np.array_equal(np.union1d(fold.visible, fold.hidden), chosen.rows)
        assert not np.isin(fold.visible, fold.hidden).any()


def test_without_a_validation_region_some_cells_are_tuned_on(
    slide: Slide, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = choose_practice(model, replace(slide, split=np.zeros_like(slide.split)), monkeypatch)
    assert len(queries_of(data.tuning)) == round(adapt.TUNING_PART * slide.num_cells)
    assert not np.isin(queries_of(data.tuning), queries_of(data.practice)).any()


def test_a_large_slide_is_practised_on_in_part(
    slide: Slide, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt, "MAX_PRACTICE_VALUES", 70 * slide.num_genes)
    data = choose_practice(model, slide, monkeypatch)
    practised = np.concatenate([queries_of(data.practice), queries_of(data.tuning)])
    assert len(practised) == len(np.unique(practised)) == 70
    assert len(data.rows) == slide.num_cells, "the profiles are those of all cells"


def test_a_slide_of_few_cells_is_not_practised_on(slide: Slide, model: LoadedModel) -> None:
    few = slide.subset(np.arange(adapt.MIN_CELLS - 1))
    adapted = adapt_to_slide(model, few, 0)
    assert adapted.adaptation is not None
    assert adapted.adaptation.refinement is None


def test_nothing_is_chosen_on_cells_of_the_training(slide: Slide, model: LoadedModel) -> None:
    checkpoint = model.checkpoint

    def trained_on(rows: np.ndarray) -> LoadedModel:
        sketch = sketch_region(slide, rows, checkpoint.vocabulary, keys.TRAIN)
        return adapt_to_slide(replace(model, checkpoint=replace(checkpoint, sketches=(sketch,))), slide, 0)

    chosen = trained_on(slide.region(keys.TRAIN)).adaptation
    assert chosen is not None
    assert chosen.refinement is not None
    assert chosen.facts["chosen_on_cells"] > 0
    unchosen = trained_on(np.arange(slide.num_cells)).adaptation
    assert unchosen is not None
    assert unchosen.refinement is None
    assert unchosen.facts["chosen_on_cells"] == 0
    assert unchosen.facts["tuning_cells"] > 0
