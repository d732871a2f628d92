"""Laws of edits: void cells change nothing, nothing changes beyond the reach of an edit, and depths stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import load_random_model
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from cifm_cli.data.slide import Slide
from cifm_cli.inference.hidden_tile import halo_um
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.inference.predict import predict_cells
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.config import SimulateConfig
from cifm_cli.simulation.coupled_states import CoupledRun, couple_states, draw_noise
from cifm_cli.simulation.edits.apply import apply_edits
from cifm_cli.simulation.edits.requests import EditRequest, Inject, Knockout, Overexpress, Remove, Swap
from cifm_cli.simulation.experiment import Experiment, Trajectory, prepare_experiment
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
    control, treated = experiment.run(1)
    assert np.array_equal(residents(control), experiment.tissue.counts.toarray())
    assert (control.codes == control.codes[0]).all()
    # exactly the depth of the edited tissue, after 50 steps
    edited = experiment.edit(0).tissue
    assert np.array_equal(np.asarray(treated.final.counts.sum(axis=1)).ravel(), edited.depths)
    assert np.array_equal(treated.final.slide.total_counts, edited.slide.total_counts)
    assert not np.array_equal(residents(treated), edited.counts[:300].toarray())


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


def test_a_cell_whose_surroundings_return_returns_to_what_it_was(model: LoadedModel, slide: Slide) -> None:
    experiment = prepare(model, slide, Inject("tcell", 60))
    sampler, before, edited = experiment.dynamics.state_sampler, experiment.tissue, experiment.edit(0).tissue
    assert sampler is not None
    run = CoupledRun(model, sampler, before, draw_noise(300, len(sampler.members), 0, 0))
    stepped = run.update(edited, np.arange(0, 300, 2), numpy_generator(0))
    moved = np.flatnonzero(np.asarray((stepped.counts[:300] != before.counts).sum(axis=1)).ravel())
    assert len(moved)
    alone = before.with_counts(
        moved[:1], stepped.counts[moved[:1]]
    )  # the edit undone, and one cell as the edit left it
    returned = run.update(alone, moved[:1], numpy_generator(0))
    assert (returned.counts != before.counts).nnz == 0


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
    experiment = prepare(model, slide, Knockout("KRT8"), Overexpress("KRT19", 3.0))
    before, edited = experiment.tissue, experiment.edit(0)
    columns = [before.slide.symbols.index(gene) for gene in ("KRT8", "KRT19")]
    counts = [tissue.counts.toarray() for tissue in (before, edited.tissue)]
    others = np.setdiff1d(np.arange(before.slide.num_genes), columns)
    assert np.array_equal(counts[0][:, others], counts[1][:, others])
    assert not counts[1][:, columns[0]].any()
    assert counts[1][:, columns[1]].mean() == pytest.approx(3 * counts[0][:, columns[1]].mean(), rel=0.1)
    change = edited.tissue.slide.total_counts - before.slide.total_counts
    assert change == pytest.approx(counts[1].sum(axis=1) - counts[0].sum(axis=1))
    assert np.array_equal(edited.edited, np.arange(300))


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
