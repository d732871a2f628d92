"""The parts of a simulation: window, positions, sampling, schedule, expected counts, summaries."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.stats import chisquare, poisson

from cifm_cli.errors import CifmError
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation import summary
from cifm_cli.simulation.config import UpdateSchedule
from cifm_cli.simulation.dynamics import expected_counts
from cifm_cli.simulation.edits.places import tissue_area
from cifm_cli.simulation.experiment import CONTROL, TREATED, Trajectory
from cifm_cli.simulation.sampling import _poisson_quantile, draw_category, draw_counts, match_depths
from cifm_cli.simulation.source_cells import SourceCells, downsample
from cifm_cli.simulation.state_sampler import _fit_weights
from cifm_cli.simulation.window import choose_window

# A tissue of nine cells, 10 um apart, and one far away:
#
#     0  1  2
#     3  4  5          9
#     6  7  8
GRID = np.array([(10.0 * x, 10.0 * y) for y in range(3) for x in range(3)] + [(500.0, 10.0)])


def test_without_a_crop_the_window_is_the_whole_slide() -> None:
    window = choose_window(GRID, None, 10)
    assert window.rows.tolist() == list(range(10))
    assert window.box_um == (0, 0, 500, 20)


def test_cells_on_the_border_of_a_crop_are_inside() -> None:
    assert choose_window(GRID, (10, 0, 20, 10), 100).rows.tolist() == [1, 2, 4, 5]


def test_a_window_that_is_too_large_becomes_a_square_in_the_middle() -> None:
    window = choose_window(np.vstack([GRID, GRID[:9]]), None, 2)
    assert window.rows.tolist() == [4, 14]
    assert choose_window(GRID[:9], (0, 0, 20, 20), 9).rows.tolist() == list(range(9))


def test_the_error_of_an_empty_crop_names_the_extent_of_the_slide() -> None:
    with pytest.raises(CifmError, match="no cell in the box") as error:
        choose_window(GRID, (600, 0, 700, 10), 100)
    assert "0,0,500,20" in error.value.hint


def test_positions_are_uniform_in_the_tissue() -> None:
    """Three identical discs get as many positions as one disc, because the density is uniform over the area."""
    tissue = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [100.0, 0.0]])
    positions = tissue_area(tissue, 10.0).draw(4_000, numpy_generator(0))
    distance = np.linalg.norm(positions[:, None] - tissue, axis=2).min(axis=1)
    assert distance.max() <= 10.0
    left = (positions[:, 0] < 50).mean()
    assert abs(left - 0.5) < 0.04, left
    inner = (distance < 10 / np.sqrt(2)).mean()
    assert abs(inner - 0.5) < 0.04, inner


def test_deep_source_cells_are_downsampled() -> None:
    counts = csr_matrix(np.array([[4_000, 0, 4_000], [10, 0, 0], [0, 0, 0]], dtype=np.float32))
    downsampled = downsample(SourceCells("T cell", counts, np.array([8_000.0, 10.0, 0.0])), 40.0, numpy_generator(0))
    assert downsampled.counts.shape == (2, 3)
    assert 20 < downsampled.total_counts[0] < 60
    assert downsampled.counts.toarray()[1].tolist() == [10, 0, 0]
    assert np.asarray(downsampled.counts.sum(axis=1)).ravel().tolist() == downsampled.total_counts.tolist()


@given(st.integers(0, 60), st.integers(1, 12), st.integers(0, 10_000))
def test_drawn_counts_have_the_depth_and_stay_in_the_profile(depth: int, num_genes: int, seed: int) -> None:
    generator = numpy_generator(seed)
    profile = generator.dirichlet(np.ones(num_genes), size=3)
    profile[:, : num_genes // 2] = 0
    profile /= profile.sum(axis=1, keepdims=True)
    counts = draw_counts(profile, np.full(3, depth), numpy_generator(seed, "draw"))
    assert counts.sum(axis=1).tolist() == [depth] * 3
    assert counts.min() >= 0
    assert not counts[:, : num_genes // 2].any()


def test_drawn_counts_are_multinomial() -> None:
    profile = np.array([0.5, 0.3, 0.15, 0.05])
    counts = draw_counts(np.tile(profile, (4_000, 1)), np.full(4_000, 6), numpy_generator(0))
    assert chisquare(counts.sum(axis=0), 24_000 * profile).pvalue > 1e-3
    variance, expected = counts.var(axis=0), 6 * profile * (1 - profile)
    assert np.abs(variance / expected - 1).max() < 0.1


def test_a_small_change_of_the_profile_changes_few_counts() -> None:
    """With common random numbers per gene few counts change; inverting one distribution over all genes changes most."""
    first = np.full((200, 300), 1 / 300)
    second = first.copy()
    second[:, 0] *= 4  # one per cent of the expression
    second /= second.sum(axis=1, keepdims=True)
    depths = np.full(200, 30)
    counts = [draw_counts(profile, depths, numpy_generator(0)) for profile in (first, second)]
    changed = np.abs(counts[0] - counts[1]).sum() / 2 / depths.sum()
    assert 0.005 < changed < 0.05, changed


def test_matching_depths_removes_only_existing_counts() -> None:
    counts = np.array([[5, 0, 3], [1, 1, 1]])
    matched = match_depths(counts, counts.astype(float), np.array([2, 3]), numpy_generator(0))
    assert matched.sum(axis=1).tolist() == [2, 3]
    assert (matched <= counts).all()


def test_a_weight_of_zero_is_never_drawn() -> None:
    """Single precision rounds about one waiting time in a million to zero; here all of them are zero."""
    zero_times = SimpleNamespace(standard_exponential=lambda shape, **_: np.zeros(shape))
    counts, profile = np.array([[0, 3, 0], [0, 1, 0]]), np.array([[0, 1.0, 0], [0, 0, 1.0]])
    assert match_depths(counts, profile, np.array([1, 3]), zero_times).tolist() == [[0, 1, 0], [0, 1, 2]]
    assert draw_category(profile, zero_times).tolist() == [1, 2]


def test_poisson_quantiles_are_those_of_scipy() -> None:
    generator = numpy_generator(0)
    uniform, mean = generator.random((40, 50)), generator.gamma(1.0, 5.0, (40, 50))
    mean[0] = 0
    assert np.array_equal(_poisson_quantile(uniform, mean), poisson.ppf(uniform, mean).clip(min=0))
    assert _poisson_quantile(np.array([[0.3]]), np.array([[900.5]]))[0, 0] == 901


def test_categories_are_drawn_in_proportion_to_their_weights() -> None:
    drawn = draw_category(np.tile([0.0, 3.0, 1.0], (8_000, 1)), numpy_generator(0))
    frequency = np.bincount(drawn, minlength=3) / 8_000
    assert frequency[0] == 0
    assert abs(frequency[1] - 0.75) < 0.02


@given(st.integers(1, 60), st.sampled_from([0.05, 0.1, 0.3, 0.5]), st.integers(0, 50))
def test_a_sweep_updates_every_cell_once(num_cells: int, fraction: float, seed: int) -> None:
    schedule = UpdateSchedule(None, fraction, "state", seed)
    sweep = schedule.steps_per_sweep
    for first in (0, sweep):
        cells = np.concatenate([schedule.cells_to_update(num_cells, 0, first + step) for step in range(sweep)])
        assert np.array_equal(np.sort(cells), np.arange(num_cells))
    assert schedule.steps == 2 * sweep


def test_replicates_have_different_schedules() -> None:
    schedule = UpdateSchedule(5, 0.1, "state", 0)
    assert schedule.steps == 5
    assert not np.array_equal(schedule.cells_to_update(100, 0, 0), schedule.cells_to_update(100, 1, 0))


def test_expected_counts_invert_the_logarithm() -> None:
    """Gene 0: every cell at level 2. Gene 1: one cell in three at level 6. Gene 2: an inconsistent prediction stays finite."""
    mean = np.array([[2.0, 2.0, 3.0]], dtype=np.float32)
    expressed = np.array([[1.0, 1 / 3, 0.0]], dtype=np.float32)
    prediction = Prediction(mean, expressed)
    sample = expected_counts(prediction, "sample", 1e4)[0]
    assert sample[:2] == pytest.approx([np.expm1(2), np.expm1(6) / 3], rel=1e-5)
    assert sample[2] == 0
    assert expected_counts(prediction, "mean", 1e4)[0] == pytest.approx(np.expm1(mean[0]))
    assert expected_counts(prediction, "gated", 1e4)[0] == pytest.approx([np.expm1(2), np.expm1(2), 0])


# Four residents of types a, b and unassigned over one step, two replicates:
#
#              before   control   treated
#   replicate 0  a a b -   a a b -   a b b -
#   replicate 1  a a b -   a b b -   b b b -
NAMES = ("a", "b", "unassigned")
TRAJECTORIES = [
    Trajectory(arm, replicate, np.array([[0, 0, 1, 2], after], dtype=np.int16), SimpleNamespace())
    for replicate, arm, after in [
        (0, CONTROL, [0, 0, 1, 2]),
        (0, TREATED, [0, 1, 1, 2]),
        (1, CONTROL, [0, 1, 1, 2]),
        (1, TREATED, [1, 1, 1, 2]),
    ]
]


def test_the_change_is_treated_minus_control() -> None:
    change = summary.composition_change(TRAJECTORIES, NAMES)
    assert list(change) == ["a", "b", "unassigned"]
    assert change["a"] == {
        "before": 0.5,
        "control": 0.375,
        "treated": 0.125,
        "difference": -0.25,
        "replicates": [-0.25, -0.25],
        "standard_deviation": 0.0,
        "kept": 0.75,
        "low": -0.25,
        "high": -0.25,
    }
    assert summary.composition_change(TRAJECTORIES[:2], NAMES)["b"]["standard_deviation"] is None
    assert summary.control_drift(TRAJECTORIES, NAMES) == 0.125


def test_rows_of_the_tables() -> None:
    composition = summary.composition_table(TRAJECTORIES[:2], NAMES)
    assert len(composition) == 2 * 2 * 3
    assert list(composition.head(3).itertuples(index=False, name=None)) == [
        ("control", 0, 0, "a", 2, 0.5),
        ("control", 0, 0, "b", 1, 0.25),
        ("control", 0, 0, "unassigned", 1, 0.25),
    ]
    transitions = summary.transition_table(TRAJECTORIES[1:2], NAMES)
    assert list(transitions.itertuples(index=False, name=None)) == [
        ("treated", 0, "a", "a", 1, 0.5),
        ("treated", 0, "a", "b", 1, 0.5),
        ("treated", 0, "b", "b", 1, 1.0),
        ("treated", 0, "unassigned", "unassigned", 1, 1.0),
    ]


def test_transitions_are_pooled_over_replicates() -> None:
    fractions = summary.mean_transitions(TRAJECTORIES, TREATED, 4)
    assert fractions[0].tolist() == [0.25, 0.75, 0, 0]
    assert np.isnan(fractions[3]).all()


def test_reweighted_states_are_as_frequent_as_in_the_tissue() -> None:
    """One state is predicted too often, and one state has no cell in the tissue."""
    generator = np.random.default_rng(0)
    predicted = generator.dirichlet([4, 1, 1, 2], size=500).astype(np.float32)
    frequency = np.array([0.2, 0.5, 0.3, 0.0])
    weighted = predicted * _fit_weights(predicted, frequency)
    mean = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
    assert mean == pytest.approx(frequency, abs=1e-6)
