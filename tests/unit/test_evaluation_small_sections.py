"""Sections smaller than the widest circle, regions with few cells, and models of different radii."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import load_random_model, replace_counts
from scipy.sparse import csr_matrix

from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.dataset import EvaluationDataset, open_dataset
from cifm_cli.evaluation.evaluator import Evaluator, open_result, tune
from cifm_cli.evaluation.fold_plan import FoldPlanner
from cifm_cli.evaluation.folds import geometry_names, hidden_rows
from cifm_cli.evaluation.predictors.base import BaselinePredictor, predict_folds
from cifm_cli.evaluation.predictors.regression import RADII, Blend, Ridge
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.provenance import numpy_generator

RADIUS_UM, GENES = 20.0, 30


def section() -> Slide:
    """A tissue 300 um wide whose expression varies slowly; train on the left, test and validation on the right."""
    generator = numpy_generator(0, "section")
    xy_um = generator.uniform(0, 300, (900, 2))
    slow = np.exp(-np.square(xy_um[:, None] - generator.uniform(0, 300, (6, 2))).sum(axis=2) / 2 / 60**2) + 0.1
    counts = generator.poisson(slow @ generator.gamma(0.3, 2.0, (6, GENES)) * 3) + (np.arange(GENES) == 0)
    split = np.where(xy_um[:, 0] < 180, 0, np.where(xy_um[:, 1] < 150, 1, 2)).astype(np.int8)
    ids = tuple(f"g{number}" for number in range(GENES))
    return slide_from_arrays("small", xy_um, csr_matrix(counts.astype(np.float32)), ids, RADIUS_UM, split=split)


def dataset_of(slide: Slide) -> EvaluationDataset:
    return EvaluationDataset(slide, np.arange(slide.num_genes), 10_000.0, slide.radius_um, 2 * slide.radius_um, 0)


def without_counts(slide: Slide, rows: np.ndarray) -> Slide:
    """Return the slide with some cells void."""
    return replace_counts(slide, rows, np.zeros((len(rows), slide.num_genes), dtype=np.float32))


@pytest.mark.parametrize("geometry", ["scattered", "region"])
@pytest.mark.parametrize("baseline", [Blend(), Ridge()], ids=lambda baseline: baseline.name)
def test_baselines_with_circles_wider_than_the_section_are_no_worse_than_the_training_mean(
    baseline: Blend | Ridge, geometry: str
) -> None:
    """A circle over the whole training region must not reveal hidden cells by its difference from the training mean."""
    dataset = dataset_of(section())
    assert np.ptp(dataset.slide.xy_um, axis=0).max() < RADII[-1] * RADIUS_UM
    plan, predictor = FoldPlanner(dataset, "test", "validation").plan(geometry), BaselinePredictor(baseline)
    tuned = tune(predictor, dataset, plan.tuning, dataset.targets(hidden_rows(plan.tuning)))
    targets = dataset.targets(hidden_rows(plan.scored)).values
    usual = np.square(dataset.gene_stats.mean - targets).mean()
    found = predict_folds(predictor, dataset, plan.scored, tuned.parameters)
    assert np.square(found.mean - targets).mean() <= 1.1 * usual


def test_progress_counts_the_folds_of_tuning_too() -> None:
    """Otherwise the bar stands still while a predictor with many candidates is tuned."""
    dataset, predictor = dataset_of(section()), BaselinePredictor(Blend())
    plan = FoldPlanner(dataset, "test", "validation").plan("scattered")
    evaluator = Evaluator(open_result(dataset, "scattered", plan.scored, None), plan.scored, plan.tuning)
    calls: list[int] = []
    evaluator.evaluate(predictor, lambda: calls.append(1))
    assert len(calls) == evaluator.num_passes(predictor) > len(plan.scored)


def test_statistics_of_an_example_are_those_of_its_visible_cells() -> None:
    dataset = dataset_of(section())
    rows = dataset.slide.region("train")
    for example in dataset._draw_examples("scattered", rows, dataset.gene_stats, 500):
        visible, stats = example.visible, example.visible.gene_stats
        assert stats.mean == pytest.approx(visible.expression.toarray().mean(axis=0), abs=1e-5)
        assert stats.fraction == pytest.approx(visible.cells.expressed.toarray().mean(axis=0), abs=1e-5)
        assert stats.counts.tolist() == visible.counts.toarray().sum(axis=0).tolist()


def test_each_model_is_evaluated_at_its_own_radius(caplog: pytest.LogCaptureFixture) -> None:
    slide = section()

    def model(radius_um: float | None) -> LoadedModel:
        data = {} if radius_um is None else {"radius_um": radius_um}
        return load_random_model(slide, {"model": {"width": 16}, "data": data})

    dataset = open_dataset(slide, [model(40.0), model(None)], 0)
    assert dataset.radius_um == dataset.slide_at(40.0).radius_um == 40
    assert dataset.slide_at(None).radius_um == 20
    assert dataset.slide_at(None) is dataset.slide_at(None)
    caplog.clear()
    assert dataset.slide_at(30.0).radius_um == 30
    assert "its radius is 20 um, used with 30 um" in caplog.text
    other = open_dataset(slide, [model(None), model(40.0)], 0)
    assert (other.slide_at(None).radius_um, other.slide_at(40.0).radius_um) == (20, 40)
    assert other.max_reach_um == dataset.max_reach_um == dataset.reach_um == 2 * other.reach_um


@pytest.mark.parametrize("region", ["test", "validation"])
def test_a_region_of_void_cells_is_refused(region: str) -> None:
    slide = section()
    dataset = dataset_of(without_counts(slide, slide.region(region)))
    with pytest.raises(CifmError, match=f"slide small, {region} region: .* none visible"):
        FoldPlanner(dataset, "test", "validation").plan("scattered")


def test_blocks_wider_than_the_region_are_refused_with_the_option_to_change() -> None:
    with pytest.raises(CifmError, match="too few cells to hide some in the region_90 geometry") as caught:
        FoldPlanner(dataset_of(section()), "test", "validation").plan("region_90")
    assert "--block-radii" in caught.value.hint


@pytest.mark.parametrize("side", [float("inf"), float("nan"), 1e300])
def test_blocks_without_a_finite_size_are_refused(side: float) -> None:
    with pytest.raises(CifmError, match="are not possible"):
        geometry_names(["region"], [side])


def test_a_note_if_there_are_too_few_blocks() -> None:
    slide = section()
    test = slide.region("test")
    crowded = slide.xy_um.copy()
    crowded[test[: len(test) // 2]] = [250.0, 200.0]
    crowded[test[len(test) // 2 :]] = [258.0, 200.0]
    plan = FoldPlanner(dataset_of(replace(slide, xy_um=crowded)), "test", "validation").plan("scattered")
    ((is_warning, note),) = plan.notes
    assert is_warning
    assert "small, scattered: 2 spatial blocks" in note
    assert FoldPlanner(dataset_of(slide), "test", "validation").plan("scattered").notes == ()
