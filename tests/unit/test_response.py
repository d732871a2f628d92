"""The response of residents to an edit: the regression, planted effects, and the laws of an edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.response.bands import SurroundingsEdit
from cifm_cli.response.effects import estimate_response
from cifm_cli.response.planted_check import check_planted
from cifm_cli.response.summary import describe_response, response_notes
from cifm_cli.response.surroundings import LabelledCells, choose_design
from cifm_cli.response.validation import held_out_table, validate_response
from cifm_cli.statistics.poisson_regression import fit_poisson
from cifm_cli.synthetic.planted import PlantedRule, PlantedTissue, plant_tissue


@pytest.fixture(scope="module")
def planted() -> PlantedTissue:
    return plant_tissue(2_500, 3, PlantedRule(depth=100.0, num_genes=160))


def labelled(planted: PlantedTissue) -> LabelledCells:
    names = tuple(sorted(set(planted.labels.tolist())))
    return LabelledCells(planted.slide.xy_um, np.searchsorted(names, planted.labels), names)


def inject(planted: PlantedTissue, places: np.ndarray) -> SurroundingsEdit:
    before = labelled(planted)
    code = before.names.index("T cell")
    after = LabelledCells(
        np.concatenate([before.xy_um, places]),
        np.concatenate([before.codes, np.full(len(places), code)]),
        before.names,
    )
    return SurroundingsEdit(before, after, np.arange(len(before.codes)), places)


def test_poisson_regression_gives_the_ratio_of_two_groups() -> None:
    generator = np.random.default_rng(0)
    group = np.repeat([0.0, 1.0], 500)
    depth = generator.uniform(0.5, 2, 1_000)
    y = generator.poisson(np.exp(0.3 + 0.7 * group)[:, None] * depth[:, None], (1_000, 3)).astype(float)
    fitted = fit_poisson(group[:, None], y, depth, np.array([1e-9]))
    rates = [y[group == one].sum(axis=0) / depth[group == one].sum() for one in (0, 1)]
    np.testing.assert_allclose(fitted.coefficients[1], np.log(rates[1] / rates[0]), atol=1e-4)
    values, errors = fitted.contrasts(np.array([[0.0, 1.0]]), np.arange(1_000) // 20)
    # A Poisson count has a variance equal to its mean, so that the error of the log ratio is known.
    known = np.sqrt(sum(1 / y[group == one].sum(axis=0) for one in (0, 1)))
    np.testing.assert_allclose(errors[0], known, rtol=0.35)
    np.testing.assert_allclose(values[0], fitted.coefficients[1])


def test_the_nearest_cell_of_a_label_is_not_the_cell_itself() -> None:
    #  0 --10-- 1 --30-- 2; cells 0 and 1 have the label 0
    cells = LabelledCells(np.array([[0.0, 0], [10, 0], [40, 0]]), np.array([0, 0, 1]), ("a", "b"))
    rows = np.arange(3)
    assert cells.distances(cells.xy_um, rows, 0).tolist() == [10, 10, 30]
    assert cells.distances(cells.xy_um, rows, 1).tolist() == [40, 30, np.inf]


def test_planted_effects_are_found_and_nothing_else() -> None:
    scores = check_planted(PlantedRule(num_genes=160, sender_share=0.02), seed=0, num_cells=5_000)
    assert scores["right_sign"] >= 0.95
    assert scores["raised"] == pytest.approx(np.log2(3), rel=0.25)
    assert scores["lowered"] == pytest.approx(-np.log2(3), rel=0.25)
    assert scores["coverage"] >= 0.9
    assert scores["beyond_range"] <= 0.05
    assert scores["false_calls"] <= 0.05


@pytest.mark.parametrize("rule", ["none", "confounded"])
def test_no_effect_is_called_without_one(rule) -> None:
    scores = check_planted(PlantedRule(rule=rule, num_genes=160), seed=0, num_cells=5_000)
    assert scores["called"] <= 0.05
    assert scores["false_calls"] <= 0.05
    # Stroma explains what T cells seem to do.
    assert (scores["mean_shift"] > 0.2) == (rule == "confounded")


def test_no_edit_gives_no_effect(planted) -> None:
    estimate = estimate_response(planted.slide, inject(planted, np.empty((0, 2))), 0)
    assert estimate.effects.empty
    assert estimate.edited == ()


def test_an_edit_changes_nothing_beyond_its_reach(planted) -> None:
    edit = inject(planted, planted.slide.xy_um[:1])
    design = choose_design(edit.before, planted.slide.radius_um, edit.edited)
    rows = edit.residents
    before, after = (design.predictors(cells, rows, planted.slide.xy_um) for cells in (edit.before, edit.after))
    distance = np.linalg.norm(planted.slide.xy_um - edit.places_um, axis=1)
    assert (before != after).any()
    assert not (before != after)[distance >= 6 * planted.slide.radius_um].any()


def test_the_response_does_not_depend_on_the_order_of_the_cells(planted) -> None:
    slide, generator = planted.slide, np.random.default_rng(1)
    places = slide.xy_um[generator.integers(slide.num_cells, size=60)] + 3.0
    order = generator.permutation(slide.num_cells)
    shuffled = replace(
        planted,
        labels=planted.labels[order],
        slide=replace(
            slide,
            xy_um=slide.xy_um[order],
            total_counts=slide.total_counts[order],
            source=MemoryCounts(slide.counts(order)),
        ),
    )
    first, second = (
        estimate_response(one.slide, inject(one, places), 0).effects.sort_values(["label", "band_low_um", "gene"])
        for one in (planted, shuffled)
    )
    assert len(first)
    np.testing.assert_allclose(first["log2_change"], second["log2_change"], atol=1e-6)
    np.testing.assert_allclose(first["shuffled"], second["shuffled"], atol=1e-4)
    np.testing.assert_allclose(first["q"], second["q"], atol=1e-4)


def test_removal_is_the_opposite_of_injection(planted) -> None:
    """Residents that lose their only T cells change by as much as those that get their first, with the other sign."""
    before = labelled(planted)
    code = before.names.index("T cell")
    removed = before.of(code)
    after = replace(before, codes=np.where(before.codes == code, -1, before.codes))
    edit = SurroundingsEdit(before, after, np.flatnonzero(before.codes != code), before.xy_um[removed])
    effects = estimate_response(planted.slide, edit, 0).effects
    own = effects[(effects["label"] == "epithelial cell") & (effects["band_high_um"] <= 30)]
    assert own.loc[own["gene"].isin(planted.raised), "log2_change"].mean() == pytest.approx(-np.log2(3), rel=0.25)
    assert own.loc[own["gene"].isin(planted.lowered), "log2_change"].mean() == pytest.approx(np.log2(3), rel=0.25)


def test_validation_of_a_slide_without_regions_says_so(planted, monkeypatch) -> None:
    monkeypatch.setattr("cifm_cli.response.validation.check_all_planted", lambda _seed: [])
    few = LabelledCells(planted.slide.xy_um[:40], labelled(planted).codes[:40], labelled(planted).names)
    facts = validate_response(planted.slide.subset(np.arange(40)), few, 0)
    assert facts["held_out"]["pairs"] == []
    assert "no label has enough cells" in facts["sentence"]
    assert held_out_table(facts).rows == []


def test_genes_of_the_edited_cells_themselves_are_pointed_out(planted: PlantedTissue) -> None:
    """Markers of T cells are expressed more by T cells than by epithelium; planted genes are not."""
    places = planted.slide.xy_um[planted.labels == "epithelial cell"][::40] + 1.0
    estimate = estimate_response(planted.slide, inject(planted, places), 0)
    effects = estimate.effects
    epithelium = effects[effects["label"] == "epithelial cell"].drop_duplicates("gene").set_index("gene")
    is_t_cell, is_epithelium = planted.labels == "T cell", planted.labels == "epithelial cell"
    counts = planted.slide.counts(np.arange(planted.slide.num_cells)).toarray()
    fraction = [counts[rows].sum(axis=0) / counts[rows].sum() for rows in (is_t_cell, is_epithelium)]
    symbols = list(planted.slide.symbols)
    expected = [fraction[0][symbols.index(gene)] / fraction[1][symbols.index(gene)] for gene in epithelium.index]
    np.testing.assert_allclose(epithelium["log2_edited_ratio"], np.log2(expected), atol=0.15)
    marker = epithelium["log2_edited_ratio"].idxmax()
    spilled = effects.assign(called=effects["gene"] == marker, log2_change=1.0, log2_edited_ratio=3.0)
    notes = response_notes(replace(estimate, effects=spilled))
    assert any("transcripts of the neighbours" in note and str(marker) in note for note in notes)
    sentence = describe_response(replace(estimate, effects=spilled))
    assert "no gene is called; 1 gene may rise only through transcripts of T cell itself" in sentence
    unlike = replace(estimate, effects=spilled.assign(log2_edited_ratio=1.0))
    assert "1 gene rises in epithelial cell" in describe_response(unlike)
    assert "transcripts" not in describe_response(unlike)
    assert not any("transcripts of the neighbours" in note for note in response_notes(unlike))


def test_a_combination_that_the_slide_never_shows_has_no_finite_interval(planted: PlantedTissue) -> None:
    """Here the slide has no T cell at all, so nothing is known of residents near one."""
    is_t_cell = planted.labels == "T cell"
    without = replace_labels(planted, np.where(is_t_cell, "fibroblast", planted.labels))
    places = planted.slide.xy_um[planted.labels == "epithelial cell"][::40] + 1.0
    effects = estimate_response(planted.slide, without(places), 0).effects
    assert len(effects)
    assert np.isinf(effects["high"] - effects["low"]).all()
    assert not effects["called"].any()


def replace_labels(planted: PlantedTissue, labels: np.ndarray) -> Callable[[np.ndarray], SurroundingsEdit]:
    """Injection of T cells into a tissue whose cells have other labels."""
    names = tuple(sorted({*labels.tolist(), "T cell"}))
    before = LabelledCells(planted.slide.xy_um, np.searchsorted(names, labels), names)

    def inject_at(places: np.ndarray) -> SurroundingsEdit:
        codes = np.concatenate([before.codes, np.full(len(places), names.index("T cell"))])
        after = LabelledCells(np.concatenate([before.xy_um, places]), codes, names)
        return SurroundingsEdit(before, after, np.arange(len(before.codes)), places)

    return inject_at
