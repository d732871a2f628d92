"""Laws of the judge: what is hidden stays hidden, each cell is hidden once, and order does not matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import cifm_backends
from cifm_cli.data.slide import MemoryCounts, Slide, open_slide, slide_from_arrays
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.baselines import BASELINES
from cifm_cli.evaluation.bench import Bench, set_up_bench
from cifm_cli.evaluation.blend import Blend
from cifm_cli.evaluation.context import Estimate, Example, Practice, Settings
from cifm_cli.evaluation.plan import plan_rounds
from cifm_cli.evaluation.predictors import BaselinePredictor, ModelPredictor, Predictor, hidden_rows, infer_rounds
from cifm_cli.evaluation.protocols import BLOCK_RADII, GEOMETRIES, Round, distance_to_visible, hide
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.checkpoint import Checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.provenance import numpy_generator, seeded_torch
from cifm_cli.recipe import parse

SEED = 3


@pytest.fixture(scope="module")
def slide(prepared_synthetic: Path) -> Slide:
    return open_slide(prepared_synthetic)


@pytest.fixture(scope="module")
def engine(slide: Slide) -> LoadedModel:
    recipe = parse({"model": {"width": 16}, "data": {"tile_cells": 64}}, "test")
    with seeded_torch(0, "network"):
        network = Ensemble(slide.num_genes, recipe)
        for weight in network.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
    checkpoint = Checkpoint(network.eval(), recipe, slide.gene_ids, {}, Path())
    return LoadedModel(checkpoint, cifm_backends.select("torch", "cpu"), torch.device("cpu"))


@dataclass(frozen=True)
class Peeping:
    """Leaks: a baseline that mixes a little of the hidden cells into the training mean."""

    name: str = "peeping"

    def candidates(self) -> list[Settings]:
        return [{}]

    def infer(self, bench: Bench, part: Round, _settings: Settings) -> Estimate:
        own = bench.slide.expression(part.hidden, bench.target_sum)[:, bench.columns].toarray()
        mean = (bench.training.mean + 1e-4 * own).astype(np.float32)
        return Estimate(mean, np.minimum(mean, 1))


@dataclass(frozen=True)
class DepthReader(Peeping):
    """Leaks: scales the training mean by the depth of the hidden cell."""

    name: str = "depth_reader"

    def infer(self, bench: Bench, part: Round, _settings: Settings) -> Estimate:
        depth = bench.slide.total_counts[part.hidden, None]
        mean = (bench.training.mean * np.log1p(depth)).astype(np.float32)
        return Estimate(mean, np.minimum(mean, 1))


@dataclass(frozen=True)
class PeepingPractice(BaselinePredictor):
    """Leaks: a baseline that learns on the very cells that are scored."""

    def infer(self, bench: Bench, part: Round, settings: Settings) -> Estimate:
        context = bench.context(part)
        own = bench.slide.expression(part.hidden, bench.target_sum)[:, bench.columns]
        counts = bench.slide.counts(part.hidden)[:, bench.columns]
        example = Example(context, bench.slide.xy_um[part.hidden], own, counts)
        taught = replace(context, practice=Practice(lambda: [example]))
        return self.baseline.predict(taught, example.query_um, settings, numpy_generator(0))


def with_other_hidden_cells(slide: Slide, hidden: np.ndarray) -> Slide:
    """The slide with the counts of the hidden cells permuted, across genes and among themselves, and other depths."""
    generator = numpy_generator(SEED, "canary")
    counts = slide.source.matrix.tolil()
    block = counts[hidden].toarray()
    counts[hidden] = generator.permuted(generator.permutation(block, axis=0), axis=1) * 3
    total_counts = slide.total_counts.copy()
    total_counts[hidden] = np.asarray(counts[hidden].sum(axis=1)).ravel()
    return replace(slide, source=MemoryCounts(counts.tocsr()), total_counts=total_counts)


def leaks(predictor: Predictor, bench: Bench, part: Round) -> bool:
    """Whether a prediction changes, in any bit, with the counts of the cells that it infers."""
    other = replace(bench, slide=with_other_hidden_cells(bench.slide, part.hidden))
    settings = predictor.candidates()[0]
    first, second = (predictor.infer(tissue, part, settings) for tissue in (bench, other))
    return not all(
        np.array_equal(one, other) for one, other in zip(vars(first).values(), vars(second).values(), strict=True)
    )


def rounds_of(slide: Slide, geometry: str, region: str = "test") -> list[Round]:
    return hide(geometry, slide.xy_um, slide.region(region), slide.radius_um, SEED)


PROTOCOLS = [
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


def scored_rounds(bench: Bench, geometry: str, region: str) -> list[Round]:
    """What `cifm evaluate` would score."""
    return plan_rounds(bench, geometry, region, "validation", None).scored


@pytest.mark.parametrize(("geometry", "region"), PROTOCOLS)
def test_no_predictor_sees_what_is_hidden(slide: Slide, engine: LoadedModel, geometry: str, region: str) -> None:
    bench = set_up_bench(slide, [engine], SEED)
    predictors = [ModelPredictor("model", engine), *(BaselinePredictor(baseline) for baseline in BASELINES)]
    for part in scored_rounds(bench, geometry, region)[:1]:
        assert [predictor.name for predictor in predictors if leaks(predictor, bench, part)] == []


@pytest.mark.parametrize(("geometry", "region"), [("scattered", "train"), ("scattered", "all"), ("region", "train")])
def test_no_predictor_sees_what_a_piece_of_a_large_region_hides(
    slide: Slide, engine: LoadedModel, geometry: str, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifm_cli.evaluation.plan.MOST_SEEN", 0)
    monkeypatch.setattr("cifm_cli.evaluation.plan.MOST_VALUES", 40 * slide.num_genes)
    bench = set_up_bench(slide, [engine], SEED)
    predictors = [ModelPredictor("model", engine), *(BaselinePredictor(baseline) for baseline in BASELINES)]
    rounds = scored_rounds(bench, geometry, region)
    assert sum(len(part.hidden) for part in rounds) <= 40
    for part in rounds[:2]:
        assert [predictor.name for predictor in predictors if leaks(predictor, bench, part)] == []


@pytest.mark.parametrize(("geometry", "region"), PROTOCOLS)
@pytest.mark.parametrize(
    "predictor", [Peeping(), DepthReader(), PeepingPractice(Blend())], ids=lambda predictor: predictor.name
)
def test_a_leak_is_caught(slide: Slide, engine: LoadedModel, predictor: Predictor, geometry: str, region: str) -> None:
    bench = set_up_bench(slide, [engine], SEED)
    assert leaks(predictor, bench, scored_rounds(bench, geometry, region)[0])


@pytest.mark.parametrize(("geometry", "region"), PROTOCOLS)
def test_nobody_is_tuned_on_what_is_scored(slide: Slide, engine: LoadedModel, geometry: str, region: str) -> None:
    bench = set_up_bench(slide, [engine], SEED)
    plan = plan_rounds(bench, geometry, region, "validation", None)
    tuned, scored = (np.concatenate([part.hidden for part in rounds]) for rounds in plan)
    assert len(np.unique(scored)) == len(scored)
    assert not np.isin(tuned, scored).any()
    for part in [*plan.tuning, *plan.scored]:
        assert not np.isin(part.visible, part.hidden).any()
    if region != "all":  # what is scored is not even looked at while tuning
        assert not any(np.isin(part.visible, scored).any() for part in plan.tuning)


@pytest.mark.parametrize(("geometry", "region"), [("scattered", "test"), ("region", "test"), *PROTOCOLS[-2:]])
def test_nothing_that_is_scored_changes_what_is_tuned(
    slide: Slide, engine: LoadedModel, geometry: str, region: str
) -> None:
    bench = set_up_bench(slide, [engine], SEED)
    plan = plan_rounds(bench, geometry, region, "validation", None)
    other = replace(bench, slide=with_other_hidden_cells(bench.slide, hidden_rows(plan.scored)))
    for predictor in (ModelPredictor("model", engine), *(BaselinePredictor(baseline) for baseline in BASELINES)):
        settings = predictor.candidates()[0]
        first, second = (infer_rounds(predictor, tissue, plan.tuning, settings) for tissue in (bench, other))
        assert np.array_equal(first.mean, second.mean), predictor.name
        assert np.array_equal(first.share, second.share), predictor.name


@pytest.mark.parametrize("geometry", ["scattered", "region"])
def test_cells_tuned_on_in_the_region_that_is_scored_are_not_scored(
    slide: Slide, engine: LoadedModel, geometry: str
) -> None:
    bench = set_up_bench(replace(slide, split=np.where(slide.split == 1, 0, slide.split)), [engine], SEED)
    plan = plan_rounds(bench, geometry, "train", "train", None)
    tuned, scored = map(hidden_rows, plan)
    assert not np.isin(tuned, scored).any()
    assert np.array_equal(np.union1d(tuned, scored), bench.slide.region("train"))
    with pytest.raises(CifmError, match="leaves nothing to see"):
        plan_rounds(bench, "whole", "train", "train", None)


@pytest.mark.parametrize("geometry", ["scattered", "region"])
def test_a_round_too_large_for_memory_is_scored_in_part(
    slide: Slide, engine: LoadedModel, geometry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = set_up_bench(slide, [engine], SEED)
    whole = plan_rounds(bench, geometry, "train", "validation", None).scored[0]
    monkeypatch.setattr("cifm_cli.evaluation.plan.MOST_VALUES", 5 * len(bench.columns))
    (part,) = plan_rounds(bench, geometry, "train", "validation", None).scored
    assert len(part.hidden) == 5
    assert np.isin(part.hidden, whole.hidden).all()
    assert np.array_equal(part.visible, whole.visible)


def test_the_whole_region_is_seen_from_outside_but_not_from_the_buffer(slide: Slide, engine: LoadedModel) -> None:
    buffered = replace(slide, split=np.where(np.arange(slide.num_cells) % 7 == 0, 3, slide.split).astype(np.int8))
    bench = set_up_bench(buffered, [engine], SEED)
    plan = plan_rounds(bench, "whole", "test", "validation", None)
    outside = np.union1d(buffered.region("train"), buffered.region("validation"))
    assert all(np.array_equal(part.visible, outside) for part in plan.scored)
    assert all(np.array_equal(part.visible, buffered.region("train")) for part in plan.tuning)
    with pytest.raises(CifmError, match="leaves nothing to see"):
        plan_rounds(bench, "whole", "all", "validation", None)


@pytest.mark.parametrize("region", ["train", "test"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_cell_of_the_region_is_hidden_exactly_once(slide: Slide, geometry: str, region: str) -> None:
    rows, rounds = slide.region(region), rounds_of(slide, geometry, region)
    assert np.array_equal(np.sort(np.concatenate([part.hidden for part in rounds])), rows)
    for part in rounds:
        assert np.array_equal(np.sort(np.concatenate([part.hidden, part.visible])), rows)


def test_scattered_hides_a_twentieth(slide: Slide) -> None:
    num_cells = len(slide.region("train"))
    assert {len(part.hidden) for part in rounds_of(slide, "scattered", "train")} <= {
        num_cells // 20,
        num_cells // 20 + 1,
    }


def grid_of_cells() -> Slide:
    """A square kilometre with a cell every 20 um."""
    xy_um = np.stack(np.meshgrid(np.arange(0, 1000, 20.0), np.arange(0, 1000, 20.0)), axis=-1).reshape(-1, 2)
    return slide_from_arrays("grid", xy_um, csr_matrix(np.ones((len(xy_um), 1))), ("g",), radius_um=20.0)


def test_hidden_blocks_are_squares_that_stand_alone() -> None:
    """Within a block nobody is further than its side from a hidden cell; between blocks there are two sides of context."""
    slide = grid_of_cells()
    side_um = BLOCK_RADII * slide.radius_um
    for part in rounds_of(slide, "region", "all"):
        hidden_um = slide.xy_um[part.hidden]
        apart = np.abs(hidden_um[:, None] - hidden_um[None]).max(axis=2)
        assert not ((apart >= side_um) & (apart <= 2 * side_um)).any()
        assert distance_to_visible(slide.xy_um, part).max() <= side_um / 2 + 20


def test_distance_is_to_the_nearest_visible_cell() -> None:
    slide = grid_of_cells()
    part = Round(0, visible=np.array([0, 52]), hidden=np.array([1, 2, 3, 50]))
    # x = 0 20 40 60 um:   0 1 2 3     row 0; 0 and 52 are visible
    #                     50 . 52      row 1, 20 um below
    assert distance_to_visible(slide.xy_um, part).tolist() == pytest.approx([20, 20, np.hypot(20, 20), 20])


def test_another_seed_hides_other_cells_and_the_same_seed_the_same(slide: Slide) -> None:
    rows = slide.region("train")
    for geometry in GEOMETRIES:
        first, again, other = (hide(geometry, slide.xy_um, rows, slide.radius_um, seed)[0].hidden for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_cells_of_other_regions_do_not_exist(slide: Slide, engine: LoadedModel) -> None:
    """Changing every cell of the validation region changes nothing in the test region."""
    bench = set_up_bench(slide, [engine], SEED)
    other = replace(bench, slide=with_other_hidden_cells(bench.slide, slide.region("validation")))
    part = rounds_of(bench.slide, "scattered")[0]
    for predictor in (ModelPredictor("model", engine), *(BaselinePredictor(baseline) for baseline in BASELINES)):
        settings = predictor.candidates()[0]
        first, second = (predictor.infer(tissue, part, settings) for tissue in (bench, other))
        assert np.array_equal(first.mean, second.mean), predictor.name


def test_rounds_are_put_together_in_slide_order(slide: Slide, engine: LoadedModel) -> None:
    bench = set_up_bench(slide, [engine], SEED)
    rounds = rounds_of(slide, "scattered")
    predictor = BaselinePredictor(BASELINES[2])
    whole = infer_rounds(predictor, bench, rounds, {})
    rows = slide.region("test")
    for part in rounds[:3]:
        alone = predictor.infer(bench, part, {})
        assert np.array_equal(whole.mean[np.isin(rows, part.hidden)], alone.mean)
