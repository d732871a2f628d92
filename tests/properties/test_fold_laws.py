"""Folds in a part of a large region: the part is compact, and its margin contains every cell with an effect on it."""

from __future__ import annotations

import numpy as np
import pytest
from builders import load_random_model
from scipy.sparse import csr_matrix

from cifm_cli.data.prepare.order import hilbert_order
from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.evaluation.dataset import EvaluationDataset, open_dataset
from cifm_cli.evaluation.fold_plan import PIECE_FACTOR, FoldPlanner
from cifm_cli.evaluation.folds import Fold, FoldPlan, make_folds, make_folds_around, rows_within
from cifm_cli.evaluation.predictors.base import BaselinePredictor, ModelPredictor
from cifm_cli.evaluation.predictors.registry import all_baselines
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.provenance import numpy_generator

SEED, GENES, RADIUS_UM, NUM_SCORED = 5, 4, 6.0, 100


@pytest.fixture(scope="module")
def slide() -> Slide:
    """Six thousand cells on 1,000 x 300 um, in the order of a prepared slide; the regions are three strips along x."""
    generator = numpy_generator(SEED)
    xy_um = generator.random((6_000, 2)) * [1_000, 300]
    xy_um = xy_um[hilbert_order(xy_um)]
    split = np.digitize(xy_um[:, 0], [400, 600]).astype(np.int8)
    counts = csr_matrix(generator.poisson(1.0, (6_000, GENES)).astype(np.float32))
    return slide_from_arrays("large", xy_um, counts, tuple("abcd"), RADIUS_UM, split=split)


@pytest.fixture(scope="module")
def model(slide: Slide) -> LoadedModel:
    return load_random_model(slide, {"model": {"width": 16}, "data": {"tile_cells": 64}})


@pytest.fixture
def dataset(slide: Slide, model: LoadedModel) -> EvaluationDataset:
    return open_dataset(slide, [model], SEED)


@pytest.fixture
def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every region has more counts than may be visible in a fold."""
    monkeypatch.setattr("cifm_cli.evaluation.fold_plan.MAX_VISIBLE_COUNTS", 0)
    monkeypatch.setattr("cifm_cli.evaluation.fold_plan.MAX_VALUES", NUM_SCORED * GENES)


def plan(dataset: EvaluationDataset, geometry: str, region: str) -> FoldPlan:
    return FoldPlanner(dataset, region, "validation").plan(geometry)


@pytest.mark.usefixtures("too_large")
@pytest.mark.parametrize("region", ["test", "train", "all"])
@pytest.mark.parametrize("geometry", ["scattered", "region"])
def test_scored_cells_are_one_compact_part_in_several_folds(
    dataset: EvaluationDataset, geometry: str, region: str
) -> None:
    found = plan(dataset, geometry, region)
    tuned, scored = (np.concatenate([fold.hidden for fold in folds]) for folds in (found.tuning, found.scored))
    assert len(found.scored) > 1
    assert NUM_SCORED // 2 < len(scored) == len(np.unique(scored)) <= NUM_SCORED
    assert not np.isin(tuned, scored).any()
    rows = dataset.slide.region(region)
    position = np.searchsorted(rows, scored)
    assert np.array_equal(rows[position], scored)
    assert np.ptp(position) < PIECE_FACTOR * NUM_SCORED + (len(tuned) if region == "all" else 0)
    assert [fold.number for fold in found.scored] == list(range(len(found.scored)))
    for fold in [*found.tuning, *found.scored]:
        assert not np.isin(fold.hidden, fold.visible).any()


@pytest.mark.usefixtures("too_large")
def test_folds_of_a_given_number_are_folds_of_the_whole_region(dataset: EvaluationDataset) -> None:
    named = FoldPlanner(dataset, "test", "validation", 3).plan("scattered").scored
    whole = make_folds("scattered", dataset.slide.xy_um, dataset.slide.region("test"), RADIUS_UM, SEED)[:3]
    assert all(np.array_equal(one.visible, other.visible) for one, other in zip(named, whole, strict=True))


@pytest.mark.usefixtures("too_large")
@pytest.mark.parametrize("geometry", ["scattered", "region", "region_10"])
def test_cells_beyond_the_margin_change_no_prediction(
    dataset: EvaluationDataset, model: LoadedModel, geometry: str
) -> None:
    """Predictions stay the same if all cells beyond the margin become visible."""
    rows = dataset.slide.region("test")
    fold = plan(dataset, geometry, "test").scored[0]
    far = np.setdiff1d(rows, rows_within(dataset.slide.xy_um, fold.hidden, rows, dataset.margin_um(geometry) * 2))
    assert len(far) > 200
    larger = Fold(fold.number, np.union1d(fold.visible, far), fold.hidden, fold.geometry)
    for predictor in (ModelPredictor("model", model), *map(BaselinePredictor, all_baselines())):
        parameters = predictor.parameter_grid()[-1]
        first, second = (predictor.predict(dataset, some, parameters) for some in (fold, larger))
        assert first.mean == pytest.approx(second.mean, rel=1e-4, abs=1e-5), predictor.name


@pytest.mark.parametrize("geometry", ["scattered", "region"])
def test_cells_of_the_margin_are_hidden_like_the_scored_ones(slide: Slide, geometry: str) -> None:
    rows = slide.region("test")
    core = rows[500:700]
    near = rows_within(slide.xy_um, core, rows, 50.0)
    folds = make_folds_around(slide, geometry, core, rows, 50.0, SEED)
    assert np.array_equal(np.sort(np.concatenate([fold.hidden for fold in folds])), core)
    whole = make_folds(geometry, slide.xy_um, near, RADIUS_UM, SEED)
    unseen = [np.setdiff1d(near, fold.visible) for fold in folds]
    assert all(any(np.array_equal(rest, fold.hidden) for fold in whole) for rest in unseen)


def test_rows_within_a_distance(slide: Slide) -> None:
    core, rows = np.arange(700, 760), np.arange(0, 6_000, 3)
    apart = np.linalg.norm(slide.xy_um[rows, None] - slide.xy_um[None, core], axis=2).min(axis=1)
    assert np.array_equal(rows_within(slide.xy_um, core, rows, 40.0), rows[apart <= 40.0])


def test_examples_of_a_large_region_are_spread_over_it(
    dataset: EvaluationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(dataset._draw_examples("scattered", dataset.slide.region("train"), dataset.gene_stats, 100))
    monkeypatch.setattr("cifm_cli.evaluation.dataset.MAX_TRAINING_COUNTS", 0)
    parts = list(dataset._draw_examples("scattered", dataset.slide.region("train"), dataset.gene_stats, 100))
    xy_um = np.concatenate([example.xy_um for example in parts])
    assert len(xy_um) == sum(len(example.xy_um) for example in whole) == 100
    assert np.ptp(xy_um[:, 0]) > 200
    assert xy_um[:, 0].max() <= 400
    for example in parts:
        assert len(example.visible.xy_um) < len(whole[0].visible.xy_um)
        assert not (example.xy_um[:, None] == example.visible.xy_um[None]).all(axis=2).any()


def test_without_training_cells_there_are_no_examples(dataset: EvaluationDataset) -> None:
    assert list(dataset._draw_examples("whole", dataset.slide.region("train")[:0], dataset.gene_stats, 100)) == []


def test_all_patches_of_a_hidden_region_share_the_visible_rows(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, seen = np.arange(0, 6_000, 2), np.arange(1, 6_000, 2)
    monkeypatch.setattr("cifm_cli.evaluation.folds.WHOLE_CELLS", 1_000)
    folds = make_folds("whole", slide.xy_um, hidden, RADIUS_UM, SEED, seen)
    assert len(folds) == 3
    assert all(fold.visible is folds[0].visible for fold in folds)


def test_the_warning_about_a_radius_is_logged_once(
    dataset: EvaluationDataset, caplog: pytest.LogCaptureFixture
) -> None:
    assert dataset.slide_at(None) is dataset.slide
    assert dataset.slide_at(9.0) is dataset.slide_at(9.0)
    assert caplog.text.count("used with 9 um") == 1
