"""Spatial blocks, paired bootstrap and corrected p-values, on tissues with known results."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import (
    MIN_BLOCKS,
    NUM_DRAWS,
    Bootstrap,
    PairedDifference,
    Statistic,
    compare_over_slides,
    holm,
    paired_difference,
    spatial_bootstrap,
)


def two_blocks() -> Bootstrap:
    """Three draws of two blocks: each once, the first twice, the second twice.

    0 0 | 1
    """
    return Bootstrap(np.array([0, 0, 1]), np.array([[1.0, 1], [2, 0], [0, 2]]), side_um=10.0)


def test_a_drawn_block_contributes_all_its_cells() -> None:
    assert two_blocks().mean(np.array([1.0, 3, 8])) == pytest.approx([4, 2, 8])


def test_a_ratio_is_of_sums_and_zero_if_the_denominator_is_zero() -> None:
    found = two_blocks().ratio(np.array([1.0, 3, 8]), np.array([2.0, 2, 0]))
    assert found == pytest.approx([12 / 4, 8 / 8, 0])


def test_correlations_from_block_sums_are_those_of_the_cells_drawn() -> None:
    generator = numpy_generator(0)
    x, y = generator.normal(3, 1, (2, 5, 40)).astype(np.float32)
    y[0], x[1, :20] = 2.0, 7.0  # a gene constant everywhere, and one constant in the first block
    block = np.repeat([0, 1], 20)
    draws = Bootstrap(block, np.array([[1.0, 1], [2, 0], [1, 2]]), side_um=10.0)
    for found, cells in zip(
        draws.correlation(x, y), [np.arange(40), np.arange(20), np.r_[0:20, 20:40, 20:40]], strict=True
    ):
        with np.errstate(invalid="ignore", divide="ignore"):
            by_gene = [np.corrcoef(a[cells], b[cells])[0, 1] for a, b in zip(x, y, strict=True)]
        constant = [np.ptp(a[cells]) == 0 or np.ptp(b[cells]) == 0 for a, b in zip(x, y, strict=True)]
        assert found == pytest.approx(np.where(constant, 0, by_gene).mean(), abs=1e-6)


def test_blocks_are_squares_of_ten_radii() -> None:
    grid = np.stack(np.meshgrid(np.arange(100), np.arange(100)), axis=-1).reshape(-1, 2) * 20.0  # 1,980 um wide
    blocks = spatial_bootstrap(grid, 20.0, seed=0)
    assert (blocks.side_um, blocks.num_blocks, blocks.weights.shape) == (200.0, 100, (NUM_DRAWS, 100))
    assert (np.bincount(blocks.block) == 100).all()
    assert (blocks.weights.sum(axis=1) == 100).all()
    for block in range(100):
        assert np.ptp(grid[blocks.block == block], axis=0).max() < 200.0


def test_a_small_tissue_has_smaller_blocks() -> None:
    xy_um = numpy_generator(0).uniform(0, 300, (500, 2))
    assert 25 <= spatial_bootstrap(xy_um, 20.0, seed=0).num_blocks <= 49


def compare_means(bootstrap: Bootstrap, model: np.ndarray, reference: np.ndarray) -> PairedDifference:
    model_mean, reference_mean = (Statistic(float(x.mean()), bootstrap.mean(x)) for x in (model, reference))
    return bootstrap.compare(model_mean, reference_mean)


@pytest.mark.parametrize(("num_cells", "width_um"), [(1, 0.0), (5, 4.0), (6, 60.0)])
def test_too_few_blocks_leave_a_difference_undecided(num_cells: int, width_um: float) -> None:
    xy_um = np.c_[np.linspace(0, width_um, num_cells), np.zeros(num_cells)]
    bootstrap = spatial_bootstrap(xy_um, 20.0, seed=0)
    assert bootstrap.num_blocks < MIN_BLOCKS
    assert not bootstrap.decidable
    values = 1 + numpy_generator(0).random(num_cells)
    for sign in (1, -1):
        paired = compare_means(bootstrap, sign * (values + 1), sign * values)
        assert paired.low <= 0 <= paired.high
        assert paired.low < paired.high
        assert (paired.p, paired.decided) == (1, False)
    genes = numpy_generator(1).random((3, num_cells)).astype(np.float32)
    assert np.isfinite(bootstrap.correlation(genes, genes)).all()


def test_a_row_of_cells_is_divided_into_blocks() -> None:
    xy_um = np.c_[np.linspace(0, 1_000, 200), np.zeros(200)]
    bootstrap = spatial_bootstrap(xy_um, 20.0, seed=0)
    assert 30 <= bootstrap.num_blocks <= 50
    assert (np.bincount(bootstrap.block) > 1).all()
    values = 1 + numpy_generator(0).random(200)
    paired = compare_means(bootstrap, values, 0 * values)
    assert paired.p < 0.01
    assert paired.decided


def test_the_same_seed_gives_the_same_draws() -> None:
    xy_um = numpy_generator(0).uniform(0, 2000, (500, 2))
    first, again, other = (spatial_bootstrap(xy_um, 20.0, seed).weights for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pairing_removes_shared_variation() -> None:
    bootstrap = spatial_bootstrap(numpy_generator(0).uniform(0, 2000, (500, 2)), 20.0, seed=0)
    shared = numpy_generator(0).normal(0, 5, 500)
    paired = compare_means(bootstrap, shared - 0.1, shared)
    assert (paired.low, paired.high) == pytest.approx((-0.1, -0.1))


def test_the_interval_has_its_nominal_coverage() -> None:
    """Errors are equal within a block; 95 % intervals of a mean of zero must nearly always include zero."""
    generator = numpy_generator(1)
    weights = generator.multinomial(60, np.full(60, 1 / 60), 500).astype(float)
    bootstrap = Bootstrap(np.repeat(np.arange(60), 10), weights, side_um=1.0)
    covered = 0
    for _ in range(200):
        values = np.repeat(generator.normal(size=60), 10)
        paired = compare_means(bootstrap, values, np.zeros(600))
        covered += paired.low <= 0 <= paired.high
    assert 0.88 <= covered / 200 <= 0.99


def test_p_values_by_hand() -> None:
    draws = np.array([1.0, 2, 3, -1])  # one of four has the other sign
    assert paired_difference(1.25, draws, decidable=True).p == 2 * 2 / 5
    assert paired_difference(6.25, draws + 5, decidable=True).p == 2 * 1 / 5
    assert paired_difference(0.0, 0 * draws, decidable=True).p == 1
    assert paired_difference(6.25, draws + 5, decidable=False).p == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_at_least_as_strict_as_benjamini_and_hochberg(p_values: list[float]) -> None:
    corrected = np.array(holm(p_values))
    assert (corrected >= np.array(p_values)).all()
    assert (corrected >= false_discovery_control(p_values) - 1e-12).all()


def test_slides_are_resampled_before_blocks() -> None:
    draws = np.array([[0.0] * 500, [1.0] * 500])  # means of two slides are 0, 0.5 or 1
    paired = compare_over_slides([0.0, 1.0], draws, seed=0, decidable=True)
    assert (paired.difference, paired.low, paired.high, paired.decided) == (0.5, 0, 1, False)


def test_slides_of_a_group_are_drawn_together() -> None:
    """Group A has the differences 0 and 3, B has 6: draws are A A (mean 1.5), A B (3) and B B (6)."""
    differences = [0.0, 6.0, 3.0]
    draws = np.repeat(differences, 400).reshape(3, 400)
    groups = ["A", "B", "A"]
    paired = compare_over_slides(differences, draws, seed=0, decidable=True, groups=groups)
    assert (paired.difference, paired.low, paired.high) == (3, 1.5, 6)
    # Slides that are drawn by themselves also give means of three times the same slide.
    alone = compare_over_slides(differences, draws, seed=0, decidable=True)
    assert (alone.low, alone.high) == (0, 6)


def test_groups_of_one_slide_are_slides() -> None:
    draws = numpy_generator(0).normal(size=(4, 300))
    differences = draws.mean(axis=1).tolist()
    alone = compare_over_slides(differences, draws, seed=3, decidable=True)
    assert compare_over_slides(differences, draws, seed=3, decidable=True, groups=list("dbca")) == alone


def test_blocks_of_the_slides_of_a_group_are_drawn_separately() -> None:
    """The blocks of two slides vary with opposite signs on the same draws; together they vary nevertheless."""
    draws = np.stack([np.linspace(-1, 1, 500), -np.linspace(-1, 1, 500)])
    paired = compare_over_slides([0.0, 0.0], draws, seed=0, decidable=True, groups=["A", "A"])
    assert paired.low < -0.3
    assert paired.high > 0.3


def test_slides_of_too_few_blocks_leave_their_mean_undecided() -> None:
    draws = np.full((2, 500), 1.0)
    assert compare_over_slides([1.0, 1.0], draws, seed=0, decidable=True).decided
    together = compare_over_slides([1.0, 1.0], draws, seed=0, decidable=False)
    assert (together.low, together.high, together.p, together.decided) == (0, 1, 1, False)
