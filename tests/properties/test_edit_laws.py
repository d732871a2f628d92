"""Laws of edits: void cells change nothing, nothing changes beyond the reach of an edit, and depths stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import load_random_model
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.inference.hidden_tile import halo_um
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.inference.predict import predict_cells
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.config import SimulateConfig
from cifm_cli.simulation.coupled_states import CoupledRun, CouplingRule, couple_states, draw_noise
from cifm_cli.simulation.edits.apply import apply_edits
from cifm_cli.simulation.edits.requests import EditRequest, Inject, Knockout, Overexpress, Remove, Swap
from cifm_cli.simulation.experiment import Experiment, Trajectory, prepare_experiment
from cifm_cli.simulation.feedback import fit_feedback, measure_influence
from cifm_cli.simulation.state_sampler import StateSampler
from cifm_cli.simulation.tissue import TissueState, crop_tissue
from cifm_cli.simulation.window import choose_window

KINDS = (("coupled", "state"), ("redraw", "state"), ("redraw", "mean"))


@pytest.fixture(scope="module")
def model(slide: Slide) -> LoadedModel:
    """A network with random weights on top of an average of the neighbours."""
    tables = {"model": {"width": 16, "encoder_layers": 1, "decoder_layers": 1}, "objective": {"cutoff": 2.0}}
    return load_random_model(slide, tables)


def prepare(
    model: LoadedModel, slide: Slide, *edits: EditRequest, kind: tuple[str, str] = KINDS[0], steps: int = 2
) -> Experiment:
    dynamics, form = kind
    config = SimulateConfig(edits, steps=steps, update_fraction=0.3, form=form, dynamics=dynamics)
    return prepare_experiment(model, slide, config, choose_window(slide.xy_um, None, 300))


def residents(trajectory: Trajectory) -> np.ndarray:
    tissue = trajectory.final
    return tissue.counts[: tissue.num_residents].toarray()


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_void_cells_change_nothing_bit_for_bit(model: LoadedModel, slide: Slide, kind: tuple[str, str]) -> None:
    """Alone they equal the control, and beside other edits they do not change their effects."""
    control, treated = prepare(model, slide, Inject("void", 25), kind=kind).run(1)
    assert np.array_equal(residents(control), residents(treated))
    assert treated.final.slide.num_cells == 325
    edits = (Inject("tcell", 6), Swap("macrophage", "tcell"))
    alone = prepare(model, slide, *edits, kind=kind).run(1)[1]
    beside = prepare(model, slide, Inject("void", 25, min_distance_um=3.0), *edits, kind=kind).run(1)[1]
    assert np.array_equal(residents(alone), residents(beside))
    assert np.array_equal(alone.codes, beside.codes)
    assert not np.array_equal(residents(alone), residents(control))


def test_without_edits_predictions_are_those_of_the_slide(model: LoadedModel, slide: Slide) -> None:
    experiment = prepare(model, slide, Inject("tcell", 0))
    edited = apply_edits(experiment.tissue, [], numpy_generator(0))
    assert (len(edited.edited), len(edited.added), len(edited.xy_um)) == (0, 0, 0)
    hidden = np.arange(0, 300, 7)
    plain = slide.subset(experiment.window.rows)
    for tissue in (edited.tissue, experiment.edit(0).tissue):
        predictions = [predict_cells(model, each, np.arange(300), hidden).mean for each in (tissue.slide, plain)]
        assert np.array_equal(*predictions)


@pytest.mark.parametrize("steps", [1, 2])
def test_nothing_changes_beyond_the_reach_times_the_number_of_steps(
    model: LoadedModel, slide: Slide, steps: int
) -> None:
    window = slide.xy_um[choose_window(slide.xy_um, None, 300).rows]
    corner = window[window.sum(axis=1).argmin()]
    places = corner + numpy_generator(0).uniform(0.0, 20.0, (60, 2))
    experiment = prepare(model, slide, Inject("tcell", at_um=places), steps=steps)
    control, treated = experiment.run(1)
    changed = (residents(control) != residents(treated)).any(axis=1)
    distance, _ = cKDTree(places).query(experiment.tissue.slide.xy_um)
    reach = steps * halo_um(model, experiment.tissue.slide)
    assert changed.any()
    assert not changed[distance > reach].any(), distance[changed].max()
    if steps == 1:
        assert (distance > reach).sum() > 50


def test_an_untouched_tissue_is_stationary_and_depths_never_drift(model: LoadedModel, slide: Slide) -> None:
    experiment = prepare(model, slide, Inject("tcell", 20), Remove("macrophage"), steps=50)
    before, edited = experiment.tissue, experiment.edit(0)
    *_, control = experiment.dynamics.run(before, 0, edited.edited)
    *_, treated = experiment.dynamics.run(edited.tissue, 0, edited.edited)
    assert (control.counts != before.counts).nnz == 0
    # exactly the depth of the edited tissue, after 50 steps
    assert np.array_equal(np.asarray(treated.counts.sum(axis=1)).ravel(), edited.tissue.depths)
    assert np.array_equal(treated.slide.total_counts, edited.tissue.slide.total_counts)
    assert (treated.counts != edited.tissue.counts).nnz > 0


def test_edited_cells_keep_their_edit(model: LoadedModel, slide: Slide) -> None:
    edits = (Remove("macrophage"), Swap("tcell", "macrophage"), Knockout("KRT8", near="tcell", within_um=30))
    for kind in KINDS:
        experiment = prepare(model, slide, *edits, kind=kind)
        start, (control, treated) = experiment.edit(0), experiment.run(1)
        rows = start.edited
        assert np.array_equal(residents(treated)[rows], start.tissue.counts[rows].toarray())
        assert treated.compared is not None
        assert np.array_equal(treated.compared, np.setdiff1d(np.arange(300), rows))
        # held in both arms, so that the same random numbers are drawn for the others
        assert np.array_equal(residents(control)[rows], experiment.tissue.counts[rows].toarray())


def test_a_cell_whose_surroundings_stay_does_not_change_again(model: LoadedModel, slide: Slide) -> None:
    experiment = prepare(model, slide, Inject("tcell", 60))
    rule, before, edited = experiment.dynamics.coupling, experiment.tissue, experiment.edit(0).tissue
    assert rule is not None
    assert 0 < rule.feedback <= 1
    run, cells = CoupledRun(rule, edited, draw_noise(300, len(rule.sampler.members), 0, 0)), np.arange(0, 300, 2)
    first = run.update(edited, cells, numpy_generator(0))
    assert (first.counts[:300] != before.counts).nnz
    assert run.update(first, cells, numpy_generator(1)) is first


class NeighbourAverage(CouplingRule):
    """Probabilities of the states that are their frequencies among the visible cells within 25 um."""

    def probability(self, tissue: TissueState, masked: np.ndarray) -> np.ndarray:
        visible = np.setdiff1d(np.arange(tissue.slide.num_cells), masked)
        near = cKDTree(tissue.slide.xy_um[visible]).query_ball_point(tissue.slide.xy_um[masked], 25.0)
        states = tissue.counts.toarray() > 0
        return np.array([states[visible[rows]].mean(axis=0) for rows in near])


def test_a_changed_cell_changes_one_other_where_cells_are_like_the_average_of_their_neighbours() -> None:
    """Its weight in the averages of all others sums to one, so that changes neither grow nor fade."""
    xy_um = np.stack(np.meshgrid(np.arange(60), np.arange(60)), axis=-1).reshape(-1, 2) * 10.0
    state = numpy_generator(0).integers(3, size=len(xy_um))
    counts = csr_matrix(5.0 * np.eye(3, dtype=np.float32)[state])
    tissue = crop_tissue(
        slide_from_arrays("grid", xy_um, counts, ("A", "B", "C"), 20.0), np.arange(len(xy_um)), np.arange(3)
    )
    members = [np.flatnonzero(state == number) for number in range(3)]
    sampler = StateSampler(counts, np.full(len(xy_um), 5), members)
    rule = NeighbourAverage(None, sampler, tissue)
    assert np.mean([measure_influence(rule, 0.1, seed) for seed in range(8)]) == pytest.approx(1, abs=0.2)
    assert 0.25 < fit_feedback(rule, 0.1, 0).feedback < 1
    no_others = replace(rule, sampler=StateSampler(counts, np.full(len(xy_um), 5), [np.arange(0)] * 3))
    assert fit_feedback(no_others, 0.1, 0).feedback == 1


@given(st.integers(0, 10_000), st.integers(2, 9))
def test_equal_probabilities_change_no_state(seed: int, num_states: int) -> None:
    generator = numpy_generator(seed)
    before = generator.dirichlet(np.full(num_states, 0.3), size=40)
    observed = generator.integers(num_states, size=40)
    noise = generator.random(40), generator.standard_exponential((40, num_states), dtype=np.float32)
    assert np.array_equal(couple_states(observed, before, before, *noise), observed)
    # zero probabilities, such as of states that underflow, are no reason to change either
    certain = np.eye(num_states)[observed]
    assert np.array_equal(couple_states(observed, before, certain, *noise), observed)


@pytest.mark.parametrize("seed", range(3))
def test_coupled_states_are_draws_from_the_present_probabilities(seed: int) -> None:
    """The coupling is exact, and changes as few states as is possible."""
    generator = numpy_generator(seed)
    before, now = generator.dirichlet(np.ones(5), size=2)
    number = 40_000
    observed = generator.choice(5, size=number, p=before)
    rows = [np.tile(each, (number, 1)) for each in (before, now)]
    noise = generator.random(number), generator.standard_exponential((number, 5), dtype=np.float32)
    states = couple_states(observed, *rows, *noise)
    assert np.bincount(states, minlength=5) / number == pytest.approx(now, abs=0.01)
    assert (states != observed).mean() == pytest.approx(np.abs(now - before).sum() / 2, abs=0.01)


def test_knockout_and_overexpression_change_one_gene_and_the_depth(model: LoadedModel, slide: Slide) -> None:
    half = (-1e6, -1e6, float(np.median(slide.xy_um[:, 0])), 1e6)
    edits = Knockout("KRT8", region_um=half), Overexpress("KRT19", 3.0, region_um=half)
    experiment = prepare(model, slide, *edits)
    before, edited = experiment.tissue, experiment.edit(0)
    rows = np.flatnonzero(before.slide.xy_um[:, 0] <= half[2])
    assert np.array_equal(edited.edited, rows)
    columns = [before.slide.symbols.index(gene) for gene in ("KRT8", "KRT19")]
    counts = [tissue.counts.toarray() for tissue in (before, edited.tissue)]
    others = np.setdiff1d(np.arange(before.slide.num_genes), columns)
    assert np.array_equal(counts[0][:, others], counts[1][:, others])
    assert np.array_equal(np.delete(counts[0], rows, axis=0), np.delete(counts[1], rows, axis=0))
    assert not counts[1][rows, columns[0]].any()
    assert counts[1][rows, columns[1]].mean() == pytest.approx(3 * counts[0][rows, columns[1]].mean(), rel=0.15)
    change = edited.tissue.slide.total_counts - before.slide.total_counts
    assert change == pytest.approx(counts[1].sum(axis=1) - counts[0].sum(axis=1))


def test_replicates_take_other_donors(model: LoadedModel, slide: Slide) -> None:
    experiment = prepare(model, slide, Inject("tcell", 8))
    (entry,) = experiment.edits
    source = entry.edit.source
    names = np.array([f"p{number % 3}" for number in range(source.num_cells)], dtype=object)
    donors = replace(entry, edit=replace(entry.edit, source=replace(source, donors=names)))
    several = replace(experiment, edits=[donors])
    assert sorted(several.donors) == ["p0", "p1", "p2"]
    for replicate in range(4):
        added = several.edit(replicate, 4)
        own = source.counts[names == several.donors[replicate % 3]].toarray()
        counts = added.tissue.counts[added.added].toarray()
        assert all((own == row).all(axis=1).any() for row in counts)
    # another type, of which only one donor has cells
    other = replace(source, donors=np.full(source.num_cells, "p1", dtype=object))
    both = replace(several, edits=[donors, replace(entry, edit=replace(entry.edit, source=other))])
    assert [len(both.edit(replicate, 3).added) for replicate in range(3)] == [16, 16, 16]
    # a single replicate takes as many cells of each donor
    drawn = replace(source, donors=np.where(np.arange(source.num_cells) < 2, "p0", names)).draw(9, numpy_generator(0))
    assert len(drawn) == 9
    chosen = np.where(drawn < 2, "p0", names[drawn])
    assert sorted(np.unique(chosen, return_counts=True)[1]) == [3, 3, 3]


def test_a_model_without_states_is_coupled_by_clusters(slide: Slide) -> None:
    """The model of the paper has no states: a classifier gives the probabilities."""
    tables = {"model": {"width": 16, "encoder_layers": 1, "decoder_layers": 1}, "objective": {"name": "balanced_mse"}}
    experiment = prepare(load_random_model(slide, tables), slide, Inject("tcell", 60))
    control, treated = experiment.run(1)
    assert np.array_equal(residents(control), experiment.tissue.counts.toarray())
    assert np.array_equal(np.asarray(treated.final.counts.sum(axis=1)).ravel(), treated.final.depths)
