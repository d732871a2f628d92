"""Laws of a simulation: the arms differ by the edits alone, and only cells that are due change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import load_random_model
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.data.slide import Slide
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.masking import reach_um
from cifm_cli.simulation.config import SimulateConfig
from cifm_cli.simulation.edits.requests import EditRequest, Inject, Knockout, Overexpress
from cifm_cli.simulation.experiment import Experiment, Trajectory, prepare_experiment
from cifm_cli.simulation.model_response import model_changes, void_change
from cifm_cli.simulation.response import label_slide, surroundings_edits
from cifm_cli.simulation.tissue import InjectedCells, TissueState, inject
from cifm_cli.simulation.window import choose_window

FORMS = ("state", "sample", "mean", "gated")
KINDS = (*(("redraw", form) for form in FORMS), ("coupled", "state"))
STEPS = 3
TEN_T_CELLS = (Inject("tcell", 10),)


@pytest.fixture(scope="module")
def model(slide: Slide) -> LoadedModel:
    """A network with random weights on top of an average of the neighbours."""
    tables = {"model": {"width": 16, "encoder_layers": 1, "decoder_layers": 1}, "objective": {"cutoff": 2.0}}
    return load_random_model(slide, tables)


def prepare(
    model: LoadedModel, slide: Slide, kind: tuple[str, str], seed: int = 0, edits: Sequence[EditRequest] = TEN_T_CELLS
) -> Experiment:
    dynamics, form = kind
    config = SimulateConfig(tuple(edits), steps=STEPS, update_fraction=0.2, form=form, seed=seed, dynamics=dynamics)
    return prepare_experiment(model, slide, config, choose_window(slide.xy_um, None, 500))


def kind_of(experiment: Experiment) -> tuple[str, str]:
    return "redraw" if experiment.dynamics.coupling is None else "coupled", experiment.dynamics.schedule.form


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def experiment(request: pytest.FixtureRequest, model: LoadedModel, slide: Slide) -> Experiment:
    return prepare(model, slide, request.param)


@pytest.fixture(scope="module")
def trajectories(experiment: Experiment) -> list[Trajectory]:
    """Control and treated, ten cells injected."""
    return experiment.run(1)


def same(first: Trajectory, second: Trajectory) -> bool:
    counts = [trajectory.final.counts for trajectory in (first, second)]
    return np.array_equal(first.codes, second.codes) and all(
        np.array_equal(getattr(counts[0], part), getattr(counts[1], part)) for part in ("data", "indices", "indptr")
    )


def test_without_injection_the_arms_are_identical_bit_for_bit(experiment: Experiment) -> None:
    control, treated = replace(experiment, edits=[]).run(1)
    assert same(control, treated)
    changes = not np.array_equal(control.codes[0], control.codes[-1])
    assert changes == (
        experiment.dynamics.coupling is None
    )  # an untouched tissue stays as it is where updates are coupled


def test_the_same_seed_gives_the_same_trajectories_bit_for_bit(
    model: LoadedModel, slide: Slide, experiment: Experiment, trajectories: list[Trajectory]
) -> None:
    repeated = prepare(model, slide, kind_of(experiment)).run(1)
    assert all(same(first, second) for first, second in zip(trajectories, repeated, strict=True))
    other = prepare(model, slide, kind_of(experiment), seed=1).run(1)
    assert not same(trajectories[1], other[1])


def test_every_cell_keeps_its_depth(experiment: Experiment, trajectories: list[Trajectory]) -> None:
    for trajectory in trajectories:
        sums = np.asarray(trajectory.final.counts.sum(axis=1)).ravel()
        if experiment.dynamics.schedule.form in ("state", "sample"):
            assert np.array_equal(sums, trajectory.final.depths)
            assert np.array_equal(trajectory.final.counts.data, np.rint(trajectory.final.counts.data))
        else:
            assert sums == pytest.approx(trajectory.final.depths, rel=1e-5)


def test_injected_cells_never_change(experiment: Experiment, trajectories: list[Trajectory]) -> None:
    before, after = experiment.edit(0).tissue, trajectories[1].final
    injected = slice(after.num_residents, None)
    assert after.slide.num_cells == after.num_residents + 10
    assert (before.counts[injected] != after.counts[injected]).nnz == 0
    assert np.array_equal(before.slide.xy_um, after.slide.xy_um)
    assert trajectories[0].final.slide.num_cells == after.num_residents


def test_a_step_changes_only_the_cells_that_are_due(experiment: Experiment) -> None:
    tissue, dynamics = experiment.tissue, experiment.dynamics
    due = dynamics.schedule.cells_to_update(tissue.num_residents, 0, 0)
    if dynamics.coupling is not None:  # without an edit, nothing changes
        tissue = experiment.edit(0).tissue
    stepped = next(dynamics.run(tissue))
    others = np.setdiff1d(np.arange(tissue.num_residents), due)
    assert (stepped.counts[others] != tissue.counts[others]).nnz == 0
    assert (stepped.counts[due] != tissue.counts[due]).nnz > 0


def test_an_injected_cell_has_an_effect_only_within_the_receptive_field(experiment: Experiment) -> None:
    """After one step the arms differ near the injected cells only."""
    few = experiment.tissue.slide.xy_um[[0, 150, 300]]
    edits = [replace(entry, edit=replace(entry.edit, count=3, at_um=few)) for entry in experiment.edits]
    model, treated = experiment.dynamics.model, replace(experiment, edits=edits).edit(0).tissue
    residents = np.arange(treated.num_residents)
    first, second = (next(experiment.dynamics.run(tissue)).counts[residents] for tissue in (experiment.tissue, treated))
    reach = reach_um(model.checkpoint.recipe, treated.slide.radius_um)
    distance, _ = cKDTree(treated.slide.xy_um[treated.num_residents :]).query(treated.slide.xy_um[residents])
    far = distance > reach
    difference = np.abs((first - second).toarray()).max(axis=1)
    assert 50 < far.sum() < len(residents) - 50
    assert difference[far].max() < 1e-3
    if experiment.dynamics.schedule.form in ("mean", "gated"):
        assert difference[~far].max() > 1e-3


@pytest.fixture(scope="module")
def any_experiment(model: LoadedModel, slide: Slide) -> Experiment:
    """An experiment, of which tissue, edits and model matter, but not the update rule."""
    return prepare(model, slide, ("redraw", "mean"))


def rows_near(experiment: Experiment) -> dict[tuple[str, float], list[np.ndarray]]:
    """All residents, in two groups, one of which has no resident in the second replicate."""
    rows = np.arange(experiment.tissue.num_residents)
    return {("even", 15.0): [rows[::2], rows[::2]], ("odd", 30.0): [rows[1::2], rows[:0]]}


def test_the_model_infers_no_change_without_edits(any_experiment: Experiment) -> None:
    """Void cells change no prediction, and no edit is plain inference, both bit for bit."""
    model, before = any_experiment.dynamics.model, any_experiment.tissue
    for edited in (before, with_void_cells(any_experiment)):
        table = model_changes(model, before, [edited, edited], rows_near(any_experiment), 0)
        assert (table["model_log2_change"] == 0).all()
        assert len(table) == 2 * before.slide.num_genes
    assert void_change(model, before, before.slide.xy_um[:20] + 1.0, 0) == 0


def test_what_the_model_infers_depends_on_seed_and_edits_alone(any_experiment: Experiment) -> None:
    model, before, edited = any_experiment.dynamics.model, any_experiment.tissue, any_experiment.edit(0).tissue
    first, second = (model_changes(model, before, [edited, edited], rows_near(any_experiment), 0) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert (first["model_log2_change"] != 0).mean() > 0.5
    # The change of a resident is the same, whichever replicate it belongs to.
    alone = model_changes(model, before, [edited], {("odd", 30.0): rows_near(any_experiment)["odd", 30.0][:1]}, 0)
    assert len(alone) == before.slide.num_genes


def test_the_model_infers_no_change_beyond_its_reach(any_experiment: Experiment) -> None:
    model, before = any_experiment.dynamics.model, any_experiment.tissue
    places = before.slide.xy_um[[0]] + 1.0
    source = before.slide
    cell = InjectedCells(places, source.counts(np.array([0])), source.total_counts[:1])
    distance = np.linalg.norm(before.slide.xy_um - places, axis=1)
    reach = reach_um(model.checkpoint.recipe, source.radius_um)
    far, near = np.flatnonzero(distance > reach), np.flatnonzero(distance <= reach)
    residents = {("far", 1.0): [far], ("near", 2.0): [near]}
    table = model_changes(model, before, [inject(before, cell)], residents, 0).set_index("label")["model_log2_change"]
    assert np.abs(table["far"]).max() < 1e-5
    assert np.abs(table["near"]).max() > 1e-3


def with_void_cells(experiment: Experiment) -> TissueState:
    """The tissue before any edit, and ten void cells."""
    before = experiment.tissue
    counts = csr_matrix((10, before.slide.num_genes), dtype=np.float32)
    return inject(before, InjectedCells(before.slide.xy_um[:10] + 1.0, counts, np.zeros(10)))


@pytest.mark.parametrize("edit", [Knockout("KRT8"), Overexpress("KRT8", 3.0)], ids=["knockout", "overexpress"])
def test_a_gene_edit_in_many_labels_divides_the_most_changed(
    model: LoadedModel, slide: Slide, edit: Knockout | Overexpress
) -> None:
    middle = float(np.median(slide.xy_um[:, 0]))
    edit = replace(edit, region_um=(-1e6, -1e6, middle, 1e6))
    config = SimulateConfig((edit,), steps=1, form="mean", dynamics="redraw")
    experiment = prepare_experiment(model, slide, config, choose_window(slide.xy_um, None, 500))
    labels = label_slide(experiment, slide, config)
    edited = [experiment.edit(replicate, 2) for replicate in range(2)]
    first, second = surroundings_edits(experiment, edited, slide, labels)
    assert len(set(np.asarray(experiment.labels.annotation.labels)[edited[0].edited])) > 3
    names = [first.before.names[code] for code in first.edited]
    assert 2 <= len(names) <= 6
    assert all(name.endswith((" KRT8+", " KRT8-")) for name in names)
    assert first.before.names == second.before.names
    assert np.array_equal(first.before.codes, second.before.codes)


def test_replicates_differ_and_do_not_depend_on_each_other(model: LoadedModel, slide: Slide) -> None:
    experiment = prepare(model, slide, ("redraw", "state"))
    trajectories = experiment.run(2)
    assert [(trajectory.arm, trajectory.replicate) for trajectory in trajectories] == [
        ("control", 0),
        ("treated", 0),
        ("control", 1),
        ("treated", 1),
    ]
    assert not np.array_equal(experiment.edit(0).xy_um, experiment.edit(1).xy_um)
    assert not same(trajectories[0], trajectories[2])
    assert same(trajectories[1], experiment.run(1)[1])
