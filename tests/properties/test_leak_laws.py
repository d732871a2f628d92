"""No prediction depends on the hidden cells, and no cell is used for both tuning and scoring."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from builders import load_random_model, replace_counts, take_genes
from scipy.sparse import csr_matrix

from cifm_cli.data.cell_sketch import CellSketch
from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.dataset import EvaluationDataset, open_dataset
from cifm_cli.evaluation.examples import Example, TrainingFolds
from cifm_cli.evaluation.fold_plan import FoldPlanner
from cifm_cli.evaluation.folds import (
    BLOCK_RADII,
    DEFAULT_KINDS,
    Fold,
    FoldPlan,
    distance_to_visible,
    hidden_rows,
    make_folds,
)
from cifm_cli.evaluation.predictors.base import BaselinePredictor, ModelPredictor, Parameters, Predictor, predict_folds
from cifm_cli.evaluation.predictors.local_averages import NeighbourhoodAverage
from cifm_cli.evaluation.predictors.registry import all_baselines
from cifm_cli.evaluation.predictors.regression import Blend
from cifm_cli.inference.adaptation.fit import AdaptationData, adapt_profiles, fit_adaptation
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator

# Whether a bit leaks does not depend on how many cells are learned from.
pytestmark = pytest.mark.usefixtures("few_practice_cells")
SEED = 3


@pytest.fixture(scope="module")
def slide(slide: Slide) -> Slide:
    """Some genes of the slide of other tests."""
    return take_genes(slide, 48)


@pytest.fixture(scope="module")
def model(slide: Slide) -> LoadedModel:
    """A model that was trained on other cells, so that adaptation also chooses on practice cells."""
    model = load_random_model(slide, {"model": {"width": 16}, "data": {"tile_cells": 256}})
    nothing = np.zeros(0, np.uint64)
    sketch = CellSketch("other", "train", nothing, nothing, np.zeros(slide.num_genes, np.float16))
    return replace(model, checkpoint=replace(model.checkpoint, sketches=(sketch,)))


@dataclass(frozen=True)
class LeakyMean:
    """A predictor that leaks: it adds a small multiple of the hidden expression to the training mean."""

    name: str = "leaky_mean"

    def parameter_grid(self) -> list[Parameters]:
        return [{}]

    def predict(self, dataset: EvaluationDataset, fold: Fold, _parameters: Parameters) -> Prediction:
        hidden = dataset.slide.expression(fold.hidden, dataset.target_sum)[:, dataset.columns].toarray()
        mean = (dataset.gene_stats.mean + 1e-4 * hidden).astype(np.float32)
        return Prediction(mean, np.minimum(mean, 1))


@dataclass(frozen=True)
class DepthReader(LeakyMean):
    """A predictor that leaks: it scales the training mean by the depth of the hidden cell."""

    name: str = "depth_reader"

    def predict(self, dataset: EvaluationDataset, fold: Fold, _parameters: Parameters) -> Prediction:
        depth = dataset.slide.total_counts[fold.hidden, None]
        mean = (dataset.gene_stats.mean * np.log1p(depth)).astype(np.float32)
        return Prediction(mean, np.minimum(mean, 1))


@dataclass(frozen=True)
class LeakyTraining(BaselinePredictor):
    """A predictor that leaks: it fits a baseline to the cells that are scored."""

    def predict(self, dataset: EvaluationDataset, fold: Fold, _parameters: Parameters) -> Prediction:
        visible, xy_um = dataset.visible_cells(fold), dataset.slide.xy_um[fold.hidden]
        hidden = dataset.slide.expression(fold.hidden, dataset.target_sum)[:, dataset.columns]
        counts = dataset.slide.counts(fold.hidden)[:, dataset.columns]
        examples = TrainingFolds(lambda: [Example(visible, xy_um, hidden, counts)], visible.gene_stats)
        return examples.fitted(self.baseline).predict(visible, xy_um)


@dataclass(frozen=True)
class LeakyAdaptation(ModelPredictor):
    """A predictor that leaks: its model is adapted to all cells of the slide, also to those that are scored."""

    def model_for(self, dataset: EvaluationDataset, fold: Fold) -> LoadedModel:
        slide = dataset.slide_at(self.model.checkpoint.recipe.data.radius_um)
        everything, (_, practice) = np.arange(slide.num_cells), dataset.practice_folds(fold)
        if not practice:
            return adapt_profiles(self.model, slide, everything, dataset.seed)
        return fit_adaptation(self.model, slide, AdaptationData(everything, practice, [], dataset.seed))


def with_other_hidden_cells(slide: Slide, hidden: np.ndarray) -> Slide:
    """Return the slide with the counts of the hidden cells permuted across cells and genes, and tripled."""
    generator = numpy_generator(SEED, "hidden counts")
    permuted = generator.permutation(slide.source.matrix[hidden].toarray(), axis=0)
    return replace_counts(slide, hidden, generator.permuted(permuted, axis=1) * 3)


def leaks(predictor: Predictor, dataset: EvaluationDataset, fold: Fold) -> bool:
    """Return whether any bit of a prediction changes with the counts of the hidden cells."""
    other = replace(dataset, slide=with_other_hidden_cells(dataset.slide, fold.hidden))
    parameters = predictor.parameter_grid()[0]
    first, second = (predictor.predict(tissue, fold, parameters) for tissue in (dataset, other))
    return not all(
        np.array_equal(one, other) for one, other in zip(vars(first).values(), vars(second).values(), strict=True)
    )


def folds_of(slide: Slide, geometry: str, region: str = "test") -> list[Fold]:
    return make_folds(geometry, slide.xy_um, slide.region(region), slide.radius_um, SEED)


CASES = [
    ("scattered", "test"),
    ("scattered", "train"),
    ("scattered", "all"),
    ("region", "test"),
    ("region", "train"),
    ("region_2.5", "test"),
    ("region_10", "test"),
    ("whole", "test"),
    ("whole", "train"),
]


def plan_folds(dataset: EvaluationDataset, geometry: str, region: str) -> FoldPlan:
    """The folds of `cifm evaluate`, with which adaptation chooses weights and penalties."""
    dataset.plans[geometry] = FoldPlanner(dataset, region, "validation").plan(geometry)
    return dataset.plans[geometry]


def scored_folds(dataset: EvaluationDataset, geometry: str, region: str) -> list[Fold]:
    """The folds that `cifm evaluate` scores."""
    return plan_folds(dataset, geometry, region).scored


def all_predictors(model: LoadedModel) -> list[Predictor]:
    """The model as trained, the model adapted to the slide, and all baselines."""
    models = (ModelPredictor("model", model), ModelPredictor("model:adapted", model, adapt="slide"))
    return [*models, *map(BaselinePredictor, all_baselines())]


@pytest.mark.parametrize(("geometry", "region"), CASES)
def test_no_prediction_depends_on_hidden_cells(slide: Slide, model: LoadedModel, geometry: str, region: str) -> None:
    dataset = open_dataset(slide, [model], SEED)
    predictors = all_predictors(model)
    for fold in scored_folds(dataset, geometry, region)[:1]:
        assert [predictor.name for predictor in predictors if leaks(predictor, dataset, fold)] == []


@pytest.mark.parametrize(("geometry", "region"), [("scattered", "train"), ("scattered", "all"), ("region", "train")])
def test_no_prediction_depends_on_hidden_cells_of_part_of_a_region(
    slide: Slide, model: LoadedModel, geometry: str, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifm_cli.evaluation.fold_plan.MAX_VISIBLE_COUNTS", 0)
    monkeypatch.setattr("cifm_cli.evaluation.fold_plan.MAX_VALUES", 40 * slide.num_genes)
    dataset = open_dataset(slide, [model], SEED)
    predictors = all_predictors(model)
    folds = scored_folds(dataset, geometry, region)
    assert sum(len(fold.hidden) for fold in folds) <= 40
    for fold in folds[:2]:
        assert [predictor.name for predictor in predictors if leaks(predictor, dataset, fold)] == []


@pytest.mark.parametrize(("geometry", "region"), CASES)
@pytest.mark.parametrize(
    "predictor", [LeakyMean(), DepthReader(), LeakyTraining(Blend())], ids=lambda predictor: predictor.name
)
def test_a_leak_is_detected(slide: Slide, model: LoadedModel, predictor: Predictor, geometry: str, region: str) -> None:
    dataset = open_dataset(slide, [model], SEED)
    assert leaks(predictor, dataset, scored_folds(dataset, geometry, region)[0])


@pytest.mark.parametrize(
    ("geometry", "region"), [("scattered", "test"), ("scattered", "all"), ("region", "train"), ("whole", "test")]
)
def test_an_adaptation_to_hidden_cells_is_detected(
    slide: Slide, model: LoadedModel, geometry: str, region: str
) -> None:
    dataset = open_dataset(slide, [model], SEED)
    predictor = LeakyAdaptation("leaky_adaptation", model, adapt="slide")
    assert leaks(predictor, dataset, scored_folds(dataset, geometry, region)[0])


@pytest.mark.parametrize("geometry", ["scattered", "whole"])
def test_an_adaptation_does_not_depend_on_the_fold_that_asks_first(
    slide: Slide, model: LoadedModel, geometry: str
) -> None:
    """Folds share it, those that are tuned on included; all cells of these choose weights and penalties."""
    predictor = ModelPredictor("model:adapted", model, adapt="slide")
    facts = []
    for first in ("tuning", "scored"):
        dataset = open_dataset(slide, [model], SEED)
        plan = plan_folds(dataset, geometry, "test")
        predictor.model_for(dataset, getattr(plan, first)[0])
        adapted = predictor.model_for(dataset, plan.scored[-1])
        assert adapted.adaptation is not None
        facts.append(adapted.adaptation.facts)
        assert facts[-1]["tuning_cells"] == len(hidden_rows(plan.adaptation)) > 0
    assert facts[0] == facts[1]


def test_an_adaptation_for_other_hidden_cells_is_not_used_again(slide: Slide, model: LoadedModel) -> None:
    """Folds of the region `all` that hide no training cells; the first one shows what the second one hides."""
    dataset = open_dataset(slide, [model], SEED)
    folds = [
        replace(fold, hidden=np.setdiff1d(fold.hidden, slide.region("train")))
        for fold in scored_folds(dataset, "scattered", "all")[:2]
    ]
    other = replace(dataset, slide=with_other_hidden_cells(dataset.slide, folds[1].hidden))
    predictor = ModelPredictor("model:adapted", model, adapt="slide")
    found = []
    for tissue in (dataset, other):
        predictor.predict(tissue, folds[0], {})
        found.append(predictor.predict(tissue, folds[1], {}))
    assert np.array_equal(found[0].mean, found[1].mean)
    assert np.array_equal(found[0].composition, found[1].composition)


@pytest.mark.parametrize(("geometry", "region"), CASES)
def test_no_cell_is_used_for_both_tuning_and_scoring(
    slide: Slide, model: LoadedModel, geometry: str, region: str
) -> None:
    dataset = open_dataset(slide, [model], SEED)
    plan = FoldPlanner(dataset, region, "validation").plan(geometry)
    tuned, scored = (np.concatenate([fold.hidden for fold in folds]) for folds in (plan.tuning, plan.scored))
    assert len(np.unique(scored)) == len(scored)
    assert not np.isin(tuned, scored).any()
    for fold in [*plan.tuning, *plan.scored]:
        assert not np.isin(fold.visible, fold.hidden).any()
    if region != "all":  # scored cells are not even visible while tuning
        assert not any(np.isin(fold.visible, scored).any() for fold in plan.tuning)


@pytest.mark.parametrize(("geometry", "region"), [("scattered", "test"), ("region", "test"), *CASES[-2:]])
def test_tuning_does_not_depend_on_scored_cells(slide: Slide, model: LoadedModel, geometry: str, region: str) -> None:
    dataset = open_dataset(slide, [model], SEED)
    plan = plan_folds(dataset, geometry, region)
    other = replace(dataset, slide=with_other_hidden_cells(dataset.slide, hidden_rows(plan.scored)))
    for predictor in all_predictors(model):
        parameters = predictor.parameter_grid()[0]
        first, second = (predict_folds(predictor, tissue, plan.tuning, parameters) for tissue in (dataset, other))
        assert np.array_equal(first.mean, second.mean), predictor.name
        assert np.array_equal(first.expressed, second.expressed), predictor.name


@pytest.mark.parametrize("geometry", ["scattered", "region"])
def test_tuning_cells_in_the_scored_region_are_not_scored(slide: Slide, model: LoadedModel, geometry: str) -> None:
    dataset = open_dataset(replace(slide, split=np.where(slide.split == 1, 0, slide.split)), [model], SEED)
    plan = FoldPlanner(dataset, "train", "train").plan(geometry)
    tuned, scored = hidden_rows(plan.tuning), hidden_rows(plan.scored)
    assert not np.isin(tuned, scored).any()
    assert np.array_equal(np.union1d(tuned, scored), dataset.slide.region("train"))
    with pytest.raises(CifmError, match="leaves no visible cells"):
        FoldPlanner(dataset, "train", "train").plan("whole")


@pytest.mark.parametrize("geometry", ["scattered", "region"])
def test_a_fold_too_large_for_memory_is_scored_in_part(
    slide: Slide, model: LoadedModel, geometry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(slide, [model], SEED)
    whole = FoldPlanner(dataset, "train", "validation").plan(geometry).scored[0]
    monkeypatch.setattr("cifm_cli.evaluation.fold_plan.MAX_VALUES", 5 * len(dataset.columns))
    (fold,) = FoldPlanner(dataset, "train", "validation").plan(geometry).scored
    assert len(fold.hidden) == 5
    assert np.isin(fold.hidden, whole.hidden).all()
    assert np.array_equal(fold.visible, whole.visible)


def test_a_hidden_region_is_predicted_from_the_other_regions_without_the_buffer(
    slide: Slide, model: LoadedModel
) -> None:
    buffered = replace(slide, split=np.where(np.arange(slide.num_cells) % 7 == 0, 3, slide.split).astype(np.int8))
    dataset = open_dataset(buffered, [model], SEED)
    plan = FoldPlanner(dataset, "test", "validation").plan("whole")
    outside = np.union1d(buffered.region("train"), buffered.region("validation"))
    assert all(np.array_equal(fold.visible, outside) for fold in plan.scored)
    assert all(np.array_equal(fold.visible, buffered.region("train")) for fold in plan.tuning)
    with pytest.raises(CifmError, match="leaves no visible cells"):
        FoldPlanner(dataset, "all", "validation").plan("whole")


@pytest.mark.parametrize("region", ["train", "test"])
@pytest.mark.parametrize("geometry", DEFAULT_KINDS)
def test_every_cell_of_the_region_is_hidden_exactly_once(slide: Slide, geometry: str, region: str) -> None:
    rows, folds = slide.region(region), folds_of(slide, geometry, region)
    assert np.array_equal(np.sort(np.concatenate([fold.hidden for fold in folds])), rows)
    for fold in folds:
        assert np.array_equal(np.sort(np.concatenate([fold.hidden, fold.visible])), rows)


def test_scattered_hides_a_twentieth(slide: Slide) -> None:
    num_cells = len(slide.region("train"))
    assert {len(fold.hidden) for fold in folds_of(slide, "scattered", "train")} <= {
        num_cells // 20,
        num_cells // 20 + 1,
    }


def grid_of_cells() -> Slide:
    """Return a square of 1 mm with a cell every 20 um."""
    xy_um = np.stack(np.meshgrid(np.arange(0, 1000, 20.0), np.arange(0, 1000, 20.0)), axis=-1).reshape(-1, 2)
    return slide_from_arrays("grid", xy_um, csr_matrix(np.ones((len(xy_um), 1))), ("g",), radius_um=20.0)


def test_hidden_blocks_are_separate_squares() -> None:
    """Hidden cells of a block are closer than its side; between two blocks are two sides of visible cells."""
    slide = grid_of_cells()
    side_um = BLOCK_RADII * slide.radius_um
    for fold in folds_of(slide, "region", "all"):
        hidden_um = slide.xy_um[fold.hidden]
        apart = np.abs(hidden_um[:, None] - hidden_um[None]).max(axis=2)
        assert not ((apart >= side_um) & (apart <= 2 * side_um)).any()
        assert distance_to_visible(slide.xy_um, fold).max() <= side_um / 2 + 20


def test_distance_is_to_the_nearest_visible_cell() -> None:
    slide = grid_of_cells()
    fold = Fold(0, visible=np.array([0, 52]), hidden=np.array([1, 2, 3, 50]))
    # x = 0 20 40 60 um:   0 1 2 3     row 0; 0 and 52 are visible
    #                     50 . 52      row 1, 20 um below
    assert distance_to_visible(slide.xy_um, fold).tolist() == pytest.approx([20, 20, np.hypot(20, 20), 20])


def test_the_seed_decides_which_cells_are_hidden(slide: Slide) -> None:
    rows = slide.region("train")
    for geometry in DEFAULT_KINDS:
        first, again, other = (
            make_folds(geometry, slide.xy_um, rows, slide.radius_um, seed)[0].hidden for seed in (0, 0, 1)
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_cells_of_other_regions_are_not_visible(slide: Slide, model: LoadedModel) -> None:
    """Changing every cell of the validation region changes nothing in the test region."""
    dataset = open_dataset(slide, [model], SEED)
    other = replace(dataset, slide=with_other_hidden_cells(dataset.slide, slide.region("validation")))
    fold = folds_of(dataset.slide, "scattered")[0]
    for predictor in all_predictors(model):
        parameters = predictor.parameter_grid()[0]
        first, second = (predictor.predict(tissue, fold, parameters) for tissue in (dataset, other))
        assert np.array_equal(first.mean, second.mean), predictor.name


def test_predictions_of_folds_are_in_slide_order(slide: Slide, model: LoadedModel) -> None:
    dataset = open_dataset(slide, [model], SEED)
    folds = folds_of(slide, "scattered")
    predictor = BaselinePredictor(NeighbourhoodAverage())
    whole = predict_folds(predictor, dataset, folds, {})
    rows = slide.region("test")
    for fold in folds[:3]:
        alone = predictor.predict(dataset, fold, {})
        assert np.array_equal(whole.mean[np.isin(rows, fold.hidden)], alone.mean)
