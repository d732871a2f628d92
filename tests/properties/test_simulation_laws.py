"""Laws of a simulation: the injection is the only difference between the arms, and nothing else is ever changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

import cifm_backends
from cifm_cli.celltype.markers import load_markers
from cifm_cli.data.slide import Slide, open_slide
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.checkpoint import Checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.masking import reach_um
from cifm_cli.provenance import seeded_torch
from cifm_cli.recipe import parse
from cifm_cli.simulation.dynamics import Schedule
from cifm_cli.simulation.experiment import Course, Experiment, InjectionConfig, prepare_experiment
from cifm_cli.simulation.window import choose_window

FORMS = ("state", "sample", "mean", "gated")
STEPS = 3


@pytest.fixture(scope="module")
def slide(prepared_synthetic: Path) -> Slide:
    return open_slide(prepared_synthetic)


@pytest.fixture(scope="module")
def engine(slide: Slide) -> LoadedModel:
    """A network of random weights on top of a plain average of the neighbours."""
    recipe = parse(
        {"model": {"width": 16, "encoder_layers": 1, "decoder_layers": 1}, "objective": {"cutoff": 2.0}}, "test"
    )
    with seeded_torch(0, "network"):
        network = Ensemble(slide.num_genes, recipe)
        for weight in network.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
    checkpoint = Checkpoint(network.eval(), recipe, slide.gene_ids, {}, Path())
    return LoadedModel(checkpoint, cifm_backends.select("torch", "cpu"), torch.device("cpu"))


def prepare(engine: LoadedModel, slide: Slide, form: str, seed: int = 0) -> Experiment:
    window = choose_window(slide.xy_um, None, 500)
    schedule = Schedule(STEPS, 0.2, form, seed)
    return prepare_experiment(engine, slide, InjectionConfig("tcell"), load_markers(), window, schedule)


@pytest.fixture(scope="module", params=FORMS)
def experiment(request: pytest.FixtureRequest, engine: LoadedModel, slide: Slide) -> Experiment:
    return prepare(engine, slide, request.param)


@pytest.fixture(scope="module")
def courses(experiment: Experiment) -> list[Course]:
    """Control and treated, ten cells injected."""
    return experiment.run(10, 1)


def same(first: Course, second: Course) -> bool:
    counts = [course.final.counts for course in (first, second)]
    return np.array_equal(first.codes, second.codes) and all(
        np.array_equal(getattr(counts[0], part), getattr(counts[1], part)) for part in ("data", "indices", "indptr")
    )


def test_without_injection_the_arms_are_identical_bit_for_bit(experiment: Experiment) -> None:
    control, treated = experiment.run(0, 1)
    assert same(control, treated)
    assert not np.array_equal(control.codes[0], control.codes[-1])


def test_the_same_seed_gives_the_same_bit_for_bit(
    engine: LoadedModel, slide: Slide, experiment: Experiment, courses: list[Course]
) -> None:
    again = prepare(engine, slide, experiment.dynamics.schedule.form).run(10, 1)
    assert all(same(first, second) for first, second in zip(courses, again, strict=True))
    other = prepare(engine, slide, experiment.dynamics.schedule.form, seed=1).run(10, 1)
    assert not same(courses[0], other[0])


def test_every_cell_keeps_its_depth(experiment: Experiment, courses: list[Course]) -> None:
    for course in courses:
        sums = np.asarray(course.final.counts.sum(axis=1)).ravel()
        if experiment.dynamics.schedule.form in ("state", "sample"):
            assert np.array_equal(sums, course.final.depths)
            assert np.array_equal(course.final.counts.data, np.rint(course.final.counts.data))
        else:
            assert sums == pytest.approx(course.final.depths, rel=1e-5)


def test_injected_cells_never_change(experiment: Experiment, courses: list[Course]) -> None:
    before, after = experiment.inject(10, 0), courses[1].final
    injected = slice(after.num_residents, None)
    assert after.slide.num_cells == after.num_residents + 10
    assert (before.counts[injected] != after.counts[injected]).nnz == 0
    assert np.array_equal(before.slide.xy_um, after.slide.xy_um)
    assert courses[0].final.slide.num_cells == after.num_residents


def test_cells_that_are_not_due_stay(experiment: Experiment) -> None:
    tissue, dynamics = experiment.tissue, experiment.dynamics
    due = dynamics.schedule.cells(tissue.num_residents, 0, 0)
    stepped = next(dynamics.run(tissue))
    others = np.setdiff1d(np.arange(tissue.num_residents), due)
    assert (stepped.counts[others] != tissue.counts[others]).nnz == 0
    assert (stepped.counts[due] != tissue.counts[due]).nnz > 0


def test_an_injected_cell_matters_only_within_reach(experiment: Experiment) -> None:
    """After one step the arms differ near the injected cells, and nowhere else."""
    engine, treated = experiment.dynamics.engine, experiment.inject(3, 0)
    residents = np.arange(treated.num_residents)
    first, second = (next(experiment.dynamics.run(tissue)).counts[residents] for tissue in (experiment.tissue, treated))
    reach = reach_um(engine.checkpoint.recipe, treated.slide.radius_um)
    distance, _ = cKDTree(treated.slide.xy_um[treated.num_residents :]).query(treated.slide.xy_um[residents])
    far = distance > reach
    apart = np.abs((first - second).toarray()).max(axis=1)
    assert 50 < far.sum() < len(residents) - 50
    assert apart[far].max() < 1e-3
    if experiment.dynamics.schedule.form in ("mean", "gated"):
        assert apart[~far].max() > 1e-3


def test_replicates_differ_and_are_apart_from_each_other(engine: LoadedModel, slide: Slide) -> None:
    experiment = prepare(engine, slide, "state")
    three = experiment.run(5, 2)
    assert [(course.arm, course.replicate) for course in three] == [
        ("control", 0),
        ("treated", 0),
        ("control", 1),
        ("treated", 1),
    ]
    assert not np.array_equal(experiment.inject(5, 0).slide.xy_um, experiment.inject(5, 1).slide.xy_um)
    assert not same(three[0], three[2])
    assert same(three[1], experiment.run(5, 1)[1])
