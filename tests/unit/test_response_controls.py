"""Controls of the response: shuffled distances, another label at the same places, void cells, and replicates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cifm_cli.provenance import numpy_generator
from cifm_cli.response.bands import SurroundingsEdit
from cifm_cli.response.calls import Controls
from cifm_cli.response.effects import ResponseEstimate, estimate_response
from cifm_cli.response.label_regression import LabelRegression, fit_label
from cifm_cli.response.shuffled import draw_shuffles, shuffled_changes
from cifm_cli.response.summary import response_facts, response_notes
from cifm_cli.response.surroundings import LabelledCells, choose_design
from cifm_cli.simulation.response import void_edit
from cifm_cli.statistics.poisson_regression import fit_poisson
from cifm_cli.synthetic.planted import PlantedRule, PlantedTissue, plant_tissue

EPITHELIUM = "epithelial cell"


@pytest.fixture(scope="module")
def planted() -> PlantedTissue:
    """A small tissue in which T cells change 20 genes of epithelium."""
    return plant_tissue(3_000, 4, PlantedRule(num_genes=150, num_raised=10, num_lowered=10, sender_share=0.03))


def label(planted: PlantedTissue, labels: np.ndarray) -> LabelledCells:
    names = tuple(sorted(set(labels.tolist())))
    return LabelledCells(planted.slide.xy_um, np.searchsorted(names, labels), names)


def inject(cells: LabelledCells, seed: int, residents: str = EPITHELIUM) -> SurroundingsEdit:
    """T cells at 80 random places."""
    generator = np.random.default_rng(seed)
    places = cells.xy_um[generator.integers(len(cells.xy_um), size=80)] + generator.normal(scale=5.0, size=(80, 2))
    codes = np.concatenate([cells.codes, np.full(80, cells.names.index("T cell"))])
    after = LabelledCells(np.concatenate([cells.xy_um, places]), codes, cells.names)
    return SurroundingsEdit(cells, after, cells.of(cells.names.index(residents)), places)


@pytest.fixture(scope="module")
def estimate(planted: PlantedTissue) -> ResponseEstimate:
    return estimate_response(planted.slide, inject(label(planted, planted.labels), 0), 0)


@pytest.fixture(scope="module")
def fitted(planted: PlantedTissue) -> LabelRegression:
    """The regression of epithelium in a tissue, whose genes T cells do not change."""
    tissue = plant_tissue(3_000, 4, replace(planted.rule, rule="none"))
    cells = label(tissue, tissue.labels)
    design = choose_design(cells, tissue.slide.radius_um, [cells.names.index("T cell")])
    found = fit_label(tissue.slide, cells, cells.names.index(EPITHELIUM), design, numpy_generator(0, "test"))
    assert found is not None
    return found


def test_shuffled_distances_are_those_of_other_residents(fitted: LabelRegression) -> None:
    origin = draw_shuffles(fitted, numpy_generator(0, "test"))
    residents = np.arange(len(fitted.x))
    assert all(np.array_equal(np.sort(draw), residents) for draw in origin)
    assert (origin == residents).mean() < 0.05
    assert len({draw.tobytes() for draw in origin}) == len(origin)
    assert np.array_equal(origin, draw_shuffles(fitted, numpy_generator(0, "test")))
    # Neighbours get their distances from neighbours.
    apart = np.linalg.norm(np.diff(fitted.xy_um[origin[0]], axis=0), axis=1)
    of_random = np.linalg.norm(np.diff(fitted.xy_um[np.random.default_rng(0).permutation(residents)], axis=0), axis=1)
    by_place = np.lexsort(fitted.xy_um.T)
    assert np.median(apart[by_place[:-1] % len(apart)]) < np.median(of_random)


def test_without_shuffling_one_step_gives_the_changes_of_the_regression(fitted: LabelRegression) -> None:
    difference = np.zeros((1, fitted.x.shape[1]))
    difference[0, :3] = 1.0
    as_it_is = np.arange(len(fitted.x))[None]
    shuffled = shuffled_changes(fitted, as_it_is, difference, 1.5)
    exact = fitted.changes(difference, 1.5)
    assert np.corrcoef(shuffled.values[0, 0], exact.values[0])[0, 1] > 0.98
    np.testing.assert_allclose(shuffled.values[0], exact.values, atol=0.2)
    assert np.median(shuffled.errors[0] / exact.errors) == pytest.approx(1, abs=0.1)


def test_shuffled_changes_are_as_large_as_their_errors(fitted: LabelRegression) -> None:
    difference = np.zeros((1, fitted.x.shape[1]))
    difference[0, :3] = 1.0
    found = shuffled_changes(fitted, draw_shuffles(fitted, numpy_generator(0, "test")), difference, 1.5)
    assert 0.8 < (found.values / found.errors).std() < 1.25


def test_planted_effects_are_beyond_the_shuffled_control_and_specific(
    planted: PlantedTissue, estimate: ResponseEstimate
) -> None:
    effects = estimate.effects
    own = effects[(effects["band_high_um"] <= 30) & effects["gene"].isin(planted.raised + planted.lowered)]
    assert own["called"].mean() >= 0.9
    assert (own["log2_change"].abs() > own["shuffled"]).mean() >= 0.95
    assert set(own["other_label"]) == {"B cell"}
    assert own["other_change"].abs().mean() < 0.4
    assert estimate.controls.not_specific <= 0.2 * effects["called"].sum()
    assert max(estimate.controls.shuffled) <= 3
    assert response_facts(estimate)["controls"]["shuffled"]["num_draws"] == 20


def test_what_no_draw_exceeds_is_not_called(estimate: ResponseEstimate) -> None:
    effects = estimate.effects
    assert (effects["log2_change"].abs() > effects["shuffled"])[effects["called"]].all()
    doubtful = replace(estimate, controls=Controls(shuffled=(0, 1_000)))
    assert any("do not rely on them" in note for note in response_notes(doubtful))
    assert not any("do not rely on them" in note for note in response_notes(estimate))


def test_an_effect_that_another_label_has_too_is_not_specific(planted: PlantedTissue) -> None:
    """T cells are divided at random into two labels, so that both have the effect."""
    is_other = np.random.default_rng(0).random(len(planted.labels)) < 0.5
    labels = np.where((planted.labels == "T cell") & is_other, "killer cell", planted.labels)
    found = estimate_response(planted.slide, inject(label(planted, labels), 0), 0)
    effects = found.effects
    own = effects[(effects["band_high_um"] <= 30) & effects["gene"].isin(planted.raised)]
    assert set(own["other_label"]) == {"killer cell"}
    assert own["other_change"].mean() == pytest.approx(own["log2_change"].mean(), rel=0.3)
    assert found.controls.not_specific >= 0.5 * effects["called"].sum() > 0
    assert any("not specific" in note and "killer cell" in note for note in response_notes(found))


def test_void_cells_and_no_edit_call_nothing(planted: PlantedTissue) -> None:
    edit = inject(label(planted, planted.labels), 0)
    for nothing in (void_edit(edit), replace(edit, after=edit.before)):
        found = estimate_response(planted.slide, nothing, 0)
        assert found.effects.empty
        assert found.edited == ()


def test_replicates_are_averaged_and_widen_the_interval(planted: PlantedTissue, estimate: ResponseEstimate) -> None:
    cells = label(planted, planted.labels)
    twice = estimate_response(planted.slide, [inject(cells, 0), inject(cells, 0)], 0).effects
    columns = ["log2_change", "low", "high", "p", "shuffled", "num_residents"]
    np.testing.assert_allclose(twice[columns], estimate.effects[columns], rtol=1e-6, atol=1e-9)
    several = estimate_response(planted.slide, [inject(cells, seed) for seed in range(3)], 0)
    assert all(len(rows) == 3 for rows in several.residents.values())
    alone = estimate.effects.set_index(["gene", "band_high_um"])["log2_change"]
    together = several.effects.set_index(["gene", "band_high_um"])["log2_change"]
    assert np.corrcoef(alone, together.reindex(alone.index))[0, 1] > 0.95


def test_the_depth_of_all_cells_is_a_matter_of_scale(planted: PlantedTissue, estimate: ResponseEstimate) -> None:
    deeper = replace(planted.slide, total_counts=3 * planted.slide.total_counts)
    scaled = estimate_response(deeper, inject(label(planted, planted.labels), 0), 0).effects
    columns = ["log2_change", "low", "high", "p", "shuffled", "other_change"]
    np.testing.assert_allclose(scaled[columns], estimate.effects[columns], rtol=1e-4, atol=1e-6)


def test_a_gene_without_counts_near_a_label_has_an_error_of_counts() -> None:
    """Zero counts in all cells of a group do not vary between blocks, but say little where few are expected."""
    near = np.repeat([0.0, 1.0], [900, 100])
    y = np.zeros((1_000, 1))
    y[:900:45] = 1.0  # 20 counts, of which 2.2 are expected in the group
    fitted = fit_poisson(near[:, None], y, np.ones(1_000), np.array([0.5]))
    value, error = fitted.contrasts(np.array([[0.0, 1.0]]), np.arange(1_000) // 25)
    assert value[0, 0] < -1
    assert abs(value[0, 0]) / error[0, 0] < 2.5
