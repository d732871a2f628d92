"""Held-out neighbours: what the surroundings tell of hidden cells, on tissues in which the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.data.slide import Slide
from cifm_cli.response.held_out.log_changes import TOP_GENES, correlation, log_change, most_changed, rates_of
from cifm_cli.response.held_out.neighbourhoods import Neighbourhoods, adjacency, describe
from cifm_cli.response.held_out.pairs import held_out_neighbours
from cifm_cli.response.held_out.predictors import PREDICTORS
from cifm_cli.response.held_out.regions import Grid, Regions, add_own_label, group_cells, summarise
from cifm_cli.response.held_out.regression import infer
from cifm_cli.response.held_out.signals import Split, non_negative_least_squares
from cifm_cli.response.held_out.state_regression import RegionStates
from cifm_cli.response.surroundings import LabelledCells

NAMES = ("hidden", "neighbour", "other")
SIDE_UM, NUM_GENES, RADIUS_UM = 2_000.0, 60, 20.0


def tissue(amplitude: float, seed: int = 0) -> tuple[Slide, LabelledCells]:
    """A tissue of three mixed labels, in which every gene varies over space alike in all labels."""
    generator = np.random.default_rng(seed)
    num_cells = 2_700
    xy_um = generator.uniform(0, SIDE_UM, (num_cells, 2))
    codes = generator.integers(3, size=num_cells)
    waves = np.sin(xy_um @ generator.normal(0, 2 * np.pi / SIDE_UM, (2, 4)) + generator.uniform(0, 6, 4))
    log_rates = generator.normal(0, 0.5, (3, NUM_GENES))[codes]
    log_rates = log_rates + amplitude * waves @ generator.normal(0, 0.7, (4, NUM_GENES))
    counts = csr_matrix(generator.poisson(2 * np.exp(log_rates)).astype(np.float32))
    ids = tuple(f"ENSG{gene}" for gene in range(NUM_GENES))
    # The depth is the same for all, so that a gene does not fall because others rise
    total = np.full(num_cells, 2.0 * NUM_GENES)
    split = np.zeros(num_cells, dtype=np.int8)
    slide = Slide("tissue", xy_um, total, split, ids, ids, RADIUS_UM, MemoryCounts(counts))
    return slide, LabelledCells(xy_um, codes, NAMES)


def scores(amplitude: float) -> dict[str, np.ndarray]:
    pairs = held_out_neighbours(*tissue(amplitude), 0, (0,))
    assert len(pairs) == 6
    return {name: np.array([pair["predictors"][name]["pearson"] for pair in pairs]) for name in PREDICTORS}


def test_what_varies_with_the_neighbours_is_inferred() -> None:
    of = scores(0.5)
    assert of["neighbour_regression"].min() > 0.8
    assert of["with_own_label"].min() > 0.8
    assert abs(of["shuffled"].mean()) < 0.3
    assert (of["no_change"] == 0).all()


def test_nothing_is_inferred_where_nothing_varies() -> None:
    of = scores(0.0)
    assert abs(of["neighbour_regression"].mean()) < 0.25
    assert abs(of["with_own_label"].mean()) < 0.25


@pytest.fixture(scope="module")
def hidden_region() -> tuple[Neighbourhoods, np.ndarray, np.ndarray, Grid]:
    """Cells of a label, those that are hidden and those that may be fitted to, and the squares."""
    slide, cells = tissue(0.5)
    held = describe(slide, cells, 0, cells.of(0), cells.of(0))
    grid = Grid(np.zeros(2), 20 * RADIUS_UM)
    low = np.array([400.0, 800.0])
    outside = np.maximum(low - held.xy_um, held.xy_um - low - grid.side_um).max(axis=1)
    return held, outside <= 0, outside > 100, grid


def regions_of(held: Neighbourhoods, hidden: np.ndarray, fitted: np.ndarray, grid: Grid) -> Regions:
    targets = [np.flatnonzero(hidden), np.flatnonzero(fitted)[:50]]
    return summarise(held, np.zeros_like(held.rates), group_cells(held, targets, fitted, grid))


def infer_both(held: Neighbourhoods, hidden: np.ndarray, fitted: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """The regression without and with neighbours of the own label."""
    regions = regions_of(held, hidden, fitted, grid)
    states = RegionStates.describe(regions, Split(regions, regions.is_practice).base)
    both = (regions, add_own_label(regions, held, hidden))
    return [infer(each, states, np.random.default_rng(0)) for each in both]


def test_the_hidden_cells_are_not_looked_at(hidden_region) -> None:
    held, hidden, fitted, grid = hidden_region
    known = infer_both(held, hidden, fitted, grid)
    rates, depth = held.rates.copy(), held.depth.copy()
    rates[hidden] = np.random.default_rng(1).gamma(1.0, 3.0, rates[hidden].shape)
    changed = infer_both(replace(held, rates=rates, depth=depth), hidden, fitted, grid)
    for one, other in zip(known, changed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_cells_near_the_hidden_ones_count_only_as_neighbours_of_their_own_label(hidden_region) -> None:
    held, hidden, fitted, grid = hidden_region
    known = infer_both(held, hidden, fitted, grid)
    rates = np.where((hidden | fitted)[:, None], held.rates, 10 * held.rates[:, ::-1])
    assert not (hidden | fitted).all()
    strict, with_own = infer_both(replace(held, rates=rates), hidden, fitted, grid)
    np.testing.assert_array_equal(strict, known[0])
    assert not np.allclose(with_own, known[1])


def test_regions_that_do_not_overlap_have_no_cell_in_common(hidden_region) -> None:
    regions = regions_of(*hidden_region)
    cells = regions.groups.cells
    for row in np.flatnonzero(regions.groups.is_square)[::5]:
        apart = np.flatnonzero(regions.do_not_overlap(np.array([row])))
        assert len(apart)
        assert not np.isin(np.concatenate([cells[one] for one in apart]), cells[row]).any()


def test_squares_of_the_grid_divide_the_fitted_cells(hidden_region) -> None:
    held, hidden, fitted, grid = hidden_region
    regions = regions_of(held, hidden, fitted, grid)
    squares = [regions.groups.cells[row] for row in np.flatnonzero(regions.groups.is_square)]
    assert np.array_equal(np.sort(np.concatenate(squares)), np.flatnonzero(fitted))
    split = Split(regions, regions.is_practice)
    np.testing.assert_allclose(split.base, held.depth[fitted] @ held.rates[fitted] / held.depth[fitted].sum())


def test_neighbours_of_other_labels_are_counted_once(hidden_region) -> None:
    """Sums by label are the same as those of all neighbours together."""
    held, hidden, fitted, grid = hidden_region
    regions = regions_of(held, hidden, fitted, grid)
    row = 5
    own = regions.groups.cells[row]
    share = held.depth[own] / held.depth[own].sum()
    expected = share @ (held.near[own] @ held.neighbours.counts).toarray()
    np.testing.assert_allclose(regions.observed[:, row].sum(axis=0), expected)


def test_a_cell_is_no_neighbour_of_itself() -> None:
    #  0 --10-- 1 --30-- 2
    xy_um = np.array([[0.0, 0], [10, 0], [40, 0]])
    assert adjacency(xy_um, xy_um, 35.0).toarray().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


@given(st.floats(0, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 10))
def test_a_log_change_is_inverted(rate: float, base: float, floor: float) -> None:
    change = log_change(np.array([rate]), np.array([base]), floor)
    np.testing.assert_allclose(rates_of(change, np.array([base]), floor), [rate], rtol=1e-6, atol=1e-9 * (base + floor))


def test_genes_are_chosen_by_their_change_in_standard_errors() -> None:
    base, variance = np.ones(100), np.ones(100)
    rates = base + np.linspace(0, 1, 100)
    variance[99] = 1e6
    chosen = most_changed(rates, base, variance, 100)
    assert chosen.tolist() == list(range(98, 98 - TOP_GENES, -1))


def test_a_constant_has_no_correlation() -> None:
    assert correlation(np.ones(5), np.arange(5.0)) == 0
    assert correlation(np.arange(5.0), 2 * np.arange(5.0) + 1) == pytest.approx(1)


def test_least_squares_without_negative_weights() -> None:
    x = np.random.default_rng(0).normal(size=(3, 200))
    gram = x @ x.T
    np.testing.assert_allclose(non_negative_least_squares(gram, gram @ [2.0, 0.0, 1.0]), [2, 0, 1], atol=1e-5)
    assert non_negative_least_squares(gram, gram @ [2.0, -1.0, 1.0])[1] == 0
